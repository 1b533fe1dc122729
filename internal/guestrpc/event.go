package guestrpc

import (
	"errors"
	"fmt"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// Event is something that an Exec tells: one of the types below.
type Event interface{ event() }

// The events of an Exec. The first is Started or Failed, the last is Exited, Failed or Detached.
type (
	// Started says that the command runs.
	Started struct{ PID uint32 }
	// Stdout is a piece of the command's output, 1 byte to 32 KiB.
	Stdout []byte
	// Stderr is a piece of the command's error output, 1 byte to 32 KiB.
	Stderr []byte
	// StdinCredit says how many more bytes SendStdin takes.
	StdinCredit uint32
	// Exited says how the command ended.
	Exited struct {
		Code     uint32 // 0-255; 0 when a signal ended it
		Signal   uint32 // 1-64; 0 when none
		TimedOut bool   // its time was over, and it was killed for that
		// OOMKilled says that the kernel killed a process of the command for its limit on memory.
		OOMKilled bool
	}
	// Detached says that nothing more comes, and that the command runs on.
	Detached struct{}
	// Dropped says how many bytes of output are missing before what comes next.
	Dropped uint64
	// Failed says why no command ran.
	Failed struct {
		Reason  Reason
		Message string // printable
	}
)

func (Started) event()     {}
func (Stdout) event()      {}
func (Stderr) event()      {}
func (StdinCredit) event() {}
func (Exited) event()      {}
func (Failed) event()      {}
func (Detached) event()    {}
func (Dropped) event()     {}

// Reason is why a command did not run.
type Reason int

// The reasons. The numbers are those of the protocol.
const (
	NotFound      = Reason(guestv1.ExecFailed_NOT_FOUND)
	NotExecutable = Reason(guestv1.ExecFailed_NOT_EXECUTABLE)
	BadRequest    = Reason(guestv1.ExecFailed_BAD_REQUEST)
	Failure       = Reason(guestv1.ExecFailed_INTERNAL)
)

// maxPiece bounds one message with stdin or output, in bytes.
const maxPiece = 32 << 10

// maxStdinCredit bounds how much stdin a guest may ask for at once, in bytes.
const maxStdinCredit = 64 << 20

// decoder turns what the guest says about one command into events, in the order that the protocol allows.
type decoder struct {
	hasStdin bool
	terminal bool // all output is stdout
	detach   bool // may end with Detached
	attached bool // there may be a gap in the output
	started  bool
	ended    bool
}

func (d *decoder) decode(r *guestv1.ExecResponse) (Event, error) {
	if d.ended {
		return nil, errors.New("the guest sent something after the end of the command")
	}
	switch m := r.GetMsg().(type) {
	case *guestv1.ExecResponse_Started:
		if d.started {
			return nil, errors.New("the guest says twice that the command has started")
		}
		d.started = true
		return Started{m.Started.GetPid()}, nil
	case *guestv1.ExecResponse_Failed:
		return d.failed(m.Failed)
	case nil:
		return nil, errors.New("the guest sent an empty message")
	}
	if !d.started {
		return nil, errors.New("the guest sent something before the start of the command")
	}
	switch m := r.GetMsg().(type) {
	case *guestv1.ExecResponse_Stdout:
		return Stdout(m.Stdout), checkOutput(len(m.Stdout))
	case *guestv1.ExecResponse_Stderr:
		if d.terminal {
			return nil, errors.New("the guest sent error output of a command with a terminal")
		}
		return Stderr(m.Stderr), checkOutput(len(m.Stderr))
	case *guestv1.ExecResponse_StdinCredit:
		if !d.hasStdin || m.StdinCredit == 0 || m.StdinCredit > maxStdinCredit {
			return nil, fmt.Errorf("the guest asked for %d bytes of stdin", m.StdinCredit)
		}
		return StdinCredit(m.StdinCredit), nil
	case *guestv1.ExecResponse_Exited:
		return d.exited(m.Exited)
	case *guestv1.ExecResponse_Detached:
		if !d.detach {
			return nil, errors.New("the guest let a command go that was to be waited for")
		}
		d.ended = true
		return Detached{}, nil
	case *guestv1.ExecResponse_Dropped:
		if !d.attached || m.Dropped == 0 {
			return nil, fmt.Errorf("the guest says that %d bytes of output are missing", m.Dropped)
		}
		return Dropped(m.Dropped), nil
	}
	return nil, fmt.Errorf("the guest sent a message of an unknown type")
}

func checkOutput(n int) error {
	if n == 0 || n > maxPiece {
		return fmt.Errorf("the guest sent a piece of output of %d bytes, and 1 to %d are allowed", n, maxPiece)
	}
	return nil
}

func (d *decoder) exited(m *guestv1.ExecExited) (Event, error) {
	d.ended = true
	e, err := checkExit(m)
	if err != nil {
		return nil, err
	}
	return e, nil
}

func checkExit(m *guestv1.ExecExited) (Exited, error) {
	code, signal := m.GetCode(), m.GetSignal()
	if code > 255 || signal > 64 || code != 0 && signal != 0 {
		return Exited{}, fmt.Errorf("the guest says that the command ended with code %d and signal %d, which cannot be", code, signal)
	}
	return Exited{code, signal, m.GetTimedOut(), m.GetOomKilled()}, nil
}

func (d *decoder) failed(m *guestv1.ExecFailed) (Event, error) {
	d.ended = true
	reason := Reason(m.GetReason())
	if d.started && reason != Failure {
		return nil, errors.New("the guest says that the command did not run, after it had started")
	}
	switch reason {
	case NotFound, NotExecutable, BadRequest, Failure:
		return Failed{reason, clean(m.GetMessage())}, nil
	}
	return nil, fmt.Errorf("the guest says that the command did not run, for the unknown reason %d", reason)
}
