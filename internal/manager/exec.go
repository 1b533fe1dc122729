package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// guest is the guest agent of one microVM. A broken control connection is made anew when it is needed next.
type guest struct {
	machine  sandbox.Machine
	identity guestrpc.Identity
	tookUp   *sandbox.Hygiene // what was found when it was adopted while it was being restored

	capabilities []string // what the guest agent named when it came

	making chan struct{} // holds one token while a connection is being made
	life   context.Context
	end    context.CancelCauseFunc // of life; with close

	mu     sync.Mutex // never held while waiting
	client *guestrpc.Client
}

// connect waits for the guest agent of the machine of rec to answer.
func connect(ctx context.Context, machine sandbox.Machine, rec sandbox.Record) (*guest, error) {
	g := &guest{machine: machine, identity: identityOf(rec), making: make(chan struct{}, 1)}
	g.life, g.end = context.WithCancelCause(context.Background())
	client, err := g.control(ctx)
	if err != nil {
		return nil, err
	}
	g.capabilities = client.Info().Capabilities
	return g, nil
}

func identityOf(rec sandbox.Record) guestrpc.Identity {
	return guestrpc.Identity{Hostname: rec.Spec.Name, MachineID: sandbox.MachineID(rec.ID)}
}

func (g *guest) dial(ctx context.Context) (conn guestrpc.Conn, err error) {
	return g.machine.Dial(ctx, sandbox.GuestAgentPort)
}

// control returns the client of a control connection that works. It returns when ctx ends or g is closed, whatever the guest
// and others who wait for it do.
func (g *guest) control(ctx context.Context) (*guestrpc.Client, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(g.life, func() { cancel(context.Cause(g.life)) })()
	select {
	case g.making <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-g.making }()
	g.mu.Lock()
	client := g.client
	g.mu.Unlock()
	if client != nil && client.Alive() {
		return client, nil
	}
	if client != nil {
		client.Close()
	}
	client, err := guestrpc.Connect(ctx, g.dial, g.identity)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.life.Err() != nil {
		client.Close()
		return nil, context.Cause(g.life)
	}
	g.client = client
	return client, nil
}

func (g *guest) info() guestrpc.Info {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.client.Info()
}

func (g *guest) shutdown(ctx context.Context, grace time.Duration) error {
	client, err := g.control(ctx)
	if err != nil {
		return err
	}
	return client.Shutdown(ctx, grace)
}

// hangUp ends the control connection. The next control makes another one.
func (g *guest) hangUp() {
	g.mu.Lock()
	client := g.client
	g.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// gone reports whether the end of the microVM, which done tells of, is behind an error of a connection to it. The link breaks in
// the same moment as the VMM ends, and the end is noticed a little later; a guest that still answers has not ended.
func (g *guest) gone(done <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	answered := make(chan struct{})
	go func() {
		if g.ping(ctx) == nil {
			close(answered)
		}
	}()
	select {
	case <-done:
		return true
	case <-answered:
	case <-ctx.Done():
	}
	return false
}

// ping returns when the guest agent has answered on the connection that there is.
func (g *guest) ping(ctx context.Context) error {
	g.mu.Lock()
	client := g.client
	g.mu.Unlock()
	return client.Ping(ctx)
}

func (g *guest) close() {
	if g == nil {
		return
	}
	g.end(guestrpc.ErrBroken)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		g.client.Close()
	}
}

// Exec is a command that runs in a sandbox. Recv and Close may be called from one goroutine, the sending methods from
// another.
type Exec struct {
	*guestrpc.Exec
	m       *Manager
	b       *box
	g       *guest
	id      string
	began   time.Time
	machine sandbox.Machine
	watched <-chan struct{}
	closed  atomic.Bool
	told    *execEvents

	attached bool // to a command that was started before
}

// ID of the command, unique in its microVM.
func (x *Exec) ID() string { return x.id }

// Close ends the command when it still runs and is not in the background, and frees what belongs to it.
func (x *Exec) Close() error {
	x.closed.Store(true)
	x.told.end(events.Event{Reason: "the client went away"})
	return x.Exec.Close()
}

// Exec starts a command in a running sandbox.
func (m *Manager) Exec(ctx context.Context, name string, spec guestrpc.ExecSpec) (*Exec, error) {
	r, err := m.running(ctx, name)
	if err != nil {
		return nil, err
	}
	done, err := r.b.use()
	if err != nil {
		return nil, err
	}
	x := &Exec{m: m, b: r.b, g: r.guest, id: newID(), began: time.Now(), machine: r.machine, watched: r.watched}
	client, err := x.g.control(ctx)
	if err != nil {
		done()
		return nil, x.explain(err)
	}
	rec := r.b.record()
	spec = withImage(spec, rec)
	x.told = &execEvents{m: m, rec: rec, id: x.id, argv: events.Argv(spec.Argv), began: x.began, done: done}
	spec.ID = x.id
	if x.Exec, err = client.Exec(ctx, spec); err != nil {
		done()
		return nil, x.explain(err)
	}
	return x, nil
}

// Recv returns the next event. When the microVM ends meanwhile, its end has been recorded before the error is returned.
func (x *Exec) Recv() (guestrpc.Event, error) {
	ev, err := x.Exec.Recv()
	if err != nil {
		if !errors.Is(err, io.EOF) { // after the last event
			err = x.explain(err)
			x.told.end(events.Event{Reason: err.Error()})
		}
		return ev, err
	}
	if _, ok := ev.(guestrpc.Exited); ok && !x.attached {
		x.m.timeFirstExec(x.b, time.Since(x.began))
	}
	if _, ok := ev.(guestrpc.Detached); ok && !x.attached {
		if told := x.told.handOver(); told != nil {
			x.m.watchDetached(x.b, x.g, told)
		}
		return ev, nil
	}
	x.told.event(ev)
	return ev, nil
}

// Signal sends a signal to the command's process group.
func (x *Exec) Signal(ctx context.Context, signal uint32) error {
	client, err := x.g.control(ctx)
	if err != nil {
		return err
	}
	return client.Signal(ctx, x.id, signal)
}

// explain says whether the end of the microVM is behind err. The link breaks in the same moment as the VMM ends.
func (x *Exec) explain(err error) error {
	if x.closed.Load() {
		return err
	}
	name := x.b.record().Spec.Name
	if !x.g.gone(x.watched) {
		return sandbox.Errorf(sandbox.Failure, "", "run a command in sandbox %q: %w", name, err)
	}
	reason := x.b.record().Reason
	if reason == "" {
		reason = "it was " + string(x.b.record().State) // stopped, or suspended
	}
	return sandbox.Errorf(sandbox.Failure, fmt.Sprintf("agentkernel logs %s shows its console; agentkernel start %s starts it again", name, name),
		"the microVM of sandbox %q ended while a command ran: %s", name, reason)
}

func (m *Manager) timeFirstExec(b *box, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.firstExec || b.started.IsZero() {
		return
	}
	b.firstExec = true
	s := sandbox.Stage{Name: "first exec", Duration: took}
	b.rec.Stages = append(b.rec.Stages[:len(b.rec.Stages):len(b.rec.Stages)], s)
	m.meters.stage(s)
}
