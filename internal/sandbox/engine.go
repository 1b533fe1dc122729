package sandbox

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Arch is an instruction set of a guest, by the kernel's name.
type Arch string

// The architectures that a guest can have.
const (
	X8664   Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

// Engine drives one kind of VMM.
type Engine interface {
	// Name is "qemu" or "firecracker".
	Name() string
	// Capabilities says what this host lets the engine do. It may take a measurement the first time.
	Capabilities(ctx context.Context) Capabilities
	// Launch starts a VMM for spec and returns once its process exists and is under control; the guest is then still
	// booting. When it returns an error there is no process left. The VMM outlives the caller's process.
	Launch(ctx context.Context, spec MachineSpec) (Machine, error)
	// Adopt takes over the VMM that an earlier process of ours launched. It returns ErrGone when that VMM no longer
	// runs, and nothing is left of it then.
	Adopt(ctx context.Context, spec MachineSpec, rec MachineRecord) (Machine, error)
	// Sweep kills a VMM of this sandbox whose launch was cut short before its record was written, if there is one.
	Sweep(ctx context.Context, spec MachineSpec) error
}

// Capabilities of an engine on this host.
type Capabilities struct {
	Usable      bool     `json:"usable"`
	Reason      string   `json:"reason,omitempty"` // why not usable, or why this accelerator
	Hint        string   `json:"hint,omitempty"`   // what to install or change
	Accelerator string   `json:"accelerator,omitempty"`
	Version     string   `json:"version,omitempty"` // of the VMM
	Binary      string   `json:"binary,omitempty"`
	Confinement []string `json:"confinement,omitempty"` // what confines the VMM process
}

// MachineSpec is everything that an engine needs to start one microVM.
type MachineSpec struct {
	ID         string // of the sandbox; names the VMM process
	Engine     string // one of Engines; empty: the user's default
	EngineWhy  string // why the engine that is handed this was chosen; goes into the record
	Arch       Arch
	VCPUs      int
	MemoryMiB  int
	Kernel     KernelImage
	Initrd     string // path of the initramfs with the guest agent
	Disks      []Disk // in the order that the guest sees them
	VsockCID   uint32
	RuntimeDir string // existing, 0700, this microVM's own: sockets
	LogDir     string // existing, 0700, this sandbox's own: console.log, vmm.log
	// CountFile, when set, asks for a count of executed guest instructions, kept up to date in this file: one
	// little-endian u64. Engines that cannot count refuse it.
	CountFile string
	// Spares follow Disks in a microVM that boots.
	Spares []Spare
	// Template says that the microVM which boots is to be saved as a template: its guest agent mounts the Disks and waits to be told
	// of the others.
	Template bool
	// From, when set, is what the microVM goes on from, instead of booting. VCPUs, MemoryMiB and Arch are those of the saved
	// microVM, and Slots says where Disks are. Kernel and Initrd are not used.
	From *SavedState
}

// TemplateParameter is the kernel parameter by which the guest agent learns that its microVM is to be a template.
const TemplateParameter = "agentkernel.template"

// KernelImage is a guest kernel on the host.
type KernelImage struct {
	Path       string
	Version    string // e.g. 6.1.70-agentkernel
	LAPICTimer bool   // has the lapic_timer_khz parameter (x86_64)
}

// Disk is a virtio-blk disk of a microVM.
type Disk struct {
	Role     DiskRole
	Path     string
	FS       string // erofs, squashfs, ext4
	ReadOnly bool
	// MountPoint is where a volume is mounted in the sandbox: an absolute path, clean. Other disks have none.
	MountPoint string
}

// Parameter is the kernel parameter by which the guest learns of the disk. device is its name in the guest's /dev, or empty
// when it is to be found by its serial.
func (d Disk) Parameter(device string) string { return "agentkernel.disk=" + d.Describe(device) }

// Describe is the value of the Parameter.
func (d Disk) Describe(device string) string {
	mode := "rw"
	if d.ReadOnly {
		mode = "ro"
	}
	p := fmt.Sprintf("%s:%s:%s", d.Role, d.FS, mode)
	if device != "" || d.MountPoint != "" {
		p += ":" + device
	}
	if d.MountPoint != "" {
		p += ":" + EncodePath(d.MountPoint)
	}
	return p
}

// DiskRole says what the guest agent does with a disk. The guest learns of it by the kernel parameter
// agentkernel.disk=<role>:<fs>:<ro|rw>[:<device>[:<mount point>]], one a disk. Without a device, which is a name in the guest's
// /dev, the disk is the one that has the role as its virtio-blk serial.
type DiskRole string

// The roles of disks.
const (
	RootLower DiskRole = "rootfs"    // the image, read-only
	Upper     DiskRole = "upper"     // the sandbox's own writable disk
	Workspace DiskRole = "workspace" // project files, read-only lower of /workspace; VolumeRole has the others
)

// MachineRecord is what is kept on disk about a running VMM, enough to find it again after a restart of the daemon.
// A process is the same one only when PID, StartTime and BootID all agree.
type MachineRecord struct {
	Engine      string `json:"engine"`
	EngineWhy   string `json:"engine_why,omitempty"` // a clause: why this engine was chosen
	Accelerator string `json:"accelerator"`
	PID         int    `json:"pid"`
	StartTime   uint64 `json:"start_time"` // clock ticks since boot, /proc/pid/stat field 22; proc(5)
	BootID      string `json:"boot_id"`
	LinkToken   string `json:"link_token,omitempty"` // hex; marks the start of a session on a serial link
	// Confinement says what confines the VMM, as it was measured once it ran.
	Confinement []string `json:"confinement,omitempty"`
	// Disks are what a state of it will have as its disks.
	Disks []DiskSlot `json:"disks,omitempty"`
}

// Exit says how a VMM ended.
type Exit struct {
	Code   int    // exit code; -1 when it is not known (an adopted process) or a signal ended it
	Signal string // e.g. "killed"; empty when none
	Detail string // the VMM's own last words, at most a few lines
}

// Machine is one running microVM.
type Machine interface {
	Record() MachineRecord
	// Dial opens a byte stream to a port of the guest. It waits for the guest to listen until ctx ends or the VMM is
	// gone.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Kill ends the VMM at once and returns when it is gone. It is not an error when it was gone already.
	Kill(ctx context.Context) error
	// Done is closed when the VMM is gone and its sockets are removed.
	Done() <-chan struct{}
	// Exit is valid after Done.
	Exit() Exit
	// Release lets go of the VMM without ending it.
	Release() error
}

// Pauser is implemented by machines whose vCPUs can be halted.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Paused asks the VMM: who halted the vCPUs may have been an earlier process of ours.
	Paused(ctx context.Context) (bool, error)
}

// Saver is implemented by machines that can be saved.
type Saver interface {
	Pauser
	// Save writes a paused microVM's memory and devices to dir, an empty directory. When it returns, the guest may go on, or be
	// killed; its disks have to be copied before that. Connections to the guest may have ended when it goes on (Firecracker
	// resets its vsock): dial again. On error the guest is as it was, and dir may have files in it.
	Save(ctx context.Context, dir string) (SavedState, error)
}

// Linked is implemented by machines whose guests are reached through a session that has a beginning.
type Linked interface {
	// RenewLink ends all connections to the guest, and begins anew with it, so that nobody has used the session. What is saved before
	// the next Dial has a guest that waits: who restores it goes on with the session, and the guest need not end an old one first.
	RenewLink(ctx context.Context) error
}

// Restorer is implemented by engines that restore what their machines saved.
type Restorer interface {
	// Finish brings what Save has written into the form that is restored fastest, and to the disk (fsync). No microVM has to
	// run for it. Only what it returns can be restored.
	Finish(ctx context.Context, spec MachineSpec, saved SavedState) (SavedState, error)
	// Restorable says why the saved state cannot be restored on this host, now, or nil.
	Restorable(ctx context.Context, saved SavedState) error
}

// Stager is implemented by machines that time their own start.
type Stager interface {
	Stages() []Stage
}

// Stage is one named part of a start.
type Stage struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`
}

// GuestAgentPort is the port, on vsock and on the multiplexed serial link, where the guest agent listens.
const GuestAgentPort = 1024

// GuestStreamPort is the port where the guest agent serves streams: api/guest/v1/stream.proto.
const GuestStreamPort = 1026

// GuestReadyPort is the vsock port of the host that the guest agent connects to once it listens. It says nothing there:
// the connection is the event, which the host needs not listen for.
const GuestReadyPort = 1025
