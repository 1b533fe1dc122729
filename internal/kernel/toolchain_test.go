package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCheckToolsNamesEveryMissingPackage(t *testing.T) {
	for _, c := range []struct {
		name       string
		arch, host Arch
		lacks      []string
		want       []string // packages, in order
	}{
		{"nothing", X86_64, X86_64, nil, nil},
		{"two tools and a header", X86_64, X86_64, []string{"flex", "patch", "gelf.h"}, []string{"flex", "patch", "libelf-dev"}},
		{"arm64 needs no libelf", AArch64, AArch64, []string{"gelf.h"}, nil},
		{"cross to arm64", AArch64, X86_64, []string{"aarch64-linux-gnu-gcc", "aarch64-linux-gnu-objcopy"},
			[]string{"gcc-aarch64-linux-gnu", "binutils-aarch64-linux-gnu"}},
		{"cross to x86_64", X86_64, AArch64, []string{"x86_64-linux-gnu-gcc"}, []string{"gcc-x86-64-linux-gnu"}},
		{"no compiler to look for headers with", X86_64, X86_64, []string{"gcc", "gelf.h"}, []string{"gcc"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			has := func(name string) bool { return !slices.Contains(c.lacks, name) }
			err := checkTools(context.Background(), c.arch, c.host,
				func(name string) (string, error) {
					if !has(name) {
						return "", errors.New("not found")
					}
					return "/usr/bin/" + name, nil
				},
				func(_ context.Context, name string) bool { return has(name) })
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var missing *MissingToolsError
			if !errors.As(err, &missing) {
				t.Fatalf("error %v", err)
			}
			var packages []string
			for _, m := range missing.Missing {
				packages = append(packages, m.Package)
			}
			if !slices.Equal(packages, c.want) {
				t.Errorf("packages %v, want %v", packages, c.want)
			}
			if !strings.Contains(err.Error(), "apt-get install "+strings.Join(c.want, " ")) {
				t.Errorf("error %q says not what to install", err)
			}
		})
	}
}

// note makes one ELF note.
func note(name string, typ uint32, desc []byte) []byte {
	pad := func(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(name)+1))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(desc)))
	out = binary.LittleEndian.AppendUint32(out, typ)
	out = append(out, pad([]byte(name+"\x00"))...)
	return append(out, pad(desc)...)
}

func TestHasNote(t *testing.T) {
	pvh := note("Xen", xenPhys32Entry, []byte{1, 2, 3, 4})
	other := note("Linux", 1, []byte("longer"))
	for name, c := range map[string]struct {
		notes []byte
		want  bool
	}{
		"alone":          {pvh, true},
		"behind another": {append(slices.Clone(other), pvh...), true},
		"other type":     {note("Xen", 5, nil), false},
		"other name":     {note("GNU", xenPhys32Entry, nil), false},
		"cut short":      {pvh[:len(pvh)-1], false},
		"empty":          {nil, false},
	} {
		if got := hasNote(c.notes, binary.LittleEndian.Uint32, "Xen", xenPhys32Entry); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzHasNote(f *testing.F) {
	f.Add(note("Xen", xenPhys32Entry, []byte{1}))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x12\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, notes []byte) {
		hasNote(notes, binary.LittleEndian.Uint32, "Xen", xenPhys32Entry) // must not panic
	})
}

func TestCheckMagic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Image")
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{strings.Repeat("\x00", 56) + imageMagic + "rest", true},
		{strings.Repeat("\x00", 56) + "none" + "rest", false},
		{"short", false},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkMagic(path, imageMagicOffset, imageMagic); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.text, err)
		}
	}
}
