package hostvirt

import (
	"strings"
	"testing"
)

func TestDescribeCPU(t *testing.T) {
	const intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon\nstepping\t: 8\nmicrocode\t: 0x1\ncpu MHz\t\t: 2599.998\nflags\t\t: fpu sse avx\n\nprocessor\t: 1\nflags\t\t: x\n"
	const arm = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"
	describe := func(info string) string {
		t.Helper()
		s, err := describeCPU([]byte(info))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := describe(intel)
	if !strings.HasPrefix(first, "GenuineIntel 6 143 8, features ") || !strings.HasPrefix(describe(arm), "0x41 8 0x3 0xd0c 1, features ") {
		t.Errorf("%q, %q", first, describe(arm))
	}
	for _, alike := range []string{
		strings.Replace(intel, "2599.998", "800.0", 1), strings.Replace(intel, "fpu sse avx", "avx fpu sse", 1), strings.Replace(intel, "microcode\t: 0x1", "microcode\t: 0x2", 1),
	} {
		if got := describe(alike); got != first {
			t.Errorf("the same CPU is %q and %q", first, got)
		}
	}
	for _, other := range []string{strings.Replace(intel, "avx", "avx avx2", 1), strings.Replace(intel, "stepping\t: 8", "stepping\t: 9", 1)} {
		if got := describe(other); got == first {
			t.Errorf("another CPU is %q too", got)
		}
	}
	for _, none := range []string{"", "processor\t: 0\n", "vendor_id\t: GenuineIntel\n"} {
		if s, err := describeCPU([]byte(none)); err == nil {
			t.Errorf("%q is the CPU %q", none, s)
		}
	}
	if _, err := CPU(); err != nil {
		t.Error(err)
	}
}
