package kernel

import "sync"

// Phase is one stage of a build, in the order in which they come.
type Phase string

// The phases of a build. A cached kernel reports none but PhaseDone.
const (
	PhaseWait      Phase = "wait"      // another process builds the same kernel
	PhaseDownload  Phase = "download"  // Done and Total in bytes
	PhaseVerify    Phase = "verify"    // signature or digest of the source
	PhaseUnpack    Phase = "unpack"    // the source tree
	PhaseConfigure Phase = "configure" // patches, .config, and the check of it
	PhaseCompile   Phase = "compile"   // Done and Total in objects
	PhaseStore     Phase = "store"     // strip, digest, move into the store
	PhaseDone      Phase = "done"
)

// Event is one step of progress.
type Event struct {
	Phase Phase
	// Done of Total: bytes in PhaseDownload, objects in PhaseCompile, else 0.
	// Total is 0 when it is not known; in PhaseCompile it is an expectation.
	Done, Total int64
	// Detail is a line for people: a URL, a file name, why it waits.
	Detail string
}

// reporter hands events to a caller's function one at a time, from whichever
// goroutine they come.
type reporter struct {
	mu sync.Mutex
	fn func(Event)
}

func (r *reporter) report(e Event) {
	if r.fn == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fn(e)
}
