package hostvirt

import (
	"strings"
	"testing"
)

func TestLikeness(t *testing.T) {
	const x86 = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nmodel name\t: Some CPU\nflags\t\t: fpu vme\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\n"
	l := likeness(x86, "6.1.0-18-amd64")
	if l.CPU != "GenuineIntel, family 6, model 106" || l.Kernel != "6.1" || len(l.Features) != 16 {
		t.Errorf("%+v", l)
	}
	arm := likeness("processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n", "5.15.3")
	if arm.CPU != "implementer 0x41, variant 0x3, part 0xd0c" || arm.Features == "" || arm.Features == l.Features {
		t.Errorf("%+v", arm)
	}
	if same := likeness(x86, "6.1.77").Difference(l.String()); same != "" {
		t.Errorf("two alike hosts differ: %s", same)
	}
	for want, saved := range map[string]string{
		"this host's is GenuineIntel, family 6, model 106": arm.String(),
		"other features":   likeness(strings.Replace(x86, "vme", "avx", 1), "6.1.9").String(),
		"under Linux 5.10": likeness(x86, "5.10.1").String(),
		`described as "x"`: "x",
		`described as ""`:  "",
	} {
		if got := l.Difference(saved); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", saved, got, want)
		}
	}
}
