package hostcheck

import (
	"fmt"
	"strings"
)

// Check is one thing that was looked at on a host.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do when it is not ok, or would be better
	// Needed says that nothing runs without it.
	Needed bool `json:"needed"`
}

// Severity is "ok", "warn", or "fail" for what nothing runs without.
func (c Check) Severity() string {
	switch {
	case c.OK:
		return "ok"
	case c.Needed:
		return "fail"
	}
	return "warn"
}

// CPU is about hardware virtualization, which hosts of arm64 do not announce.
func (f Facts) CPU(arch string) Check {
	c := Check{Name: "CPU", OK: true}
	switch {
	case arch != "amd64":
		c.Detail = "arm64 has its virtualization in EL2, which /dev/kvm tells of"
	case f.VMX:
		c.Detail = "announces vmx (Intel VT-x)"
	case f.SVM:
		c.Detail = "announces svm (AMD-V)"
	default:
		c.OK, c.Detail, c.Fix = false, "announces neither vmx nor svm", "switch virtualization (VT-x, AMD-V) on in the firmware's settings"
		if f.Hypervisor {
			c.Detail += ": this is a virtual machine without nested virtualization"
			c.Fix = "switch nested virtualization on for this machine, or use bare metal; microVMs run by emulation until then"
		}
	}
	return c
}

// KVM is about /dev/kvm and who may open it.
func (f Facts) KVM() Check {
	c := Check{Name: "/dev/kvm"}
	switch {
	case f.KVMDevice == 0:
		c.Detail, c.Fix = "there is none", "sudo modprobe kvm_intel (or kvm_amd), on a host that has virtualization"
	case f.KVMOpens:
		c.OK, c.Detail = true, fmt.Sprintf("mode %04o, opens", f.KVMDevice.Perm())
	default:
		c.Detail = fmt.Sprintf("mode %04o, group %s, and this user may not open it", f.KVMDevice.Perm(), f.KVMGroup)
		const now = "; or for now: sudo setfacl -m u:$USER:rw /dev/kvm"
		switch {
		case f.KVMDevice.Perm()&0o060 != 0o060 || f.KVMGroup == "root":
			// To be in its group would not help. The rule is that of systemd and most distributions.
			c.Fix = `echo 'KERNEL=="kvm", GROUP="kvm", MODE="0660"' | sudo tee /etc/udev/rules.d/65-kvm.rules && sudo udevadm control --reload && ` +
				"sudo udevadm trigger /dev/kvm && sudo usermod -aG kvm $USER, and log in again" + now
		case f.KVMMember:
			c.Detail += " yet: it is in the group, but this session began before"
			c.Fix = "log out and in again, or newgrp " + f.KVMGroup + now
		default:
			c.Fix = "sudo usermod -aG " + f.KVMGroup + " $USER, and log in again" + now
		}
	}
	return c
}

// Cgroups is about limits on VMMs.
func (f Facts) Cgroups() Check {
	c := Check{Name: "cgroups", OK: true}
	switch {
	case f.CgroupV2 && f.Root:
		c.Detail = "version 2"
	case f.CgroupV2 && len(f.Delegated) > 0:
		c.Detail = "version 2; this user may hand on " + strings.Join(f.Delegated, ", ")
	case f.CgroupV2:
		c.OK, c.Detail = false, "version 2, of which nothing is delegated to this user: VMMs run without limits of their own"
		c.Fix = "run the daemon as a systemd user service with Delegate=yes (packaging/agentkernel.service)"
	case f.CgroupV1:
		c.Detail = "version 1; version 2 is better at limiting memory"
		if !f.Root {
			c.OK, c.Detail, c.Fix = false, "version 1, which users cannot have limits by", "boot with systemd.unified_cgroup_hierarchy=1"
		}
	default:
		c.OK, c.Detail, c.Fix = false, "none are mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
	}
	return c
}

// Namespaces is about confining a VMM without root.
func (f Facts) Namespaces() Check {
	c := Check{Name: "user namespaces", OK: true, Detail: "can be made by this user"}
	switch {
	case f.Root:
		c.Detail = "not needed: root has the jailer"
	case f.UserNamespaces <= 0:
		c.OK, c.Detail, c.Fix = false, "the kernel makes none: Firecracker runs with its seccomp filter alone", "sudo sysctl user.max_user_namespaces=15000"
	case !f.UnprivilegedUserNS:
		c.OK, c.Detail = false, "not for users without privileges: Firecracker runs with its seccomp filter alone"
		c.Fix = "sudo sysctl kernel.unprivileged_userns_clone=1 (Debian), or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), or run the daemon as root, which has the jailer"
	}
	return c
}

// Memory is about what the host does with the memory of guests.
func (f Facts) Memory() []Check {
	ksm := Check{Name: "KSM", OK: true, Detail: "is off: guests cannot tell by time what other guests have in memory"}
	if f.KSM {
		ksm = Check{Name: "KSM", Detail: "is on: it merges equal pages of guests that allow it, and the time of a write tells whether another guest had the same", Fix: "echo 0 | sudo tee /sys/kernel/mm/ksm/run"}
	}
	swap := Check{Name: "swap", OK: true, Detail: "none: the memory of guests does not reach a disk"}
	if f.SwapKiB > 0 {
		swap = Check{Name: "swap", Detail: fmt.Sprintf("%d MiB: the memory of guests can reach the disk, where it outlives them", f.SwapKiB>>10), Fix: "sudo swapoff -a, or encrypt it"}
	}
	huge := Check{Name: "huge pages", OK: true, Detail: "transparent ones: " + f.TransparentHP}
	switch {
	case f.HugePages > 0:
		huge.Detail = fmt.Sprintf("%d reserved; transparent ones: %s", f.HugePages, f.TransparentHP)
	case f.TransparentHP == "":
		huge.Detail = "none reserved, no transparent ones"
	case f.TransparentHP == "always":
		huge.OK, huge.Detail = false, "transparent ones always: a microVM on QEMU starts faster, and holds some MiB more than its guest uses"
		huge.Fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled, where memory counts more"
	}
	return []Check{huge, ksm, swap}
}

// Host is every check that these facts allow.
func (f Facts) Host(arch string) []Check {
	return append([]Check{f.CPU(arch), f.KVM(), f.Cgroups(), f.Namespaces()}, f.Memory()...)
}
