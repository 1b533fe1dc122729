package manager

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// idle is a running sandbox with an idle timeout of a minute, on a fake clock.
func idle(t *testing.T, launch func(*fakeVMM) error, f func(h *host, m *Manager, b *box, r *events.Reader)) {
	h := newHost(t)
	h.engine.onLaunch = launch
	synctest.Test(t, func(t *testing.T) {
		h.t = t
		m := h.boot()
		s := spec("a")
		s.IdleTimeoutMs = 60_000
		rec, err := m.Create(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		h.start(m, "a")
		b, err := m.find("a")
		if err != nil {
			t.Fatal(err)
		}
		r := m.Events().Reader(events.Start{}, nil)
		defer r.Close()
		f(h, m, b, r)
		m.Close()
		h.engine.vmms[rec.ID].kill(errKilled)
		synctest.Wait()
	})
}

func TestIdleSandboxIsStopped(t *testing.T) {
	idle(t, nil, func(h *host, m *Manager, b *box, r *events.Reader) {
		began := time.Now()
		first, err := b.use()
		if err != nil {
			h.t.Fatal(err)
		}
		second, err := b.use()
		if err != nil {
			h.t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		first()
		first() // counts once
		time.Sleep(10 * time.Minute)
		h.expect(m, "a", sandbox.Running)
		second()
		<-b.watched
		if took := time.Since(began); took < 21*time.Minute || took > 22*time.Minute {
			h.t.Errorf("it was stopped after %v", took)
		}
		synctest.Wait()
		rec, err := m.Get("a")
		if err != nil || rec.State != sandbox.Stopped || !strings.Contains(rec.Reason, "nothing happened in it for 1m0s") {
			h.t.Errorf("%+v, %v", rec, err)
		}
		if ev, ok := r.TryNext(); !ok || ev.Type != events.IdleTimeout || ev.Sandbox != "a" || ev.SandboxID != rec.ID {
			h.t.Errorf("%+v", ev)
		}
		h.start(m, "a") // and counts anew
		time.Sleep(59 * time.Second)
		h.expect(m, "a", sandbox.Running)
	})
}

// A command that comes when the stop has begun is refused; one that comes a moment before wins.
func TestIdleStopAgainstUse(t *testing.T) {
	stuck := func(v *fakeVMM) error { v.stuck = true; return nil }
	idle(t, stuck, func(h *host, m *Manager, b *box, _ *events.Reader) {
		<-b.op // the stop has to wait
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		done, err := b.use()
		if err != nil {
			h.t.Error(err)
		}
		b.release()
		synctest.Wait()
		h.expect(m, "a", sandbox.Running)
		done()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		h.expect(m, "a", sandbox.Stopping)
		if _, err := b.use(); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), "is being stopped") {
			h.t.Error(err)
		}
		time.Sleep(time.Minute) // until the VMM is killed
		synctest.Wait()
		h.expect(m, "a", sandbox.Stopped)
	})
}

// A daemon that finds the microVM again begins the count anew.
func TestIdleAfterARestart(t *testing.T) {
	idle(t, nil, func(h *host, m *Manager, _ *box, _ *events.Reader) {
		time.Sleep(50 * time.Second)
		m.Close()
		again := h.boot()
		defer again.Close()
		b, err := again.find("a")
		if err != nil {
			h.t.Fatal(err)
		}
		if err := b.acquire(context.Background()); err != nil { // until it is adopted
			h.t.Fatal(err)
		}
		b.release()
		time.Sleep(50 * time.Second)
		h.expect(again, "a", sandbox.Running)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		h.expect(again, "a", sandbox.Stopped)
	})
}
