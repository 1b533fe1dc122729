// Package sandbox is the domain: what a sandbox is (Spec), the states it passes through (State and its one transition
// table), what drives its microVM (Engine, Machine), and the errors that a user sees (Error). It holds no behaviour that
// touches the host, and imports nothing but the standard library, so that every other package can speak its language.
package sandbox

import "errors"

// ErrGone is returned by Engine.Adopt when the VMM of a record no longer runs.
var ErrGone = errors.New("the VMM process is gone")
