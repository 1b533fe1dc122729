// Package vmm keeps hold of a VMM's process, of whatever engine: its output goes to the logs, its end is noticed, told and
// cleared up after, and one that an earlier process of ours started is taken over.
package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// What ended the life of a VMM.
var (
	ErrEnded    = errors.New("the microVM has ended")
	ErrReleased = errors.New("the microVM was let go of")
)

// VMM is one that runs. An engine's machine embeds it, and has the methods of a sandbox.Machine from it but for Dial.
type VMM struct {
	Rec   sandbox.MachineRecord
	Parts []sandbox.Stage // of its start
	Proc  *process.Process
	Logs  vmmlog.Logs
	Log   *slog.Logger

	name  string
	hooks Hooks

	console, output *vmmlog.Recorder

	life     context.Context // over when the process has ended, or by Release
	endLife  context.CancelCauseFunc
	letGo    sync.Once
	release  chan struct{} // closed by Release
	done     chan struct{}
	finished chan struct{} // closed when nothing of ours runs any more
	exit     sandbox.Exit  // valid after done
}

// Hooks are an engine's part in the end of a VMM. All are called once at most, by one goroutine.
type Hooks struct {
	// Settle may be nil. It is called before Life is over, when the process has ended and its output was read to the end, or
	// when it is let go of and runs on (ended is false).
	Settle func(ended bool)
	// Close ends what else belongs to the machine, after Life.
	Close func()
	// Explain says how the process ended.
	Explain func(process.Status) sandbox.Exit
	// Remove deletes what it leaves.
	Remove func() error
}

// Take takes hold of a process. The name is that of the VMM, for messages. Watch is to follow, or Drop.
func Take(name string, proc *process.Process, rec sandbox.MachineRecord, logs vmmlog.Logs, log *slog.Logger) *VMM {
	v := &VMM{
		Rec: rec, Proc: proc, Logs: logs, Log: log, name: name,
		release: make(chan struct{}), done: make(chan struct{}), finished: make(chan struct{}),
	}
	v.life, v.endLife = context.WithCancelCause(context.Background())
	return v
}

// Drop takes back Take. The process and the logs are left to the caller.
func (v *VMM) Drop(why error) { v.endLife(why) }

// Watch records the two outputs of the VMM, which it owns, and waits for its end.
func (v *VMM) Watch(console, output io.ReadCloser, hooks Hooks) {
	v.hooks = hooks
	v.console = vmmlog.Record(console, v.Logs.Console, v.Log)
	v.output = vmmlog.Record(output, v.Logs.Output, v.Log)
	go v.watch()
}

// Life is over when the process has ended, or was let go of; its cause says which.
func (v *VMM) Life() context.Context { return v.life }

// watch waits for the end of the VMM, or for Release, and then ends all that belongs to the machine.
func (v *VMM) watch() {
	defer close(v.finished)
	ended, why, stop := true, ErrEnded, (*vmmlog.Recorder).Finish // the streams end with it: what it said last is read before they do
	select {
	case <-v.Proc.Done():
	case <-v.release:
		ended, why, stop = false, ErrReleased, (*vmmlog.Recorder).Stop
	}
	stop(v.console)
	stop(v.output)
	if v.hooks.Settle != nil {
		v.hooks.Settle(ended)
	}
	if !ended {
		v.Proc.Release()
	}
	v.endLife(why)
	v.hooks.Close()
	select {
	case <-v.Proc.Done():
		v.exit = v.hooks.Explain(v.Proc.Exit())
		if err := v.hooks.Remove(); err != nil {
			v.Log.Warn("remove what the VMM left", "err", err)
		}
		defer close(v.done)
	default:
	}
	v.Logs.Close()
}

// Record is what finds the VMM again.
func (v *VMM) Record() sandbox.MachineRecord { return v.Rec }

// Stages are the parts of its start.
func (v *VMM) Stages() []sandbox.Stage { return v.Parts }

// Done is closed when the VMM is gone and cleared up after.
func (v *VMM) Done() <-chan struct{} { return v.done }

// Exit is valid after Done.
func (v *VMM) Exit() sandbox.Exit { return v.exit }

// Kill ends the VMM at once and returns when it is gone.
func (v *VMM) Kill(ctx context.Context) error {
	if err := v.Proc.Kill(); err != nil {
		return err
	}
	select {
	case <-v.done:
		return nil
	case <-v.release:
		return ErrReleased
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s: %w", v.name, context.Cause(ctx))
	}
}

// Release lets go of the VMM without ending it.
func (v *VMM) Release() error {
	v.letGo.Do(func() { close(v.release) })
	<-v.finished
	return nil
}
