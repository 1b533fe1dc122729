package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Pause halts the vCPUs of a running sandbox; its memory stays in the VMM. A paused one is left as it is.
func (m *Manager) Pause(ctx context.Context, name string) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	if err := b.acquire(ctx); err != nil {
		return sandbox.Record{}, err
	}
	defer b.release()
	rec := b.record()
	if rec.State == sandbox.Paused {
		return rec, nil
	}
	if err := notPausable(rec); err != nil {
		return sandbox.Record{}, err
	}
	p, err := b.pauser()
	if err != nil {
		return sandbox.Record{}, err
	}
	// On disk first: a daemon that finds a paused sandbox halts its vCPUs again.
	if err := m.move(b, sandbox.Paused, nil); err != nil {
		return sandbox.Record{}, err
	}
	b.mu.Lock()
	b.stopIdleTimer()
	b.mu.Unlock()
	if err := p.Pause(context.WithoutCancel(ctx)); err != nil {
		if err := m.goesOn(b); err != nil {
			m.log.Error("record that a pause failed", "sandbox", name, "err", err)
		}
		return sandbox.Record{}, sandbox.Errorf(sandbox.Failure, "", "pause %q: %w", name, err)
	}
	m.log.Info("paused", "sandbox", name)
	return b.record(), nil
}

// paused is why a sandbox that is paused does not do what is asked of it.
func paused(name string) error {
	return sandbox.Errorf(sandbox.Conflict, "let it go on with agentkernel unpause "+name, "sandbox %q is paused", name)
}

func notPausable(rec sandbox.Record) error {
	if rec.State == sandbox.Running {
		return nil
	}
	return sandbox.Errorf(sandbox.Conflict, "only a sandbox that runs can be paused", "sandbox %q is %s, not running", rec.Spec.Name, rec.State)
}

// Unpause lets the vCPUs of a paused sandbox go on. A running one is left as it is.
func (m *Manager) Unpause(ctx context.Context, name string) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	if err := b.acquire(ctx); err != nil {
		return sandbox.Record{}, err
	}
	defer b.release()
	rec := b.record()
	switch rec.State {
	case sandbox.Running:
		return rec, nil
	case sandbox.Paused:
	default:
		return sandbox.Record{}, sandbox.Errorf(sandbox.Conflict, "", "sandbox %q is %s, not paused", name, rec.State)
	}
	if _, err := m.wake(context.WithoutCancel(ctx), b); err != nil {
		return sandbox.Record{}, sandbox.Errorf(sandbox.Failure, "agentkernel stop "+name+" ends it", "unpause %q: %w", name, err)
	}
	if err := m.goesOn(b); err != nil {
		return sandbox.Record{}, err
	}
	m.log.Info("unpaused", "sandbox", name)
	return b.record(), nil
}

// goesOn records that a paused sandbox runs again. The caller holds op.
func (m *Manager) goesOn(b *box) error {
	if err := m.move(b, sandbox.Running, nil); err != nil {
		return err
	}
	b.mu.Lock()
	m.beginIdle(b)
	b.mu.Unlock()
	return nil
}

// wake lets the vCPUs of a sandbox go on, whether they are halted or not, and returns its guest agent, which a daemon that has found
// a paused sandbox could not talk to until now. The caller holds op.
func (m *Manager) wake(ctx context.Context, b *box) (*guest, error) {
	p, err := b.pauser()
	if err != nil {
		return nil, err
	}
	if err := p.Resume(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	machine, g := b.machine, b.guest
	b.mu.Unlock()
	if g != nil {
		m.goOn(ctx, b, g)
		return g, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, adoptTimeout, fmt.Errorf("the guest agent did not answer within %v", adoptTimeout))
	defer cancel()
	if g, err = connect(ctx, machine, b.record()); err != nil {
		return nil, explain(ctx, machine, err)
	}
	m.goOn(ctx, b, g)
	b.mu.Lock()
	b.guest = g
	b.mu.Unlock()
	m.follow(b, machine, g)
	m.watchAllDetached(ctx, b, g)
	return g, nil
}

// reachable is the guest agent of a sandbox whose vCPUs may be halted, and go on for it.
func (m *Manager) reachable(ctx context.Context, b *box) (*guest, error) {
	b.mu.Lock()
	g, state := b.guest, b.rec.State
	b.mu.Unlock()
	if state != sandbox.Paused {
		return g, nil
	}
	return m.wake(ctx, b)
}

// pauser is the sandbox's microVM, when it is one that can be halted.
func (b *box) pauser() (sandbox.Pauser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machine == nil {
		return nil, errors.New("there is no microVM")
	}
	p, ok := b.machine.(sandbox.Pauser)
	if !ok {
		return nil, sandbox.Errorf(sandbox.Unavailable, "", "the engine of sandbox %q cannot halt its vCPUs", b.rec.Spec.Name)
	}
	return p, nil
}

// follow hears what the guest tells of itself. g may be nil.
func (m *Manager) follow(b *box, machine sandbox.Machine, g *guest) {
	if g != nil && g.can(guestrpc.StatsCapability) && m.inBackground() {
		go m.watchGuest(b, machine, g)
	}
}

// inBackground counts one more goroutine that Close waits for, unless it has been called. The goroutine ends with background.Done.
func (m *Manager) inBackground() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.background.Add(1)
	}
	return !m.closed
}

// wakeToEnd is wake for a sandbox that is about to be stopped: what keeps it from going on is no reason not to end it.
func (m *Manager) wakeToEnd(ctx context.Context, b *box, patience time.Duration) *guest {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	g, err := m.wake(ctx, b)
	if err != nil {
		m.log.Warn("a paused microVM does not go on; it is killed", "sandbox", b.record().Spec.Name, "err", err)
	}
	return g
}
