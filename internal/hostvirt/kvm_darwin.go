package hostvirt

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// measureKVM asks whether the Hypervisor framework can be used, which is always hardware: sysctl kern.hv_support.
func measureKVM(context.Context) (KVM, error) {
	v, err := unix.SysctlUint32("kern.hv_support")
	switch {
	case err != nil:
		return KVM{Reason: fmt.Sprintf("whether this Mac has the Hypervisor framework cannot be found out: %v", err)}, nil
	case v == 0:
		return KVM{Reason: "this Mac has no Hypervisor framework (kern.hv_support is 0)"}, nil
	}
	return KVM{Usable: true, Good: true, Reason: "the Hypervisor framework is there"}, nil
}
