package manager

import (
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Events is where all that happens to sandboxes is told.
func (m *Manager) Events() *events.Hub { return m.events }

// publish tells of something that happened to a sandbox.
func (m *Manager) publish(rec sandbox.Record, ev events.Event) {
	ev.Sandbox, ev.SandboxID = rec.Spec.Name, rec.ID
	m.events.Publish(ev)
	m.meters.event(ev)
}

// moved tells that a sandbox, whose record is rec now, has come into another state; from is "" for a new one.
func (m *Manager) moved(rec sandbox.Record, from sandbox.State) {
	if rec.State == from {
		return
	}
	m.publish(rec, events.Event{Type: events.State, From: string(from), To: string(rec.State), Reason: rec.Reason})
}

// execEvents tells of one command's start and, once, of its end.
type execEvents struct {
	m     *Manager
	rec   sandbox.Record
	id    string
	argv  []string
	began time.Time
	done  func() // the sandbox has no longer this use
	quiet bool   // another one tells
	once  sync.Once
}

// event takes what the guest says of the command.
func (t *execEvents) event(ev guestrpc.Event) {
	switch ev := ev.(type) {
	case guestrpc.Started:
		if t.quiet {
			return
		}
		t.m.publish(t.rec, events.Event{Type: events.ExecStart, ExecID: t.id, Argv: t.argv, PID: int(ev.PID)})
	case guestrpc.Exited:
		end := events.Event{Signal: int(ev.Signal), TimedOut: ev.TimedOut}
		if ev.Signal == 0 {
			code := int(ev.Code)
			end.ExitCode = &code
		}
		t.end(end)
	case guestrpc.Failed:
		t.end(events.Event{Reason: ev.Message})
	}
}

// end tells of the end; only the first one counts.
func (t *execEvents) end(ev events.Event) {
	t.once.Do(func() {
		t.done()
		if t.quiet {
			return
		}
		ev.Type, ev.ExecID, ev.Argv, ev.Duration = events.ExecEnd, t.id, t.argv, time.Since(t.began)
		t.m.publish(t.rec, ev)
	})
}

// handOver returns what tells of the end in t's place. It is nil when the end has been told.
func (t *execEvents) handOver() (other *execEvents) {
	t.once.Do(func() { other = &execEvents{m: t.m, rec: t.rec, id: t.id, argv: t.argv, began: t.began, done: t.done} })
	return other
}
