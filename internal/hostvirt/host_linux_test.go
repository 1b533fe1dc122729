package hostvirt

import "testing"

func TestParseCPUModel(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"x86":   {"processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nflags\t: fpu\n\nprocessor\t: 1\n", "Some CPU @ 2.0GHz"},
		"arm64": {"processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\nprocessor\t: 1\nCPU implementer\t: 0x41\n", "implementer 0x41, variant 0x3, part 0xd0c, revision 1"},
	} {
		if got := parseCPUModel(tc.in); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if got := parseCPUModel(""); got == "" {
		t.Error("an unknown CPU has no name at all")
	}
}
