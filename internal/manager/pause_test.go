package manager

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func (h *host) pause(m *Manager, name string) {
	h.t.Helper()
	if rec, err := m.Pause(context.Background(), name); err != nil || rec.State != sandbox.Paused {
		h.t.Fatalf("%+v, %v", rec, err)
	}
}

func TestPause(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	rec := h.create(m, "a")
	if _, err := m.Pause(ctx, "a"); sandbox.KindOf(err) != sandbox.Conflict {
		t.Error("pause of a created one:", err)
	}
	if _, err := m.Unpause(ctx, "a"); sandbox.KindOf(err) != sandbox.Conflict {
		t.Error("unpause of a created one:", err)
	}
	h.start(m, "a")
	h.pause(m, "a")
	h.pause(m, "a")
	v := h.engine.vmms[rec.ID]
	if !v.cpu.halted() {
		t.Error("the vCPUs are not halted")
	}
	for what, do := range map[string]func() error{
		"exec":  func() error { _, err := m.Exec(ctx, "a", guestrpc.ExecSpec{Argv: []string{"true"}}); return err },
		"start": func() error { _, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute}); return err },
		"dial":  func() error { _, err := m.Dial(ctx, "a", sandbox.Target{GuestPort: 80}); return err },
	} {
		var e *sandbox.Error
		if err := do(); !errors.As(err, &e) || e.Kind != sandbox.Conflict || !strings.Contains(err.Error(), "is paused") || !strings.Contains(e.Hint, "agentkernel unpause a") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if rec, err := m.Unpause(ctx, "a"); err != nil || rec.State != sandbox.Running || v.cpu.halted() {
		t.Errorf("%+v, %v", rec, err)
	}
	v.noPause = true
	if _, err := m.Pause(ctx, "a"); sandbox.KindOf(err) != sandbox.Failure {
		t.Error(err)
	}
	h.expect(m, "a", sandbox.Running)
}

// A paused sandbox ends as a running one does, in order unless it is killed.
func TestEndsOfAPausedSandbox(t *testing.T) {
	for name, adopted := range map[string]bool{"as it was": false, "after a restart of the daemon": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			ctx := context.Background()
			rec := h.create(m, "a")
			again := func() *fakeVMM {
				h.start(m, "a")
				h.pause(m, "a")
				if adopted {
					m.Close()
					m = h.boot()
					h.settled(m, "a")
				}
				h.expect(m, "a", sandbox.Paused)
				return h.engine.vmms[rec.ID]
			}
			if v := again(); true {
				if rec, err := m.Stop(ctx, "a", time.Minute); err != nil || rec.State != sandbox.Stopped || !v.asked.Load() {
					t.Errorf("%+v, %v", rec, err)
				}
			}
			again()
			if rec, err := m.Stop(ctx, "a", 0); err != nil || rec.State != sandbox.Stopped {
				t.Errorf("%+v, %v", rec, err)
			}
			if v := again(); true {
				b, err := m.find("a")
				if err != nil {
					t.Fatal(err)
				}
				v.kill(errKilled)
				<-b.watched
				h.expect(m, "a", sandbox.Failed)
			}
			again()
			if _, err := m.Unpause(ctx, "a"); err != nil {
				t.Error(err)
			}
			if _, err := m.Execs(ctx, "a"); err != nil {
				t.Error("the guest does not answer:", err)
			}
			h.pause(m, "a")
			if err := m.Remove(ctx, "a", false); sandbox.KindOf(err) != sandbox.Conflict {
				t.Error(err)
			}
			if err := m.Remove(ctx, "a", true); err != nil {
				t.Error(err)
			}
			h.expectEmpty()
		})
	}
}

// settled waits until an adoption is finished.
func (h *host) settled(m *Manager, name string) {
	h.t.Helper()
	b, err := m.find(name)
	if err == nil {
		err = b.acquire(context.Background())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	b.release()
}

// The record says what is to be, whatever the vCPUs did when the daemon died.
func TestReconcileHaltedOnes(t *testing.T) {
	for name, tc := range map[string]struct {
		state  sandbox.State
		halted bool
		want   sandbox.State
	}{
		"paused, before it was":           {sandbox.Paused, false, sandbox.Paused},
		"paused":                          {sandbox.Paused, true, sandbox.Paused},
		"paused, about to be stopped":     {sandbox.Stopping, true, sandbox.Stopped},
		"stopping, and the vCPUs went on": {sandbox.Stopping, false, sandbox.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			rec := h.create(m, "a")
			h.rewrite(m, rec, tc.state, h.launch(m, rec))
			v := h.engine.vmms[rec.ID]
			if tc.halted {
				v.cpu.halt()
			}
			m.Close()
			m = h.boot()
			h.settled(m, "a")
			h.expect(m, "a", tc.want)
			if tc.want == sandbox.Paused != v.cpu.halted() || tc.want == sandbox.Stopped != v.asked.Load() {
				t.Errorf("halted: %v, shut down: %v", v.cpu.halted(), v.asked.Load())
			}
		})
	}
}

// Nobody can use a paused sandbox, so that is no reason to stop it.
func TestPausedSandboxIsNotIdle(t *testing.T) {
	idle(t, nil, func(h *host, m *Manager, b *box, _ *events.Reader) {
		time.Sleep(50 * time.Second)
		h.pause(m, "a")
		time.Sleep(time.Hour)
		synctest.Wait()
		h.expect(m, "a", sandbox.Paused)
		if _, err := m.Unpause(context.Background(), "a"); err != nil {
			h.t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		h.expect(m, "a", sandbox.Running)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		h.expect(m, "a", sandbox.Stopped)
	})
}
