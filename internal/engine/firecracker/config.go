package firecracker

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// word is what may stand in the kernel's command line without being quoted.
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

// launchPlan is what a microVM starts from.
type launchPlan struct {
	config    *fcapi.Config // nil when a saved state is restored
	slots     []sandbox.Slot
	disks     []sandbox.DiskSlot // the slots with their sizes now
	resources []resource
}

// planOf says how to start a microVM. Firecracker names disks by their slots: a state has the names, and finds other disks there.
func planOf(spec sandbox.MachineSpec, spare string) (launchPlan, error) {
	slots, err := spec.Slots()
	if err != nil {
		return launchPlan{}, err
	}
	if len(slots) > maxDisks {
		return launchPlan{}, fmt.Errorf("%d disks are more than the %d that a microVM can have", len(slots), maxDisks)
	}
	p := launchPlan{slots: slots}
	if spec.From == nil {
		p.resources = []resource{{name: kernelName, path: spec.Kernel.Path}, {name: initramfsName, path: spec.Initrd}}
		config := configuration(spec, slots)
		p.config = &config
	} else {
		p.resources = []resource{{name: savedName(stateFile), path: filepath.Join(spec.From.Dir, stateFile)}, {name: savedName(memoryFile), path: filepath.Join(spec.From.Dir, memoryFile)}}
	}
	for _, r := range p.resources {
		if _, err := os.Stat(r.path); err != nil {
			return launchPlan{}, fmt.Errorf("find the %s: %w", filepath.Base(r.name), err)
		}
	}
	for i, s := range slots {
		path := spare
		if s.Disk != nil {
			path = s.Disk.Path
		}
		p.resources = append(p.resources, resource{name: diskName(i), path: path, writable: !s.ReadOnly})
	}
	p.disks, err = sandbox.DiskSlots(slots)
	return p, err
}

// spares reports whether a disk is spare.
func (p launchPlan) spares() bool {
	return slices.ContainsFunc(p.slots, func(s sandbox.Slot) bool { return s.Disk == nil })
}

// Names in filesName.
const (
	kernelName    = filesName + "/kernel"
	initramfsName = filesName + "/initramfs"
)

func diskName(slot int) string { return fmt.Sprintf("%s/disk%d", filesName, slot) }

// driveID is Firecracker's name of a disk.
func driveID(slot int) string { return fmt.Sprintf("disk%d", slot) }

// guestDevice is a disk's name in the guest's /dev. Firecracker's disks have no serial of ours, and come to the guest in their order.
func guestDevice(slot int) string { return fmt.Sprintf("vd%c", 'a'+slot) }

// configuration is what Firecracker reads.
func configuration(spec sandbox.MachineSpec, slots []sandbox.Slot) fcapi.Config {
	config := fcapi.Config{
		BootSource:    &fcapi.BootSource{KernelImagePath: kernelName, InitrdPath: initramfsName, BootArgs: kernelParameters(spec, slots)},
		MachineConfig: &fcapi.MachineConfig{VCPUCount: spec.VCPUs, MemSizeMiB: spec.MemoryMiB},
		Drives:        []fcapi.Drive{}, // must not be null
		Vsock:         &fcapi.Vsock{GuestCID: spec.VsockCID, UDSPath: vsockName},
	}
	if spec.Arch == sandbox.AArch64 {
		config.Entropy = &fcapi.EntropyDevice{} // many of its processors have no generator of their own
	}
	for i, s := range slots {
		config.Drives = append(config.Drives, fcapi.Drive{
			DriveID: driveID(i), PathOnHost: diskName(i), IsReadOnly: s.ReadOnly,
			// With Writeback a flush of the guest is one of the host's disk; without, the host's crash would lose what
			// the guest has synced.
			CacheType: cacheOf(s),
		})
	}
	return config
}

func cacheOf(s sandbox.Slot) string {
	if s.ReadOnly {
		return fcapi.CacheUnsafe
	}
	return fcapi.CacheWriteback
}

// kernelParameters is the guest kernel's command line: Documentation/admin-guide/kernel-parameters.rst. Firecracker appends
// its devices. Nothing in it trades hardening for speed.
func kernelParameters(spec sandbox.MachineSpec, slots []sandbox.Slot) string {
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
	for i, s := range slots {
		if s.Disk != nil {
			p = append(p, s.Disk.Parameter(guestDevice(i)))
		}
	}
	if spec.Template {
		p = append(p, sandbox.TemplateParameter)
	}
	return strings.Join(p, " ")
}
