package sandbox

import "fmt"

// State is where a sandbox stands in its life. The zero value is not a state.
type State string

// The states of a sandbox. Removing is the last one that is ever recorded: what follows is that the record is gone.
const (
	Created   State = "created"   // disks exist, no microVM has run yet
	Starting  State = "starting"  // a VMM is being started, or the guest agent has not answered yet
	Running   State = "running"   // the guest agent answers
	Paused    State = "paused"    // vCPUs are halted, memory stays in the VMM
	Suspended State = "suspended" // memory is on disk, there is no VMM
	Stopping  State = "stopping"  // the guest was asked to shut down
	Stopped   State = "stopped"   // no VMM; the disks are kept
	Failed    State = "failed"    // the microVM ended without being asked to; the disks are kept
	Removing  State = "removing"  // everything that belongs to the sandbox is being deleted
)

// States lists all states, in the order of a life.
func States() []State {
	return []State{Created, Starting, Running, Paused, Suspended, Stopping, Stopped, Failed, Removing}
}

// transitions is the one table of what may follow what. Removing is reachable from everywhere.
var transitions = map[State][]State{
	Created:   {Starting},
	Starting:  {Running, Suspended, Stopping, Failed},
	Running:   {Paused, Suspended, Stopping, Failed},
	Paused:    {Running, Suspended, Stopping, Failed},
	Suspended: {Starting, Stopped},
	Stopping:  {Stopped, Failed},
	Stopped:   {Starting},
	Failed:    {Starting},
	Removing:  {},
}

// Valid reports whether s is one of the states above.
func (s State) Valid() bool {
	_, ok := transitions[s]
	return ok
}

// HasMachine reports whether a sandbox in state s may have a VMM process.
func (s State) HasMachine() bool {
	switch s {
	case Starting, Running, Paused, Stopping, Removing:
		return true
	}
	return false
}

// HasDisks reports whether a sandbox in state s may have its disks open, or has memory that knows what is on them: nobody else may
// write to its volumes then.
func (s State) HasDisks() bool { return s.HasMachine() || s == Suspended }

// TransitionError is returned for a step that the table does not have.
type TransitionError struct {
	Name     string // of the sandbox
	From, To State
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("sandbox %q is %s and cannot become %s", e.Name, e.From, e.To)
}

// Next returns nil when a sandbox called name may go from one state to another, and a *TransitionError when not.
func Next(name string, from, to State) error {
	if to == Removing && from != Removing {
		return nil
	}
	for _, s := range transitions[from] {
		if s == to {
			return nil
		}
	}
	return &TransitionError{Name: name, From: from, To: to}
}
