package main

import (
	"runtime"
	"runtime/debug"
	"time"
)

// How much the heap may grow before garbage is collected: debug.SetGCPercent. It is small, and memory is what a microVM has least of:
// by the runtime's own setting the agent would grow by 4 MiB of garbage. But under emulation a collection takes a guest as long as a
// command, as its code has not run yet, so that none is to fall into the first moments of a sandbox.
const (
	firstGCPercent = 100
	gcPercent      = 20
)

// firstMoments is how long the heap of a sandbox may grow as it likes. Many a sandbox has done its work by then.
const firstMoments = 5 * time.Second

// growFreely lets the heap grow until keepSmall has been called.
func growFreely() { debug.SetGCPercent(firstGCPercent) }

// keepSmall keeps the heap small, after a while.
func keepSmall() {
	time.AfterFunc(firstMoments, func() {
		debug.SetGCPercent(gcPercent)
		runtime.GC()
	})
}
