package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// unmountTime is what the guest gets on top of the grace of its processes, to write its disks and reset.
const unmountTime = 10 * time.Second

// Stop shuts down the microVM of a sandbox; grace is the time from SIGTERM to SIGKILL for the processes in it, and 0 kills
// the VMM. A sandbox without a microVM is left as it is; one that is being started is killed at once. Once begun, a stop
// goes on when ctx ends.
func (m *Manager) Stop(ctx context.Context, name string, grace time.Duration) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	b.cutStart(errStopped)
	if err := b.acquire(ctx); err != nil {
		return sandbox.Record{}, err
	}
	defer b.release()
	if err := m.stop(context.WithoutCancel(ctx), b, grace, ""); err != nil {
		return sandbox.Record{}, err
	}
	return b.record(), nil
}

// stop stops a sandbox that has a microVM. reason is for the record, when nobody asked for it. The caller holds op.
func (m *Manager) stop(ctx context.Context, b *box, grace time.Duration, reason string) error {
	b.mu.Lock()
	machine, name, state := b.machine, b.rec.Spec.Name, b.rec.State
	b.mu.Unlock()
	if state == sandbox.Suspended {
		return m.stopSuspended(b)
	}
	if machine == nil {
		return nil
	}
	if err := m.move(b, sandbox.Stopping, func(r *sandbox.Record) { r.Reason = reason }); err != nil {
		return err
	}
	if state == sandbox.Paused && grace > 0 {
		m.wakeToEnd(ctx, b, grace+unmountTime)
	}
	if err := m.shutDown(ctx, b, machine, grace); err != nil {
		return fmt.Errorf("stop %q: %w", name, err)
	}
	m.log.Info("stopped", "sandbox", name, "reason", reason)
	return nil
}

// shutDown brings a stopping sandbox to stopped.
func (m *Manager) shutDown(ctx context.Context, b *box, machine sandbox.Machine, grace time.Duration) error {
	b.mu.Lock()
	g, rec := b.guest, b.rec
	b.mu.Unlock()
	if grace > 0 && g != nil {
		ctx, cancel := context.WithTimeout(ctx, grace+unmountTime)
		if err := g.shutdown(ctx, grace); err != nil {
			m.log.Warn("the guest does not shut down; killing its VMM", "sandbox", rec.Spec.Name, "err", err)
		} else {
			select {
			case <-machine.Done():
			case <-ctx.Done():
				m.log.Warn("the guest did not shut down in time; killing its VMM", "sandbox", rec.Spec.Name)
			}
		}
		cancel()
	}
	g.close()
	if err := machine.Kill(ctx); err != nil {
		return fmt.Errorf("kill the VMM: %w", err)
	}
	m.settle(b, sandbox.Stopped, rec.Reason)
	return m.removeRuntimeDir(rec.ID)
}
