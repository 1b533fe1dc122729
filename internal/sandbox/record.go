package sandbox

import (
	"fmt"
	"time"
)

// RecordVersion is the version of Record that this build writes, and the newest that it reads.
const RecordVersion = 1

// Record is what is kept on disk about a sandbox.
type Record struct {
	Version    int            `json:"version"`
	ID         string         `json:"id"` // 16 hex digits
	Spec       Spec           `json:"spec"`
	State      State          `json:"state"`
	Reason     string         `json:"reason,omitempty"` // why it failed, or was stopped without a request
	Image      Image          `json:"image"`
	Warnings   []string       `json:"warnings,omitempty"` // said at create
	CreatedAt  time.Time      `json:"created_at"`
	StartedAt  time.Time      `json:"started_at,omitzero"`
	FinishedAt time.Time      `json:"finished_at,omitzero"`
	Kernel     string         `json:"kernel,omitempty"` // release of the last start's kernel
	Machine    *MachineRecord `json:"machine,omitempty"`
	Stages     []Stage        `json:"stages,omitempty"`
	Bindings   []Binding      `json:"bindings,omitempty"` // what of Spec.Publish is listened on; for the next daemon as well
	Hygiene    *Hygiene       `json:"hygiene,omitempty"`  // of the last start
	// KernelFile and InitrdFile are what the kernel that runs was booted from.
	KernelFile string `json:"kernel_file,omitempty"`
	InitrdFile string `json:"initrd_file,omitempty"`
	// Saving is set while the microVM is being saved: its vCPUs may be halted and its commands frozen although it runs.
	Saving bool `json:"saving,omitempty"`
	// Restore says what the next start goes on from, instead of booting.
	Restore *Restore `json:"restore,omitempty"`
	Parent  *Parent  `json:"parent,omitempty"`
	// Instructions is the count of guest instructions to readiness of the last start; 0 when it was not counted.
	Instructions uint64 `json:"instructions,omitempty"`
}

// Restore is a saved microVM that a sandbox goes on from.
type Restore struct {
	Kind RestoreKind `json:"kind"`
	ID   string      `json:"id,omitempty"` // of the snapshot
}

// RestoreKind says where a saved microVM is.
type RestoreKind string

// The kinds of saved microVMs.
const (
	RestoreSuspended RestoreKind = "suspended" // in the sandbox's own directory
	RestoreSnapshot  RestoreKind = "snapshot"  // in a snapshot, with the disks
	RestoreFork      RestoreKind = "fork"      // as a snapshot that is gone when the daemon ends
	RestoreTemplate  RestoreKind = "template"  // never recorded: any start may go on from one
)

// Parent is what a sandbox was made from.
type Parent struct {
	Sandbox   string `json:"sandbox"` // its name then
	SandboxID string `json:"sandbox_id"`
	Snapshot  string `json:"snapshot,omitempty"` // its id; empty for a fork
}

// Validate checks a record that was read from disk.
func (r Record) Validate() error {
	switch {
	case r.Version > RecordVersion:
		return fmt.Errorf("it has version %d, and this build reads up to %d", r.Version, RecordVersion)
	case r.Version < 1:
		return fmt.Errorf("it has no version")
	case !ValidID(r.ID):
		return fmt.Errorf("%q is not an id", r.ID)
	case !r.State.Valid():
		return fmt.Errorf("%q is not a state", r.State)
	}
	return ValidateName(r.Spec.Name)
}

// ValidID reports whether id has the form of a sandbox id: 16 lower-case hex digits.
func ValidID(id string) bool {
	if len(id) != 16 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
