// Package snapshot keeps what belongs to a saved microVM: its memory and devices as the engine has saved them, copies of its
// disks, and a manifest that says what all of it is and what is to be in it.
//
// A directory with a manifest is whole: all its files are on the host's disk before the manifest is written. Whether they are still
// what was written is checked before a VMM is given them (Checker).
package snapshot

import (
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Version is the version of Manifest that this build writes, and the newest that it reads.
const Version = 1

// StateDir is the directory of the engine's files, below that of the manifest. It holds nothing else.
const StateDir = "state"

const manifestFile = "manifest.json"

// Manifest is what is kept on disk about a saved microVM.
type Manifest struct {
	Version   int       `json:"version"`
	ID        string    `json:"id"` // 16 hex digits; its directory, where it has one of its own
	Sandbox   string    `json:"sandbox"`
	SandboxID string    `json:"sandbox_id"`
	Tag       string    `json:"tag,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// Parent is the id of the snapshot that the sandbox was made from.
	Parent string `json:"parent,omitempty"`
	// Spec is the sandbox's. VCPUs, MemoryMiB and Arch cannot be others in a restored one.
	Spec   sandbox.Spec  `json:"spec"`
	Image  sandbox.Image `json:"image"`
	Kernel Artifact      `json:"kernel"` // what it was booted with: its memory has them, and a restore does not need the files
	Initrd Artifact      `json:"initrd"`

	State sandbox.SavedState `json:"state"`
	Disks []Disk             `json:"disks"` // those that the guest writes to, and the project's
	Files []File             `json:"files"`
	// PausedFor is how long the guest stood still for it.
	PausedFor time.Duration `json:"paused_for_ns"`
}

// Artifact is a file that a microVM was booted with.
type Artifact struct {
	Release string `json:"release,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // hex; empty when the file was gone already
}

// Disk is a disk of the saved microVM.
type Disk struct {
	Role sandbox.DiskRole `json:"role"`
	// File is the copy, beside the manifest. Empty: the disk is where it was, and is not to have changed since it had SizeBytes
	// bytes and was last written to at Modified.
	File      string    `json:"file,omitempty"`
	SizeBytes int64     `json:"size_bytes"`
	Modified  time.Time `json:"modified,omitzero"`
}

// File is what a file has to be, for a restore.
type File struct {
	Path      string `json:"path"` // below the manifest's directory
	SizeBytes int64  `json:"size_bytes"`
	Sum       string `json:"sum"` // see Sum
}

var tagRE = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,63}$`)

// ValidateTag returns an *Error of kind Invalid unless tag can be a snapshot's: it has the form of a container image's tag, with at
// most 64 characters.
func ValidateTag(tag string) error {
	if !tagRE.MatchString(tag) {
		return sandbox.Errorf(sandbox.Invalid, "use at most 64 letters, digits and '_', '.', '-', and begin with none of the last two", "%.70q is not a tag", tag)
	}
	return nil
}

// Validate checks a manifest that was read from disk.
func (m Manifest) Validate() error {
	switch {
	case m.Version < 1:
		return fmt.Errorf("it has no version")
	case !sandbox.ValidID(m.ID):
		return fmt.Errorf("%q is not an id", m.ID)
	case m.Tag != "" && !tagRE.MatchString(m.Tag):
		return fmt.Errorf("%q is not a tag", m.Tag)
	case m.State.Engine == "":
		return fmt.Errorf("it does not say which engine has saved it")
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Path) || f.Path != filepath.Clean(f.Path) || f.Path == "." || f.SizeBytes < 0 {
			return fmt.Errorf("%q is not a file of it", f.Path)
		}
	}
	for _, name := range m.State.Files {
		if !isName(name) {
			return fmt.Errorf("%q is not a file of the engine's", name)
		}
	}
	for _, d := range m.Disks {
		if d.File != "" && !isName(d.File) {
			return fmt.Errorf("%q is not a disk of it", d.File)
		}
	}
	return sandbox.ValidateName(m.Sandbox)
}

// isName reports whether s is the name of a file in a directory.
func isName(s string) bool { return s == filepath.Base(s) && filepath.IsLocal(s) && s != "." }

// Ref is what a user calls it: sandbox:tag, or the id when it has no tag.
func (m Manifest) Ref() string {
	if m.Tag == "" {
		return m.ID
	}
	return m.Sandbox + ":" + m.Tag
}

// SizeBytes is the virtual size of all files.
func (m Manifest) SizeBytes() (n int64) {
	for _, f := range m.Files {
		n += f.SizeBytes
	}
	return n
}

// In is the saved state, for an engine: dir is the manifest's directory.
func (m Manifest) In(dir string) sandbox.SavedState {
	s := m.State
	s.Dir = filepath.Join(dir, StateDir)
	return s
}
