package qemu

import (
	"fmt"
	"runtime"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The accelerators.
const (
	accelKVM = "kvm"
	accelHVF = "hvf"
	accelTCG = "tcg"
)

// choice is an accelerator and why it is the one.
type choice struct {
	accel, reason, hint string
}

// hostArch is the architecture that this host runs without emulation; empty when no guest can have it.
func hostArch() sandbox.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return sandbox.X8664
	case "arm64":
		return sandbox.AArch64
	}
	return ""
}

// chooseAccel picks the accelerator for a guest of arch. virt is the verdict on the host's hardware virtualization, and
// force, when not empty, overrides what it says about speed.
func chooseAccel(goos string, host, arch sandbox.Arch, virt hostvirt.KVM, force string) (choice, error) {
	hardware := accelKVM
	if goos == "darwin" {
		hardware = accelHVF
	}
	switch force {
	case "", accelTCG:
	case hardware:
		if arch != host {
			return choice{}, sandbox.Errorf(sandbox.Unavailable, "leave the accelerator to be chosen", "the accelerator %s cannot run %s guests on a %s host", force, arch, host)
		}
		if !virt.Usable {
			return choice{}, sandbox.Errorf(sandbox.Unavailable, virt.Hint, "the accelerator %s cannot be used: %s", force, virt.Reason)
		}
		return choice{accel: force, reason: "asked for; " + virt.Reason, hint: virt.Hint}, nil
	default:
		return choice{}, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("choose %s or %s", hardware, accelTCG), "there is no accelerator %q here", force)
	}
	switch {
	case force == accelTCG:
		return choice{accel: accelTCG, reason: "asked for"}, nil
	case arch != host:
		return choice{accel: accelTCG, reason: fmt.Sprintf("a %s guest on a %s host is emulated in software", arch, host)}, nil
	case virt.Good:
		return choice{accel: hardware, reason: virt.Reason}, nil
	}
	return choice{accel: accelTCG, reason: "emulated in software, as " + virt.Reason, hint: virt.Hint}, nil
}
