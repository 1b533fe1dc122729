package firecracker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// script puts a file in the place of firecracker.
func script(t *testing.T, text string, mode os.FileMode) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, program), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

const answers = "#!/bin/sh\nprintf 'Firecracker v1.14.4\\n\\n2026-01-02T03:04:05 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\\n'\n"

// foreign is the start of an ELF file for a machine that no host of ours is.
const foreign = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf7\x00"

func TestFindBinary(t *testing.T) {
	for _, tc := range []struct {
		name, text    string
		mode          os.FileMode
		wantErr, hint string
	}{
		{"good", answers, 0o755, "", ""},
		{"not executable", answers, 0o644, "cannot be executed", "chmod"},
		{"another architecture", foreign, 0o755, "for another architecture", "install the release"},
		{"too old", "#!/bin/sh\necho Firecracker v1.9.1\n", 0o755, "is Firecracker 1.9.1", "agentkernel setup"},
		{"another program", "#!/bin/sh\necho hello\n", 0o755, "names no version", "agentkernel setup"},
		{"broken", "#!/bin/sh\nexit 3\n", 0o755, "exit status 3", "agentkernel setup"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := script(t, tc.text, tc.mode)
			t.Setenv("PATH", dir)
			b := binaries{dir: filepath.Join(dir, "missing")}
			bin, err := b.find(t.Context())
			if tc.wantErr == "" {
				if err != nil || bin.path != filepath.Join(dir, program) || bin.version.String() != "1.14.4" {
					t.Errorf("%+v, %v", bin, err)
				}
				return
			}
			var e *sandbox.Error
			if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || !strings.Contains(e.Hint, tc.hint) || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("%v, want an error with %q and a hint with %q", err, tc.wantErr, tc.hint)
			}
			// Another one that can be used is used.
			t.Setenv("PATH", dir+string(filepath.ListSeparator)+script(t, answers, 0o755))
			if _, err := b.find(t.Context()); err != nil {
				t.Errorf("with a good one behind it: %v", err)
			}
		})
	}
}

func TestBinaryMissing(t *testing.T) {
	dir := script(t, answers, 0o755)
	t.Chdir(dir)
	for name, path := range map[string]string{"nowhere": t.TempDir(), "only in the current directory": ".", "no PATH": ""} {
		t.Setenv("PATH", path)
		var b binaries
		_, err := b.find(t.Context())
		var e *sandbox.Error
		if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || e.Hint == "" || !strings.Contains(err.Error(), "there is no firecracker") {
			t.Errorf("%s: %v, want an error with a hint", name, err)
		}
	}
}

// Our own comes before that of PATH; a replaced one is asked anew.
func TestBinaryOfOurOwn(t *testing.T) {
	own := script(t, answers, 0o755)
	t.Setenv("PATH", script(t, "#!/bin/sh\necho Firecracker v1.16.1\n", 0o755))
	b := binaries{dir: own}
	if bin, err := b.find(t.Context()); err != nil || bin.version.String() != "1.14.4" {
		t.Fatalf("%+v, %v", bin, err)
	}
	newer := script(t, "#!/bin/sh\necho Firecracker v1.17.0-dev\n", 0o755)
	if err := os.Rename(filepath.Join(newer, program), filepath.Join(own, program)); err != nil {
		t.Fatal(err)
	}
	if bin, err := b.find(t.Context()); err != nil || bin.version.String() != "1.17.0" {
		t.Errorf("%+v, %v; want the new version", bin, err)
	}
}
