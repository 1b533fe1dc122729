package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLife(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	created := h.create(m, "a")
	if created.Spec.VsockCID != sandbox.MinVsockCID || created.Spec.Arch != sandbox.X8664 {
		t.Errorf("created: %+v", created)
	}
	if _, err := m.Create(ctx, spec("a")); sandbox.KindOf(err) != sandbox.Exists {
		t.Error("twice:", err)
	}
	rec := h.start(m, "a")
	if rec.State != sandbox.Running || rec.Machine == nil || len(rec.Stages) < 5 {
		t.Errorf("started: %+v", rec)
	}
	h.start(m, "a")
	if h.engine.launches != 1 {
		t.Errorf("%d launches", h.engine.launches)
	}
	if err := m.Remove(ctx, "a", false); sandbox.KindOf(err) != sandbox.Conflict {
		t.Error("remove of a running one:", err)
	}
	if rec, err := m.Stop(ctx, "a", time.Minute); err != nil || rec.State != sandbox.Stopped || rec.Machine != nil {
		t.Errorf("stopped: %+v, %v", rec, err)
	}
	if _, err := m.Stop(ctx, "a", time.Minute); err != nil {
		t.Error("stop of a stopped one:", err)
	}
	h.start(m, "a")
	if err := m.Remove(ctx, "a", true); err != nil {
		t.Error(err)
	}
	if _, err := m.Get("a"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Error(err)
	}
	h.expectEmpty()
	if again := h.create(m, "a"); again.Spec.VsockCID != sandbox.MinVsockCID {
		t.Errorf("the CID was not given back: %d", again.Spec.VsockCID)
	}
}

func (h *host) expectEmpty() {
	h.t.Helper()
	if n := h.engine.running(); n != 0 {
		h.t.Errorf("%d VMMs run", n)
	}
	for _, dir := range []string{"run", "sandboxes"} {
		if left, err := os.ReadDir(filepath.Join(h.dir, dir)); err != nil || len(left) > 0 {
			h.t.Errorf("left over in %s: %v %v", dir, left, err)
		}
	}
}

func TestStartFails(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.create(m, "a")
	for name, tc := range map[string]struct {
		launch func(*fakeVMM) error
		says   string
	}{
		"no launch":      {func(*fakeVMM) error { return errors.New("no memory") }, "no memory"},
		"dies at once":   {func(v *fakeVMM) error { v.mute = true; time.AfterFunc(0, func() { v.kill(errKilled) }); return nil }, "ended before its guest agent answered"},
		"never answers":  {func(v *fakeVMM) error { v.mute = true; return nil }, "did not answer within 10ms"},
		"dies in launch": {func(v *fakeVMM) error { v.kill(errKilled); v.mute = true; return nil }, "ended before"},
	} {
		t.Run(name, func(t *testing.T) {
			h.engine.onLaunch = tc.launch
			timeout := time.Minute
			if name == "never answers" {
				timeout = 10 * time.Millisecond
			}
			_, err := m.Start(context.Background(), "a", StartOptions{Timeout: timeout})
			if sandbox.KindOf(err) != sandbox.Failure || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want %q", err, tc.says)
			}
			h.expect(m, "a", sandbox.Failed)
			if n := h.engine.running(); n != 0 {
				t.Errorf("%d VMMs run", n)
			}
		})
	}
	h.engine.onLaunch = nil
	h.start(m, "a")
}

func TestStopAndRemoveCutAStart(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	launched := make(chan struct{})
	h.engine.onLaunch = func(v *fakeVMM) error { v.mute = true; close(launched); return nil }
	for name, end := range map[string]func() error{
		"stop":   func() error { _, err := m.Stop(context.Background(), "a", time.Minute); return err },
		"remove": func() error { return m.Remove(context.Background(), "a", true) },
	} {
		t.Run(name, func(t *testing.T) {
			launched = make(chan struct{})
			h.create(m, "a")
			started := make(chan error, 1)
			go func() {
				_, err := m.Start(context.Background(), "a", StartOptions{Timeout: time.Hour})
				started <- err
			}()
			<-launched
			if err := end(); err != nil {
				t.Error(err)
			}
			if err := <-started; sandbox.KindOf(err) != sandbox.Conflict {
				t.Error("the start says:", err)
			}
			if name == "stop" {
				h.expect(m, "a", sandbox.Stopped)
				if err := m.Remove(context.Background(), "a", false); err != nil {
					t.Error(err)
				}
			}
			h.expectEmpty()
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.create(m, "a")
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			ctx := context.Background()
			switch i % 3 {
			case 0:
				_, _ = m.Start(ctx, "a", StartOptions{Timeout: time.Minute})
			case 1:
				_, _ = m.Stop(ctx, "a", time.Minute)
			case 2:
				_, _ = m.List()
			}
		})
	}
	wg.Wait()
	if _, err := m.Stop(context.Background(), "a", time.Minute); err != nil {
		t.Error(err)
	}
	h.expect(m, "a", sandbox.Stopped)
	if n := h.engine.running(); n != 0 {
		t.Errorf("%d VMMs run", n)
	}
}

func TestStopKillsAGuestThatDoesNotShutDown(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.engine.onLaunch = func(v *fakeVMM) error { v.stuck = true; return nil }
	h.create(m, "a")
	h.start(m, "a")
	if _, err := m.Stop(context.Background(), "a", 0); err != nil {
		t.Error(err)
	}
	h.expect(m, "a", sandbox.Stopped)
}

func TestEndOfTheVMMIsSeen(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	rec := h.create(m, "a")
	h.start(m, "a")
	b, err := m.find("a")
	if err != nil {
		t.Fatal(err)
	}
	h.engine.vmms[rec.ID].kill(errKilled)
	<-b.watched
	got, err := m.Get("a")
	if err != nil || got.State != sandbox.Failed || !strings.Contains(got.Reason, "killed") || got.Machine != nil {
		t.Errorf("%+v, %v", got, err)
	}
	h.start(m, "a")
}

// A daemon ends, or is killed, in every state; what the next one makes of it.
func TestReconcile(t *testing.T) {
	// before puts a sandbox into a state and returns; the manager is then left as if its process had been killed.
	for name, tc := range map[string]struct {
		before func(*host, *Manager, sandbox.Record)
		want   sandbox.State // "" = gone
		vmms   int
	}{
		"created": {func(*host, *Manager, sandbox.Record) {}, sandbox.Created, 0},
		"running": {func(h *host, m *Manager, _ sandbox.Record) { h.start(m, "a") }, sandbox.Running, 1},
		"its VMM ended meanwhile": {func(h *host, m *Manager, rec sandbox.Record) {
			h.start(m, "a")
			m.Close()
			h.engine.vmms[rec.ID].kill(errKilled)
		}, sandbox.Failed, 0},
		"starting, before the launch": {func(h *host, m *Manager, rec sandbox.Record) {
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, sandbox.Failed, 0},
		"starting, launched and not recorded": {func(h *host, m *Manager, rec sandbox.Record) {
			h.launch(m, rec)
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, sandbox.Failed, 0},
		"starting, launched and recorded": {func(h *host, m *Manager, rec sandbox.Record) {
			h.rewrite(m, rec, sandbox.Starting, h.launch(m, rec))
		}, sandbox.Running, 1},
		"stopping": {func(h *host, m *Manager, rec sandbox.Record) {
			h.rewrite(m, rec, sandbox.Stopping, h.launch(m, rec))
		}, sandbox.Stopped, 0},
		"stopping, gone": {func(h *host, m *Manager, rec sandbox.Record) {
			mrec := h.launch(m, rec)
			h.engine.vmms[rec.ID].kill(errShutDown)
			h.rewrite(m, rec, sandbox.Stopping, mrec)
		}, sandbox.Stopped, 0},
		"removing": {func(h *host, m *Manager, rec sandbox.Record) {
			h.rewrite(m, rec, sandbox.Removing, h.launch(m, rec))
		}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			rec := h.create(m, "a")
			if err := os.Mkdir(filepath.Join(h.dir, "run", "ffffffffffffffff"), 0o700); err != nil {
				t.Fatal(err)
			}
			tc.before(h, m, rec)
			m.Close()
			m = h.boot()
			if b, err := m.find("a"); err == nil {
				if err := b.acquire(context.Background()); err == nil { // until an adoption is finished
					b.release()
				}
			}
			if tc.want == "" {
				if _, err := m.Get("a"); sandbox.KindOf(err) != sandbox.NotFound {
					t.Error(err)
				}
				h.expectEmpty()
				return
			}
			h.expect(m, "a", tc.want)
			if n := h.engine.running(); n != tc.vmms {
				t.Errorf("%d VMMs run, want %d", n, tc.vmms)
			}
			if _, err := os.Stat(filepath.Join(h.dir, "run", "ffffffffffffffff")); err == nil {
				t.Error("the runtime directory of nobody is still there")
			}
			h.start(m, "a")
		})
	}
}

// launch starts a VMM behind the manager's back.
func (h *host) launch(m *Manager, rec sandbox.Record) *sandbox.MachineRecord {
	h.t.Helper()
	machine, err := h.engine.Launch(context.Background(), m.identity(rec))
	if err != nil {
		h.t.Fatal(err)
	}
	mrec := machine.Record()
	return &mrec
}

// rewrite puts a record on disk as a daemon that died would have left it.
func (h *host) rewrite(m *Manager, rec sandbox.Record, state sandbox.State, machine *sandbox.MachineRecord) {
	h.t.Helper()
	rec.State, rec.Machine = state, machine
	if err := m.d.Store.Save(rec); err != nil {
		h.t.Fatal(err)
	}
}
