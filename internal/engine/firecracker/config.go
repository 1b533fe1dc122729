package firecracker

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	// maxVCPUs is Firecracker's limit.
	maxVCPUs = 32
	// maxDisks are as many as have one letter: vda to vdz.
	maxDisks = 26
	// lapicTimerKHz is the rate of the local APIC's timer in KVM: one tick a nanosecond.
	lapicTimerKHz = 1_000_000
)

// word is what may stand in the kernel's command line, and as the id of a drive, without being quoted.
var word = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]{1,20}$`) })

// check refuses what Firecracker would only complain about later, or what could be taken for something else.
func check(spec sandbox.MachineSpec, host sandbox.Arch) error {
	seen := map[sandbox.DiskRole]bool{}
	for _, d := range spec.Disks {
		if !word().MatchString(string(d.Role)) || !word().MatchString(d.FS) || seen[d.Role] {
			return fmt.Errorf("disk %q with file system %q is not a disk, or is there twice", d.Role, d.FS)
		}
		seen[d.Role] = true
	}
	writable := map[string]bool{}
	for _, d := range spec.Disks {
		if path := filepath.Clean(d.Path); writable[path] {
			return fmt.Errorf("two disks are in %s, and one of them is written to", d.Path)
		} else if !d.ReadOnly {
			writable[path] = true
		}
	}
	switch {
	case len(spec.Disks) > maxDisks:
		return fmt.Errorf("%d disks are more than the %d that a microVM can have", len(spec.Disks), maxDisks)
	case spec.Arch != host:
		return sandbox.Errorf(sandbox.Unavailable, "use the engine qemu for it", "Firecracker cannot run %s guests on a %s host", spec.Arch, host)
	case spec.VCPUs > maxVCPUs:
		return sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("ask for at most %d", maxVCPUs), "Firecracker gives a microVM at most %d vCPUs, and %d are asked for", maxVCPUs, spec.VCPUs)
	case spec.CountFile != "":
		return sandbox.Errorf(sandbox.Invalid, "use the engine qemu with the accelerator tcg to count", "guest instructions can be counted under software emulation only, and this microVM runs with kvm")
	}
	return nil
}

// resource is a file of the host that a microVM uses.
type resource struct {
	name     string // in the configuration
	path     string
	writable bool
}

// configuration is what Firecracker reads, and the files that it names.
func configuration(spec sandbox.MachineSpec) (fcapi.Config, []resource) {
	const kernel, initramfs = filesName + "/kernel", filesName + "/initramfs"
	resources := []resource{{name: kernel, path: spec.Kernel.Path}, {name: initramfs, path: spec.Initrd}}
	config := fcapi.Config{
		BootSource:    &fcapi.BootSource{KernelImagePath: kernel, InitrdPath: initramfs, BootArgs: kernelParameters(spec)},
		MachineConfig: &fcapi.MachineConfig{VCPUCount: spec.VCPUs, MemSizeMiB: spec.MemoryMiB},
		Drives:        []fcapi.Drive{}, // must not be null
		Vsock:         &fcapi.Vsock{GuestCID: spec.VsockCID, UDSPath: vsockName},
	}
	if spec.Arch == sandbox.AArch64 {
		config.Entropy = &fcapi.EntropyDevice{} // many of its processors have no generator of their own
	}
	for _, d := range spec.Disks {
		name := filesName + "/disk-" + string(d.Role)
		resources = append(resources, resource{name: name, path: d.Path, writable: !d.ReadOnly})
		config.Drives = append(config.Drives, fcapi.Drive{
			DriveID: string(d.Role), PathOnHost: name, IsReadOnly: d.ReadOnly,
			// With Writeback a flush of the guest is one of the host's disk; without, the host's crash would lose what
			// the guest has synced.
			CacheType: cacheOf(d),
		})
	}
	return config, resources
}

func cacheOf(d sandbox.Disk) string {
	if d.ReadOnly {
		return fcapi.CacheUnsafe
	}
	return fcapi.CacheWriteback
}

// kernelParameters is the guest kernel's command line: Documentation/admin-guide/kernel-parameters.rst. Firecracker appends
// its devices. Nothing in it trades hardening for speed.
func kernelParameters(spec sandbox.MachineSpec) string {
	p := []string{
		"quiet", "console=ttyS0", "8250.nr_uarts=1",
		"panic=-1", // reset at once, which ends Firecracker
		"rdinit=/init",
		"random.trust_cpu=on",
		"rcupdate.rcu_expedited=1", // a microVM has few CPUs to disturb, and booting waits for many grace periods
	}
	if spec.Arch == sandbox.X8664 {
		// The keyboard controller's reset line is what Firecracker has to end a guest by: docs/getting-started.md.
		p = append(p, "earlyprintk=serial,ttyS0,115200", "reboot=k")
		if spec.Kernel.LAPICTimer {
			p = append(p, fmt.Sprintf("lapic_timer_khz=%d", lapicTimerKHz))
		}
	}
	for i, d := range spec.Disks {
		// Firecracker's disks have no serial of ours. They come to the guest in the order of the configuration.
		p = append(p, d.Parameter(fmt.Sprintf("vd%c", 'a'+i)))
	}
	if spec.Template() {
		p = append(p, sandbox.TemplateParameter)
	}
	return strings.Join(p, " ")
}
