package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// withPool has managers keep n microVMs of image ready. The function that it returns makes the host short of memory.
func withPool(h *host, n int, image string) (short func()) {
	withTemplates(h)
	inner := h.wire
	var tell func()
	h.wire = func(d *Deps) {
		inner(d)
		d.Pool = Pool{Size: n, Max: 8, Images: []string{image}}
		d.AvailableMiB = func() (int, error) { return 0, errors.New("not known") }
		d.WatchMemory = func(_ context.Context, short func()) error { tell = short; return nil }
	}
	return func() { tell() }
}

func poolSpec(name string) sandbox.Spec {
	return sandbox.Spec{Name: name, Image: "base", VCPUs: sandbox.DefaultVCPUs, MemoryMiB: sandbox.DefaultMemoryMiB, DiskMiB: sandbox.DefaultDiskMiB}
}

// settled waits until the pool has n microVMs and makes none.
func settled(t *testing.T, m *Manager, n int) {
	t.Helper()
	eventually(t, func() bool {
		i := m.PoolStatus().Images[0]
		return i.Ready == n && !i.Making
	})
}

// A microVM of the pool is used by one sandbox, which has its own names, and is replaced.
func TestPool(t *testing.T) {
	h := newHost(t)
	withPool(h, 2, "base")
	m := h.boot()
	settled(t, m, 2)
	seen := map[int]bool{}
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := m.Create(t.Context(), poolSpec(name)); err != nil {
			t.Fatal(err)
		}
		rec := h.start(m, name)
		if from(t, rec) != sandbox.FromPool || seen[rec.Machine.PID] || rec.Spec.Name != name || rec.Kernel != "6.1" {
			t.Errorf("%+v, %+v", rec, rec.Hygiene)
		}
		seen[rec.Machine.PID] = true
		settled(t, m, 2)
	}
	// Others are not what the pool has.
	if rec := h.create(m, "small"); h.start(m, "small").Hygiene.From != sandbox.FromTemplate {
		t.Errorf("%+v", rec)
	}
	if err := m.Remove(t.Context(), "small", true); err != nil {
		t.Fatal(err)
	}

	// One that is not started with its microVM loses it.
	for name, end := range map[string]func() error{
		"cold": func() error {
			_, err := m.Start(t.Context(), "cold", StartOptions{Timeout: time.Minute, Cold: true})
			return err
		},
		"removed": func() error { return m.Remove(t.Context(), "removed", false) },
		"late":    func() error { m.endPooled(m.byName["late"]); h.start(m, "late"); return nil },
	} {
		if _, err := m.Create(t.Context(), poolSpec(name)); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Error(name, err)
		}
	}
	settled(t, m, 2)
	if n := h.engine.running(); n != 4+2+2 { // a to d, the pool, cold and late
		t.Errorf("%d VMMs run", n)
	}

	// A daemon that ends takes the pool with it, and nothing that belongs to a sandbox.
	if _, err := m.Create(t.Context(), poolSpec("unused")); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if n := h.engine.running(); n != 4+2 {
		t.Errorf("%d VMMs run", n)
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "sandboxes", ".*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	m = h.boot()
	h.start(m, "unused")
}

// A daemon that is killed leaves microVMs that nobody has: the next one ends them.
func TestPoolOfADaemonThatDied(t *testing.T) {
	h := newHost(t)
	withPool(h, 2, "base")
	m := h.boot()
	settled(t, m, 2)
	if _, err := m.Create(t.Context(), poolSpec("unused")); err != nil {
		t.Fatal(err)
	}
	settled(t, m, 2)
	m.cancel() // and nothing else: it does not clear up
	withTemplates(h)
	next := h.boot()
	if n := h.engine.running(); n != 0 {
		t.Errorf("%d VMMs run", n)
	}
	if entries, _ := os.ReadDir(filepath.Join(h.dir, "run")); len(entries) != 0 {
		t.Errorf("%v is left", entries)
	}
	h.start(next, "unused")
}

// An image that cannot be started is left alone for a while, which the status tells.
func TestPoolWithABrokenImage(t *testing.T) {
	h := newHost(t)
	withPool(h, 2, "broken")
	asked := 0
	inner := h.wire
	h.wire = func(d *Deps) {
		inner(d)
		d.ResolveImage = func(context.Context, string, sandbox.Arch) (sandbox.Image, error) {
			asked++
			return sandbox.Image{}, errors.New("there is no such image")
		}
	}
	m := h.boot()
	deadline := time.After(20 * time.Second)
	for m.PoolStatus().Images[0].Err == nil {
		select {
		case <-deadline:
			t.Fatal("it does not fail")
		default:
			m.pool.poke()
		}
	}
	for range 100 {
		m.pool.poke()
	}
	s := m.PoolStatus().Images[0]
	m.Close()
	if asked != 1 || !s.RetryAt.After(time.Now()) || s.Ready != 0 {
		t.Errorf("%d attempts, %+v", asked, s)
	}
}

func TestPoolYields(t *testing.T) {
	h := newHost(t)
	short := withPool(h, 4, "base")
	m := h.boot()
	settled(t, m, 4)
	short()
	settled(t, m, 2)
	if s := m.PoolStatus(); s.OnHold == "" || h.engine.running() != 2 {
		t.Errorf("%+v, %d VMMs run", s, h.engine.running())
	}
	// One that ends by itself is not given to anybody.
	m.mu.Lock()
	gone := m.pool.stocks[0].ready[0]
	m.mu.Unlock()
	if err := gone.machine.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	settled(t, m, 1)
	if _, err := m.Create(t.Context(), poolSpec("a")); err != nil {
		t.Fatal(err)
	}
	if got := from(t, h.start(m, "a")); got != sandbox.FromPool {
		t.Error(got)
	}
}
