package sandbox

import (
	"fmt"
	"os"
)

// SavedState is a microVM's memory and devices in files, but not its disks. It is taken by a Saver, and MachineSpec.From has an
// engine restore it, as often as wanted and in many microVMs at once: the files are not written to, and their memory is
// shared until it is written.
type SavedState struct {
	Dir string `json:"-"` // absolute; the directory of Files, which engines of any process may read
	// Files are the names in Dir, all that Dir has.
	Files       []string `json:"files"`
	Engine      string   `json:"engine"`
	Version     string   `json:"version"` // of the VMM
	Arch        Arch     `json:"arch"`
	Variant     string   `json:"variant,omitempty"` // of the microVM's hardware, where an engine has several; its own words
	Accelerator string   `json:"accelerator"`
	CPU         string   `json:"cpu"` // what a host must be alike in; the engine's own words
	LinkToken   string   `json:"link_token,omitempty"`
	// Disks are those that the microVM had, the spare ones too, in its order.
	Disks []DiskSlot `json:"disks"`
}

// DiskSlot is a virtio-blk disk of a microVM, as the driver in its guest knows it. What is in it may be another file after a
// restore; that it is read-only cannot change, as device and driver have agreed on it.
type DiskSlot struct {
	Role      DiskRole `json:"role,omitempty"` // of the disk that is in it; empty for a spare one
	ReadOnly  bool     `json:"read_only,omitempty"`
	SizeBytes int64    `json:"size_bytes"`
}

// Spare is a disk that is not used yet, of SpareBytes: a restore may put another in its place, which is read-only if it is.
type Spare struct{ ReadOnly bool }

// SpareBytes is the size of a spare disk.
const SpareBytes = 1 << 20

// Slot is a virtio-blk disk of a microVM that is to be launched.
type Slot struct {
	Disk     *Disk // nil when it is spare
	ReadOnly bool
}

// Slots are all disks that the microVM is to have, in its order. Without From these are Disks and then Spares. With it they are
// those that it was saved with: each disk is in the slot of its role, or else in the first spare one that is read-only if it
// is; no slot that had a disk may be without one, since its guest may use it.
func (s MachineSpec) Slots() ([]Slot, error) {
	if s.From == nil {
		slots := make([]Slot, 0, len(s.Disks)+len(s.Spares))
		for i := range s.Disks {
			slots = append(slots, Slot{&s.Disks[i], s.Disks[i].ReadOnly})
		}
		for _, spare := range s.Spares {
			slots = append(slots, Slot{nil, spare.ReadOnly})
		}
		return slots, nil
	}
	slots := make([]Slot, len(s.From.Disks))
	for i, saved := range s.From.Disks {
		slots[i].ReadOnly = saved.ReadOnly
	}
	for i := range s.Disks {
		n := s.From.slot(slots, s.Disks[i])
		if n < 0 {
			return nil, fmt.Errorf("the saved microVM has no free disk that could be %s (read-only: %t)", s.Disks[i].Role, s.Disks[i].ReadOnly)
		}
		slots[n].Disk = &s.Disks[i]
	}
	for i, saved := range s.From.Disks {
		if saved.Role != "" && slots[i].Disk == nil {
			return nil, fmt.Errorf("the saved microVM has a disk %s, and there is none for it", saved.Role)
		}
	}
	return slots, nil
}

// slot is the number of the slot for a disk; negative when there is none.
func (s *SavedState) slot(taken []Slot, d Disk) int {
	for _, role := range []DiskRole{d.Role, ""} {
		for i, saved := range s.Disks {
			if saved.Role == role && saved.ReadOnly == d.ReadOnly && taken[i].Disk == nil {
				return i
			}
		}
	}
	return -1
}

// DiskSlots are the slots as a state of the microVM would have them, with the sizes of the files that are in them now.
func DiskSlots(slots []Slot) ([]DiskSlot, error) {
	list := make([]DiskSlot, len(slots))
	for i, s := range slots {
		list[i] = DiskSlot{ReadOnly: s.ReadOnly, SizeBytes: SpareBytes}
		if s.Disk == nil {
			continue
		}
		info, err := os.Stat(s.Disk.Path)
		if err != nil {
			return nil, fmt.Errorf("find the disk %s: %w", s.Disk.Role, err)
		}
		list[i].Role, list[i].SizeBytes = s.Disk.Role, info.Size()
	}
	return list, nil
}

// GuestDisk is a disk of a microVM that was restored, and how its guest finds it.
type GuestDisk struct {
	Disk
	// Device is the name in the guest's /dev that it has had since the guest booted. Empty: it is the disk that has the role as its
	// virtio-blk serial.
	Device string
	// SizeBytes is the size of the file. The guest still takes the disk for as large as it was when it was saved.
	SizeBytes int64
	// Rebind says that another size shows only when the disk's driver is bound to it again. Without, its kernel is told the
	// size as soon as the guest goes on (a configuration change of virtio-blk, upon which the kernel sends a uevent with
	// RESIZE=1), and the driver must not be bound again: the device may not know how to be reset.
	Rebind bool
}

// Placer is implemented by machines that a Launch with From has restored, as long as the process that launched them has them.
type Placer interface {
	// GuestDisks are MachineSpec.Disks, for the guest to be told of (Disk.Parameter was for its kernel).
	GuestDisks() []GuestDisk
}
