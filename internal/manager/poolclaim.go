package manager

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// createPooled makes a sandbox of a microVM from the pool, which runs already. Nobody knows of it before start.
func (m *Manager) createPooled(spec sandbox.Spec, p *pooled) (sandbox.Record, error) {
	rec := p.rec
	spec.VsockCID = rec.Spec.VsockCID
	rec.Spec, rec.Machine, rec.CreatedAt = spec, nil, time.Now().UTC()
	if err := m.d.Store.Commit(rec); err != nil {
		m.discard(p)
		return rec, err
	}
	return rec, nil
}

// keepPooled has the microVM of a new sandbox wait for its start, for a while.
func (m *Manager) keepPooled(b *box, p *pooled) {
	if p == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pooled = p
	b.unclaimed = time.AfterFunc(claimTimeout, func() {
		if !m.inBackground() {
			return // Close ends it
		}
		defer m.background.Done()
		if b.acquire(m.ctx) != nil {
			return // removed, which has ended it, or the daemon ends
		}
		defer b.release()
		m.endPooled(b)
	})
}

// claim returns the microVM that waits for the start of b. The caller has it from then on.
func (b *box) claim() *pooled {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pooled
	if p != nil {
		b.pooled = nil
		b.unclaimed.Stop()
	}
	return p
}

// endPooled ends the microVM that waits for the start of b, if there is one. Its disk stays: it is one that was not unmounted.
func (m *Manager) endPooled(b *box) {
	p := b.claim()
	if p == nil {
		return
	}
	if err := m.end(context.Background(), p); err != nil {
		m.log.Warn("end a microVM that was not used", "sandbox", b.record().Spec.Name, "err", err)
	}
}

func (m *Manager) end(ctx context.Context, p *pooled) error {
	p.guest.close()
	if err := p.machine.Kill(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("kill the VMM: %w", err)
	}
	return m.removeRuntimeDir(p.rec.ID)
}

// takeOver makes a microVM from the pool that of a starting sandbox, which has its id. After an error nothing of it is left.
func (m *Manager) takeOver(ctx context.Context, b *box, p *pooled, started time.Time) (err error) {
	defer func() {
		if err == nil {
			return
		}
		err = explain(ctx, p.machine, err)
		if e := m.end(ctx, p); e != nil {
			err = fmt.Errorf("%w; then: %w", err, e)
		}
	}()
	stages := stageClock{last: started}
	rec := b.record()
	rec.Machine, rec.Kernel, rec.KernelFile, rec.InitrdFile = p.rec.Machine, p.rec.Kernel, p.rec.KernelFile, p.rec.InitrdFile
	if err := m.save(b, rec); err != nil {
		return err
	}
	stages.mark("prepare")
	p.guest.identity = identityOf(rec)
	hygiene, err := p.guest.resume(ctx, guestrpc.ResumeCopy)
	if err != nil {
		return err
	}
	hygiene.From = sandbox.FromPool
	stages.mark("go on")
	if err := m.move(b, sandbox.Running, func(r *sandbox.Record) { r.Stages, r.Hygiene = stages.list, hygiene }); err != nil {
		return err
	}
	m.began(b)
	m.attach(b, p.machine, p.guest)
	return nil
}

// began notes that the guest agent of b is ready.
func (m *Manager) began(b *box) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.started, b.firstExec = time.Now(), false
}

func (m *Manager) makeRuntimeDir(spec sandbox.MachineSpec) error {
	if err := os.MkdirAll(spec.RuntimeDir, 0o700); err != nil {
		return fmt.Errorf("make the runtime directory: %w", err)
	}
	return nil
}
