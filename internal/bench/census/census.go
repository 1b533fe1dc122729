// Package census counts what sandboxes have on a host, as the kernel tells it: processes, sockets, descriptors. It is told by
// nobody what there should be, so it finds what was forgotten.
package census

import "time"

// marker is in the arguments of every VMM, of whatever engine, followed by the id of its sandbox.
const marker = "agentkernel-"

// Process is one that has the marker of a sandbox in its arguments.
type Process struct {
	PID     int
	Sandbox string // id
	Command string // its arguments, cut to 200 bytes
}

// Identity tells a process from those that have its PID before and after it.
type Identity struct {
	PID   int
	Start uint64 // the kernel's clock ticks since its boot
}

// Activity is what the threads of a process that now live have done since their start.
type Activity struct {
	CPU      time.Duration
	Switches uint64 // how often one has left a processor, by itself or not
}
