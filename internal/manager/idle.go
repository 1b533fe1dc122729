package manager

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// idleGrace is what processes get between SIGTERM and SIGKILL when their sandbox is stopped for being idle.
const idleGrace = 10 * time.Second

// idleness counts who uses a running sandbox. It is guarded by the box's mu.
type idleness struct {
	users    int
	since    time.Time   // when the last user went, or the microVM came
	timer    *time.Timer // runs while the sandbox runs and has an idle timeout; it may fire early
	stopping bool        // nobody may come any more
}

func idleTimeout(rec sandbox.Record) time.Duration {
	return time.Duration(rec.Spec.IdleTimeoutMs) * time.Millisecond
}

// beginIdle starts to count. A daemon that finds a microVM again counts anew. The caller holds mu.
func (m *Manager) beginIdle(b *box) {
	b.idle.since = time.Now()
	if d := idleTimeout(b.rec); d > 0 {
		b.stopIdleTimer()
		b.idle.timer = time.AfterFunc(d, func() { m.idle(b) })
	}
}

// stopIdleTimer ends the count. The caller holds mu.
func (b *box) stopIdleTimer() {
	if b.idle.timer != nil {
		b.idle.timer.Stop()
		b.idle.timer = nil
	}
}

// use keeps the sandbox from being idle until done is called, which may be done more than once. It is refused when a stop
// for being idle has begun.
func (b *box) use() (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle.stopping {
		name := b.rec.Spec.Name
		return nil, sandbox.Errorf(sandbox.Conflict, "start it again with agentkernel start "+name+", once it is stopped",
			"sandbox %q is being stopped, as nothing happened in it for %v", name, idleTimeout(b.rec))
	}
	b.idle.users++
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.idle.users--
		b.idle.since = time.Now()
		// The timer is moved when nobody is left, and not before: a user that stays long lets it fire once, in vain.
		if b.idle.users == 0 && b.idle.timer != nil {
			b.idle.timer.Reset(idleTimeout(b.rec))
		}
	}), nil
}

// idle stops or suspends a sandbox when it has had no user for its idle timeout. Whoever uses it meanwhile wins, up to the moment when
// stopping is set; from then on, it is told so.
func (m *Manager) idle(b *box) {
	if !m.inBackground() {
		return
	}
	defer m.background.Done()
	if b.acquire(m.ctx) != nil {
		return // removed, or the daemon ends
	}
	defer b.release()
	b.mu.Lock()
	timeout := idleTimeout(b.rec)
	if b.idle.timer == nil || b.rec.State != sandbox.Running || b.idle.users > 0 {
		b.mu.Unlock()
		return
	}
	if rest := timeout - time.Since(b.idle.since); rest > 0 {
		b.idle.timer.Reset(rest)
		b.mu.Unlock()
		return
	}
	b.idle.stopping = true
	b.mu.Unlock()

	rec := b.record()
	reason := fmt.Sprintf("nothing happened in it for %v", timeout)
	m.publish(rec, events.Event{Type: events.IdleTimeout, Reason: reason})
	// As any stop, it goes on when the daemon is asked to end; the next daemon would finish it.
	end := func() error { return m.stop(context.Background(), b, idleGrace, reason) }
	if rec.Spec.IdleAction == sandbox.IdleSuspend {
		end = func() error { return m.suspend(context.Background(), b, reason) }
	}
	err := end()
	b.mu.Lock()
	b.idle.stopping = false
	if err != nil && b.idle.timer != nil {
		b.idle.timer.Reset(timeout)
	}
	b.mu.Unlock()
	if err != nil {
		m.log.Error("end an idle sandbox", "action", rec.Spec.IdleAction, "sandbox", rec.Spec.Name, "err", err)
	}
}
