package qemu

import (
	"testing"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestChooseAccel(t *testing.T) {
	good := hostvirt.KVM{Usable: true, Good: true, Reason: "fast"}
	slow := hostvirt.KVM{Usable: true, Reason: "slow", Hint: "h"}
	none := hostvirt.KVM{Reason: "none", Hint: "h"}
	const x86, arm = sandbox.X8664, sandbox.AArch64
	for _, tc := range []struct {
		name       string
		goos       string
		host, arch sandbox.Arch
		virt       hostvirt.KVM
		force      string
		want       string // empty: an error
	}{
		{"good KVM", "linux", x86, x86, good, "", accelKVM},
		{"slow KVM", "linux", x86, x86, slow, "", accelTCG},
		{"no KVM", "linux", x86, x86, none, "", accelTCG},
		{"foreign guest", "linux", x86, arm, good, "", accelTCG},
		{"arm64 host", "linux", arm, arm, good, "", accelKVM},
		{"Mac", "darwin", arm, arm, good, "", accelHVF},
		{"foreign guest on a Mac", "darwin", arm, x86, good, "", accelTCG},
		{"TCG by force", "linux", x86, x86, good, accelTCG, accelTCG},
		{"slow KVM by force", "linux", x86, x86, slow, accelKVM, accelKVM},
		{"absent KVM by force", "linux", x86, x86, none, accelKVM, ""},
		{"foreign guest on KVM by force", "linux", x86, arm, good, accelKVM, ""},
		{"HVF on Linux", "linux", x86, x86, good, accelHVF, ""},
		{"nonsense", "linux", x86, x86, good, "xen", ""},
	} {
		c, err := chooseAccel(tc.goos, tc.host, tc.arch, tc.virt, tc.force)
		if (err != nil) != (tc.want == "") || c.accel != tc.want {
			t.Errorf("%s: %+v, %v; want %q", tc.name, c, err, tc.want)
		}
		if err == nil && c.reason == "" {
			t.Errorf("%s: no reason is given", tc.name)
		}
	}
}
