package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/procusage"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// sampleTimeout is how long a guest may take to say what it uses.
const sampleTimeout = 5 * time.Second

// Stats is what a sandbox uses.
type Stats struct {
	Time          time.Time
	Record        sandbox.Record
	DiskAllocated uint64 // bytes of the host's disk that the sandbox's own disk takes
	Traffic       Traffic
	VMM           *procusage.Usage // nil when no VMM runs or nothing is known of it
	Guest         *guestrpc.Stats  // nil when it does not run, or does not say
	GuestProblem  string           // why a running guest says nothing
}

// Stats measures one sandbox. It is no use of it, as far as its idle timeout goes.
func (m *Manager) Stats(ctx context.Context, name string) (Stats, error) {
	b, err := m.find(name)
	if err != nil {
		return Stats{}, err
	}
	s, g := m.hostStats(b, true)
	if g == nil {
		return s, nil
	}
	if !g.can(guestrpc.StatsCapability) {
		s.GuestProblem = "its guest agent cannot tell"
		return s, nil
	}
	sampleCtx, cancel := context.WithTimeoutCause(ctx, sampleTimeout, fmt.Errorf("it did not answer within %v", sampleTimeout))
	defer cancel()
	guest, err := guestrpc.Sample(sampleCtx, g.dial)
	s.Time = time.Now().UTC()
	switch {
	case err == nil:
		s.Guest = &guest
	case ctx.Err() != nil:
		return Stats{}, context.Cause(ctx)
	default:
		s.GuestProblem = err.Error()
	}
	return s, nil
}

// HostStats measures all sandboxes from outside: no guest is asked.
func (m *Manager) HostStats() []Stats {
	records, _ := m.List()
	all := make([]Stats, 0, len(records))
	for _, rec := range records {
		if b, err := m.find(rec.Spec.Name); err == nil {
			s, _ := m.hostStats(b, false)
			all = append(all, s)
		}
	}
	return all
}

// hostStats returns the guest of a sandbox that runs as well.
func (m *Manager) hostStats(b *box, shared bool) (Stats, *guest) {
	rec := b.record()
	b.mu.Lock()
	g := b.guest
	b.mu.Unlock()
	s := Stats{Time: time.Now().UTC(), Record: rec, Traffic: b.traffic()}
	if info, err := os.Stat(filepath.Join(m.d.Store.Dir(rec.ID), upperFile)); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			s.DiskAllocated = uint64(max(st.Blocks, 0)) * 512
		}
	}
	if mrec := rec.Machine; mrec != nil {
		if u, err := procusage.Of(mrec.PID, mrec.StartTime, shared); err == nil {
			s.VMM = &u
		}
	}
	if rec.State != sandbox.Running {
		g = nil
	}
	return s, g
}

// can reports whether the guest agent has named a capability.
func (g *guest) can(capability string) bool {
	return slices.Contains(g.capabilities, capability)
}

// watchGuest tells what the guest says of itself, until the end of its microVM or of the daemon.
func (m *Manager) watchGuest(b *box, machine sandbox.Machine, g *guest) {
	defer m.background.Done()
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-machine.Done():
			cancel()
		case <-stop:
		}
	}()
	watch := func() error {
		return guestrpc.Watch(ctx, g.dial, func(k guestrpc.OOMKill) {
			m.publish(b.record(), events.Event{Type: events.OOMKill, PID: k.PID, Process: k.Process, Count: uint64(k.Count)})
		})
	}
	saves := b.savedTimes()
	err := watch()
	for ; ctx.Err() == nil && b.savedTimes() != saves; err = watch() {
		saves = b.savedTimes()
	}
	if ctx.Err() == nil && !errors.Is(err, context.Canceled) && !ended(machine.Done()) {
		m.log.Warn("the guest's own events are lost until its next start", "sandbox", b.record().Spec.Name, "err", err)
	}
}
