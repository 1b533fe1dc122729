// Package confine puts a VMM into namespaces and a root directory of its own, and says what confines a process that runs.
//
// A VMM that is to be confined is not started itself: our own program is, by the name Command, in new namespaces. There it
// mounts a tmpfs, binds into it the files that the VMM needs, and becomes the VMM, or becomes Firecracker's jailer, which does the
// rest. So all mounts are in a mount namespace that ends with the VMM, and nothing can be left over of them; no big file is
// copied; and what the VMM can see is what a Plan names.
//
// Two kinds of confinement come of this. With root's rights the VMM gets a user of its own (Owner). Without them it gets a user
// namespace in which it is the same user as before and has no capability; where the kernel does not let users make one, Probe
// says so and why.
package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Command is the argument by which our program knows that it is to call Main.
const Command = "confine-vmm"

// ErrNotLinux is returned everywhere but on Linux.
var ErrNotLinux = errors.New("processes can be confined on Linux only")

// Plan is what a process sees of the file system, and what it becomes.
type Plan struct {
	// Mount is an existing empty directory. A tmpfs is mounted there, for this process alone.
	Mount string `json:"mount"`
	// Inside is the directory in the tmpfs that is the root of what is named here; empty for the tmpfs itself.
	Inside string `json:"inside,omitempty"`
	Binds  []Bind `json:"binds,omitempty"`
	// Pivot makes it the root directory before the program is run, and gives up all rights. Without, this is left to the
	// program, which is a jailer.
	Pivot bool `json:"pivot,omitempty"`
	// Devices are names in /dev that are there in the new root when the host has them. They belong to UID and GID.
	Devices []string `json:"devices,omitempty"`
	// UID and GID are whom the process becomes; 0 when it stays who it is.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
	// Args is the command line. Its first element is the path of the program, in the new root with Pivot.
	Args []string `json:"args"`
}

// Bind is a file or a directory of the host that the process sees.
type Bind struct {
	From     string `json:"from"`
	To       string `json:"to"` // in the new root
	Writable bool   `json:"writable,omitempty"`
}

// Arguments is the argv of our program that carries out plan. The marker tells the process from all others.
func (p Plan) Arguments(marker string) ([]string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode a plan: %w", err)
	}
	return []string{"agentkernel", Command, marker, string(text)}, nil
}

// FirstOwner is the first of the user ids that VMMs get, and the group of all of them. Nothing else should use the range up to
// lastOwner: systemd's list of the ranges in use (UIDS-GIDS) has it as unused, and neither distributions nor subuid(5) give
// out ids that high. No entry in passwd(5) is needed.
const (
	FirstOwner = 0x70000000
	lastOwner  = 0x7ffdffff
)

// Owner is the user and the group of a sandbox's VMM, derived from the sandbox's id (16 hex digits), so that it is the same at
// every start: the sandbox's disk belongs to it. Two of a thousand sandboxes have the same one with a probability of 1 in 500; they
// are then kept apart by their namespaces alone.
func Owner(sandbox string) (uid, gid int, err error) {
	n, err := strconv.ParseUint(sandbox, 16, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("derive a user from a sandbox's id: %w", err)
	}
	return FirstOwner + 1 + int(n%(lastOwner-FirstOwner)), FirstOwner, nil
}

// Limits of a VMM's cgroup.
type Limits struct {
	MemoryBytes int64
	Processes   int // threads count
	CPUs        int
}
