// Package events tells whoever wants to know what happens to sandboxes: a Hub keeps the last events in a ring of fixed size,
// and any number of readers follow it, each at its own pace. A reader that is too slow is told how many events it has
// missed; it never holds up who publishes.
package events

import (
	"time"
	"unicode/utf8"
)

// Type is what kind of thing happened.
type Type string

// The types of events.
const (
	State       Type = "sandbox.state"    // From, To, and Reason when it failed
	Removed     Type = "sandbox.removed"  // the sandbox and its disks are gone
	IdleTimeout Type = "sandbox.idle"     // nothing happened for its idle timeout: it is about to be stopped
	VMMEnd      Type = "vmm.end"          // the VMM process is gone: Reason
	Snapshot    Type = "sandbox.snapshot" // a snapshot of it was taken: Snapshot, Tag, and Duration, for which it stood still
	ExecStart   Type = "exec.start"       // ExecID, Argv, PID
	ExecEnd     Type = "exec.end"         // ExecID, Argv, Duration; ExitCode and Signal when they are known, else Reason
	OOMKill     Type = "guest.oom"        // the guest's kernel killed a process for want of memory: PID, Process, Count
	Lost        Type = "lost"             // from a reader's own: Count events have been missed, or, with 0, an unknown number
)

// Types lists the types that are published.
func Types() []Type {
	return []Type{State, Removed, IdleTimeout, VMMEnd, Snapshot, ExecStart, ExecEnd, OOMKill}
}

// Event is one thing that happened. Fields that its type has no use for are zero.
type Event struct {
	Seq       uint64 // grows by one with each event, and goes on growing when the daemon is started anew
	Time      time.Time
	Type      Type
	Sandbox   string // its name
	SandboxID string

	From, To string // states
	Reason   string
	ExecID   string
	Argv     []string // cut to what Argv keeps
	ExitCode *int     // 0-255
	Signal   int      // 1-64; 0 when none
	TimedOut bool
	Duration time.Duration
	PID      int    // in the guest
	Process  string // its name
	Snapshot string // its id
	Tag      string
	Count    uint64
}

// Limits of what an event keeps of a command line, in bytes and in arguments.
const (
	maxArgv      = 1024
	maxArguments = 64
)

// Argv returns what an event keeps of a command line: up to 64 arguments and 1 KiB. "…" stands for what is left out.
func Argv(argv []string) []string {
	var kept []string
	room := maxArgv
	for _, a := range argv {
		if len(kept) == maxArguments || room <= 0 {
			return append(kept, "…")
		}
		if len(a) > room {
			cut := room
			for cut > 0 && !utf8.RuneStart(a[cut]) {
				cut--
			}
			return append(kept, a[:cut]+"…")
		}
		kept = append(kept, a)
		room -= len(a)
	}
	return kept
}
