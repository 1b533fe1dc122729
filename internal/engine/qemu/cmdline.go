package qemu

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Descriptors of QEMU: 0-2 are its own, then come the listening sockets, and what a microVM is restored from.
const (
	qmpFD = 3 + iota
	linkFD
	consoleFD
	stateFD
)

// linkChardev is QEMU's name for what is behind the link.
const linkChardev = "link"

// linkPort is the name that the guest agent looks for under /sys/class/virtio-ports.
const linkPort = "agentkernel.0"

// lapicTimerKHz is the rate of the local APIC's timer in QEMU and in KVM: one tick a nanosecond.
const lapicTimerKHz = 1_000_000

// tcgCacheMiB bounds the translated code that QEMU keeps. Its own limit, 1 GiB, would let a busy guest take many times
// its own memory from the host; it costs nothing until it is filled.
const tcgCacheMiB = 256

// command is all that a QEMU's command line is made of.
type command struct {
	bin    binary
	use    use
	memory string // path of the file of the guest's memory, when it is restored or finished
	slots  []sandbox.Slot
	variant
	accel  string
	spec   sandbox.MachineSpec
	token  string // hex, of the serial link
	tscKHz int    // x86_64 under tcg
	plugin string // path of the counting plugin; empty without spec.CountFile
}

// variant is what sets microVMs of one architecture apart.
type variant struct {
	legacy   bool // it has the timers and interrupt controller of a PC (x86_64)
	unlinked bool // nobody was connected to the link when it was saved
	begun    bool // its guest had begun a session on the link, which nobody has used
}

// The words for a variant in a saved state.
const (
	legacyTimers = "legacy timers"
	unlinked     = "nobody on the link"
	begun        = "a session begun"
)

func (v variant) String() string {
	var words []string
	if v.legacy {
		words = append(words, legacyTimers)
	}
	if v.unlinked {
		words = append(words, unlinked)
	}
	if v.begun {
		words = append(words, begun)
	}
	return strings.Join(words, ", ")
}

func parseVariant(s string) (v variant, err error) {
	for word := range strings.SplitSeq(s, ", ") {
		switch word {
		case "":
		case legacyTimers:
			v.legacy = true
		case unlinked:
			v.unlinked = true
		case begun:
			v.begun = true
		default:
			return v, fmt.Errorf("a saved state is of a microVM that is not known: %q", s)
		}
	}
	return v, nil
}

// use is what a QEMU is for.
type use int

const (
	boots    use = iota // a guest from its kernel on
	restores            // a guest, from a saved state
	finishes            // bringing a saved state into its final form; the guest does not run
)

// marker is the one argument that tells the QEMU of a sandbox from every other process.
func marker(id string) string { return "guest=agentkernel-" + id + ",debug-threads=off" }

// word is what may stand in the kernel's command line or as a device's id without being quoted.
var word = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,19}$`) }) // a virtio-blk serial has at most 20 bytes

// check refuses what could not be expressed, or could be taken for something else, in the command line.
func (c *command) check() error {
	seen := map[sandbox.DiskRole]bool{}
	for _, d := range c.spec.Disks {
		if !word().MatchString(string(d.Role)) || !word().MatchString(d.FS) || seen[d.Role] {
			return fmt.Errorf("disk %q with file system %q is not a disk, or is there twice", d.Role, d.FS)
		}
		seen[d.Role] = true
	}
	if c.spec.Arch != sandbox.X8664 && c.spec.Arch != sandbox.AArch64 {
		return fmt.Errorf("there is no architecture %q", c.spec.Arch)
	}
	if c.spec.CountFile != "" && c.accel != accelTCG {
		return sandbox.Errorf(sandbox.Invalid, "force the accelerator tcg to count", "guest instructions can be counted under software emulation only, and this microVM runs with %s", c.accel)
	}
	return nil
}

// args returns argv without the program's name.
//
// A saved state fits a microVM that has the same machine type, accelerator, CPU, memory and devices in the same order, by whatever
// names and with whatever files behind them. So all uses have one command line up to where the guest's instructions come from: a
// restored guest has its kernel in its memory, and a kernel among the arguments would only take memory of the host.
func (c *command) args() []string {
	a := []string{
		"-name", marker(c.name()),
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-nic", "none",
	}
	if c.bin.seccomp {
		a = append(a, "-sandbox", seccompOptions)
	}
	monitor, console, link := c.chardevs()
	a = append(a,
		"-M", c.machine(), "-accel", c.accelerator(), "-cpu", c.cpu(),
		"-smp", strconv.Itoa(c.spec.VCPUs), "-m", strconv.Itoa(c.spec.MemoryMiB)+"M", "-object", c.memoryBackend(),
		"-global", "virtio-mmio.force-legacy=false",
		"-chardev", monitor, "-mon", "chardev=qmp,mode=control",
		"-chardev", console, "-serial", "chardev:console",
		// Port 0 is for a console. Each port that there could be costs the guest two queues: 2 instead of 31.
		"-chardev", link, "-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=link,nr=1,name="+linkPort,
	)
	for i, slot := range c.slots {
		name, backing := fmt.Sprintf("spare%d", i), ""
		if slot.Disk != nil {
			name = string(slot.Disk.Role)
			backing = blockdev(*slot.Disk)
		} else {
			backing = nothing(name, slot.ReadOnly)
		}
		a = append(a, "-blockdev", backing, "-device", blkDevice(name))
	}
	if c.plugin != "" {
		a = append(a, "-plugin", "file="+escape(c.plugin)+",out="+escape(c.spec.CountFile))
	}
	if c.use != boots {
		return append(a, "-S", "-incoming", "defer")
	}
	return append(a, "-kernel", c.spec.Kernel.Path, "-initrd", c.spec.Initrd, "-append", c.kernelParameters())
}

// chardevs are what is behind the monitor, the console and the link. Who connects to a console or to the link of a restored guest
// has done so before QEMU starts, and it has the connection before the guest runs.
func (c *command) chardevs() (monitor, console, link string) {
	monitor, console, link = listener("qmp", qmpFD, "off"), listener("console", consoleFD, "on"), listener(linkChardev, linkFD, "off")
	switch c.use {
	case restores:
		link = listener(linkChardev, linkFD, "on")
	case finishes:
		monitor, console = fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "null,id=console" // the monitor's is connected
		// What QEMU writes says whether somebody is connected to the link, and must say what the guest knows.
		link = "ringbuf,id=link"
		if c.unlinked {
			link = "null,id=link"
		}
	}
	return monitor, console, link
}

// name is what the marker is made of. A saved state may be finished while its sandbox runs.
func (c *command) name() string {
	if c.use == finishes {
		return finishing(c.spec.ID)
	}
	return c.spec.ID
}

func finishing(id string) string { return id + ".finish" }

// memoryBackend is the guest's memory: of QEMU alone when it boots, which never writes to a disk of the host; mapped copy-on-write
// from the file of a saved state, whose pages all that came of it share; or that file itself, when it is made. It is left out of
// core dumps, and is not merged with that of other processes, which would let one microVM find out by timing what another has in
// memory.
func (c *command) memoryBackend() string {
	s := fmt.Sprintf(",id=%s,size=%dM,dump=off,merge=off", memoryID, c.spec.MemoryMiB)
	switch c.use {
	case restores:
		s = "memory-backend-file" + s + ",share=off,mem-path=" + escape(c.memory)
		if c.bin.atLeast(8, 2) {
			s += ",readonly=on,rom=off" // the file; the memory is not
		}
		return s
	case finishes:
		return "memory-backend-file" + s + ",share=on,mem-path=" + escape(c.memory)
	}
	return "memory-backend-ram" + s
}

// memoryID is a part of the name that a saved state has for the memory.
const memoryID = "ram"

// machine has no ACPI, no PCI and no legacy device that can be done without.
func (c *command) machine() string {
	common := ",acpi=off,memory-backend=" + memoryID
	if c.spec.Arch == sandbox.AArch64 {
		gic := "3" // version 2 has at most 8 CPUs
		if c.accel == accelKVM {
			gic = "host"
		}
		return "virt,gic-version=" + gic + common
	}
	// A guest whose kernel is told the rate of its APIC timer needs neither PIC nor PIT. Any other calibrates by the PIT,
	// and finds no timer at all when only one of the two is there. Without the RTC it waits a second for the clock.
	timers := "pit=off,pic=off"
	if c.legacy {
		timers = "pit=on,pic=on"
	}
	return "microvm," + timers + ",rtc=on,isa-serial=on" + common
}

func (c *command) accelerator() string {
	if c.accel != accelTCG {
		return c.accel
	}
	thread := "single" // with one vCPU it boots faster
	if c.spec.VCPUs > 1 {
		thread = "multi"
	}
	return fmt.Sprintf("tcg,thread=%s,tb-size=%d", thread, tcgCacheMiB)
}

func (c *command) cpu() string {
	switch {
	case c.accel != accelTCG:
		return "host"
	case c.spec.Arch == sandbox.AArch64:
		return "max,pauth-impdef=on" // the architected algorithm of pointer authentication is very slow to emulate
	}
	// ERMS and FSRM make the guest clear and copy memory by instructions that TCG executes byte by byte. No guest of ours
	// nests another.
	return "max,-erms,-fsrm,-svm"
}

// listener is a chardev on a listening socket that QEMU was started with. wait says whether QEMU waits for the first
// connection.
func listener(id string, fd int, wait string) string {
	return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=%s", id, fd, wait)
}

// blockdev is a raw disk image. Writes go to the host's page cache, so what the guest has written survives the death of
// QEMU, and what it has flushed that of the host. What it discards is punched out of the file.
func blockdev(d sandbox.Disk) string {
	s := fmt.Sprintf("driver=file,node-name=%s,filename=%s", d.Role, escape(d.Path))
	if d.ReadOnly {
		return s + ",read-only=on"
	}
	return s + ",discard=unmap"
}

// nothing is a disk of 1 MiB without a file, of zeros: for a spare one, and for any whose guest does not run. It takes what is
// written to it, and forgets it.
func nothing(name string, readOnly bool) string {
	s := fmt.Sprintf("driver=null-co,node-name=%s,size=%d,read-zeroes=on", name, sandbox.SpareBytes)
	if readOnly {
		s += ",read-only=on"
	}
	return s
}

// blkDevice reports errors to the guest. By default QEMU halts the guest when the host's disk is full, and nobody would be
// told.
func blkDevice(name string) string {
	return fmt.Sprintf("virtio-blk-device,drive=%s,serial=%[1]s,werror=report,rerror=report", name)
}

// escape makes s the value of an option: commas are doubled, QEMU's manual, "Standard options".
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
