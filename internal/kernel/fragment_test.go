package kernel

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/agentkernel/agentkernel/images"
)

func embedded(t *testing.T) fs.FS {
	t.Helper()
	tree, err := fs.Sub(images.Kernel, "kernel")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestParseFragment(t *testing.T) {
	for _, c := range []struct {
		name, text, want, err string
	}{
		{name: "forms", text: "# about\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\nCONFIG_D=\"-x\"\nCONFIG_E?=y\nCONFIG_F=0x10\n",
			want: "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\nCONFIG_D=\"-x\"\nCONFIG_E=y\nCONFIG_F=0x10\n"},
		{name: "modules do not exist here", text: "CONFIG_A=m", err: "f:1"},
		{name: "off by value", text: "CONFIG_A=n", err: "f:1"},
		{name: "no prefix", text: "A=y", err: "f:1"},
		{name: "line number", text: "CONFIG_A=y\nCONFIG_B y", err: "f:2"},
		{name: "commented out by mistake", text: "#CONFIG_A=y", err: "looks like a symbol"},
		{name: "trailing words", text: "# CONFIG_A is not set, really", err: "looks like a symbol"},
		{name: "quote left open", text: `CONFIG_A="x`, err: "f:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			symbols, err := parseFragment("f", []byte(c.text))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := writeSymbols(&out, symbols); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("wrote\n%s\nwant\n%s", out.String(), c.want)
			}
		})
	}
}

func TestJoinFragmentsRefusesTwoLinesForOneSymbol(t *testing.T) {
	a := []symbol{{Name: "CONFIG_A", Value: "y", Origin: "common.config:3"}}
	b := []symbol{{Name: "CONFIG_A", Value: "n", Origin: "x86_64.config:9"}}
	_, err := joinFragments(a, b)
	if err == nil || !strings.Contains(err.Error(), "common.config:3") || !strings.Contains(err.Error(), "x86_64.config:9") {
		t.Fatalf("error %v names not both places", err)
	}
}

func TestCheckSymbols(t *testing.T) {
	config, err := parseConfig(strings.NewReader(
		"# CONFIG_OFF is not set\nCONFIG_ON=y\nCONFIG_CPUS=64\nCONFIG_FORCED=y\nCONFIG_NAME=\"a=b\"\nCONFIG_N=n\n"))
	if err != nil {
		t.Fatal(err)
	}
	known := func(name string) bool { return name != "CONFIG_GONE" }
	for _, c := range []struct {
		name string
		want symbol
		err  []string // parts of the error; none is agreement
	}{
		{name: "on", want: symbol{Name: "CONFIG_ON", Value: "y"}},
		{name: "off", want: symbol{Name: "CONFIG_OFF", Value: "n"}},
		{name: "absent is off", want: symbol{Name: "CONFIG_ABSENT", Value: "n"}},
		{name: "n is off", want: symbol{Name: "CONFIG_N", Value: "n"}},
		{name: "string with =", want: symbol{Name: "CONFIG_NAME", Value: `"a=b"`}},
		{name: "dropped", want: symbol{Name: "CONFIG_OFF", Value: "y", Origin: "x.config:7"}, err: []string{"CONFIG_OFF", "wanted y, got n", "x.config:7"}},
		{name: "changed", want: symbol{Name: "CONFIG_CPUS", Value: "32"}, err: []string{"CONFIG_CPUS", "wanted 32, got 64"}},
		{name: "forced on", want: symbol{Name: "CONFIG_FORCED", Value: "n"}, err: []string{"CONFIG_FORCED", "wanted n, got y"}},
		{name: "unknown", want: symbol{Name: "CONFIG_GONE", Value: "y"}, err: []string{"CONFIG_GONE", "no such symbol"}},
		{name: "unknown, excused", want: symbol{Name: "CONFIG_GONE", Value: "y", IfKnown: true}},
		{name: "known, not excused", want: symbol{Name: "CONFIG_OFF", Value: "y", IfKnown: true}, err: []string{"CONFIG_OFF"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkSymbols([]symbol{c.want}, config, known)
			if (err != nil) != (len(c.err) > 0) {
				t.Fatalf("error %v", err)
			}
			for _, part := range c.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
}

func TestKconfigNames(t *testing.T) {
	names, err := kconfigNames(fstest.MapFS{
		"Kconfig":               {Data: []byte("config TOP\n\tbool\n")},
		"mm/Kconfig.debug":      {Data: []byte("menuconfig DEEP\n  config INDENTED\n# config NOT_THIS\n")},
		"mm/Makefile":           {Data: []byte("config NEITHER\n")},
		"Documentation/Kconfig": {Data: []byte("config DOC\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"CONFIG_TOP": true, "CONFIG_DEEP": true, "CONFIG_INDENTED": true,
		"CONFIG_NOT_THIS": false, "CONFIG_NEITHER": false, "CONFIG_DOC": false,
	} {
		if names[name] != want {
			t.Errorf("%s known: %v, want %v", name, names[name], want)
		}
	}
}

// The guest's hardening is not to be lost by an edit of a fragment.
func TestRecipesKeepHardening(t *testing.T) {
	everywhere := []string{"STACKPROTECTOR_STRONG", "VMAP_STACK", "RANDOMIZE_BASE", "STRICT_KERNEL_RWX", "HARDENED_USERCOPY",
		"FORTIFY_SOURCE", "SLAB_FREELIST_RANDOM", "SLAB_FREELIST_HARDENED", "SECCOMP_FILTER", "IPV6", "VSOCKETS", "TUN",
		"OVERLAY_FS", "EROFS_FS_ZIP", "SQUASHFS_ZSTD", "EXT4_FS", "VIRTIO_MMIO"}
	per := map[string][]string{
		"x86_64 6.1":   {"PVH", "RANDOMIZE_MEMORY", "PAGE_TABLE_ISOLATION", "RETPOLINE", "RETHUNK"},
		"x86_64 6.12":  {"PVH", "RANDOMIZE_MEMORY", "MITIGATION_PAGE_TABLE_ISOLATION", "MITIGATION_RETPOLINE", "MITIGATION_RETHUNK"},
		"aarch64 6.1":  {"UNMAP_KERNEL_AT_EL0", "ARM64_PAN", "ARM64_PTR_AUTH_KERNEL", "SERIAL_AMBA_PL011_CONSOLE"},
		"aarch64 6.12": {"UNMAP_KERNEL_AT_EL0", "ARM64_PAN", "ARM64_PTR_AUTH_KERNEL", "SERIAL_AMBA_PL011_CONSOLE"},
	}
	for name, own := range per {
		t.Run(name, func(t *testing.T) {
			arch, series, _ := strings.Cut(name, " ")
			r, err := loadRecipe(embedded(t), Arch(arch), series)
			if err != nil {
				t.Fatal(err)
			}
			on := map[string]bool{}
			for _, s := range r.Symbols {
				on[s.Name] = s.Value == "y"
			}
			for _, s := range append(own, everywhere...) {
				if !on["CONFIG_"+s] {
					t.Errorf("CONFIG_%s is not on", s)
				}
			}
			if !on[fmt.Sprintf("CONFIG_HZ_%d", HZ)] {
				t.Errorf("CONFIG_HZ is not %d", HZ)
			}
			if len(r.Patches) == 0 {
				t.Error("there are no patches for this series")
			}
		})
	}
}

func TestKeyDependsOnEveryInput(t *testing.T) {
	base := recipe{Arch: X86_64, Fragments: []namedText{{"a", []byte("x")}}, Patches: []namedText{{"p", []byte("q")}}}
	key := func(change func(*recipe)) string {
		r := recipe{Arch: base.Arch, Fragments: append([]namedText(nil), base.Fragments...), Patches: append([]namedText(nil), base.Patches...)}
		change(&r)
		return r.key("6.1.70", "s", "gcc 12")
	}
	same := key(func(*recipe) {})
	if same != base.key("6.1.70", "s", "gcc 12") || !keyForm().MatchString(same) {
		t.Fatalf("key %q is not stable", same)
	}
	keys := map[string]string{"base": same,
		"version":      base.key("6.1.71", "s", "gcc 12"),
		"source":       base.key("6.1.70", "t", "gcc 12"),
		"compiler":     base.key("6.1.70", "s", "gcc 13"),
		"arch":         key(func(r *recipe) { r.Arch = AArch64 }),
		"fragment":     key(func(r *recipe) { r.Fragments[0].Text = []byte("y") }),
		"patch":        key(func(r *recipe) { r.Patches[0].Text = []byte("r") }),
		"no patch":     key(func(r *recipe) { r.Patches = nil }),
		"moved border": key(func(r *recipe) { r.Fragments[0] = namedText{"ax", nil} }),
		"moved to patch": key(func(r *recipe) {
			r.Patches = append([]namedText{r.Fragments[0]}, r.Patches...)
			r.Fragments = nil
		}),
	}
	seen := map[string]string{}
	for name, k := range keys {
		if other, dup := seen[k]; dup {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[k] = name
	}
}
