package manager

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func (h *host) withVolume(m *Manager, name string, mounts ...sandbox.VolumeMount) {
	h.t.Helper()
	s := spec(name)
	s.Volumes = mounts
	if _, err := m.Create(context.Background(), s); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) volume(m *Manager, name string) {
	h.t.Helper()
	if _, err := m.CreateVolume(context.Background(), name, 64); err != nil {
		h.t.Fatal(err)
	}
}

func expectKind(t *testing.T, err error, kind sandbox.Kind, says ...string) {
	t.Helper()
	if sandbox.KindOf(err) != kind || err == nil {
		t.Errorf("%v, want an error of kind %s", err, kind)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestVolumeLife(t *testing.T) {
	ctx := context.Background()
	h := newHost(t)
	m := h.boot()
	h.volume(m, "v")
	_, err := m.CreateVolume(ctx, "v", 64)
	expectKind(t, err, sandbox.Exists)
	s := spec("x")
	s.Volumes = []sandbox.VolumeMount{{Volume: "v", Path: "/v"}, {Volume: "w", Path: "/w"}}
	_, err = m.Create(ctx, s)
	expectKind(t, err, sandbox.NotFound, `"w"`)
	// Of that nothing is left.
	if v, err := m.Volume("v"); err != nil || v.Users != nil {
		t.Errorf("%+v, %v", v, err)
	}
	h.withVolume(m, "a", sandbox.VolumeMount{Volume: "v", Path: "/v"})
	m.Close()
	m = h.boot() // who names a volume, the next daemon finds in the records
	expectKind(t, m.RemoveVolume(ctx, "v"), sandbox.Conflict, "belongs to a")
	// A record that cannot be read may name any.
	if err := m.Remove(ctx, "a", false); err != nil {
		t.Fatal(err)
	}
	m.Close()
	bad := filepath.Join(h.dir, "sandboxes", "0123456789abcdef")
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	m = h.boot()
	expectKind(t, m.RemoveVolume(ctx, "v"), sandbox.Conflict, bad)
	m.Close()
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	m = h.boot()
	if err := m.RemoveVolume(ctx, "v"); err != nil {
		t.Fatal(err)
	}
	expectKind(t, m.RemoveVolume(ctx, "v"), sandbox.NotFound)
	if left, _ := os.ReadDir(filepath.Join(h.dir, "volumes")); len(left) != 0 {
		t.Error("left over:", left)
	}
	h.volume(m, "v") // the name is free again
}

// Who has a volume follows from the sandboxes' records, whatever happened in between.
func TestVolumeIsInUse(t *testing.T) {
	ctx := context.Background()
	h := newHost(t)
	m := h.boot()
	h.volume(m, "v")
	h.withVolume(m, "w1", sandbox.VolumeMount{Volume: "v", Path: "/v"})
	h.withVolume(m, "w2", sandbox.VolumeMount{Volume: "v", Path: "/v"})
	h.withVolume(m, "r1", sandbox.VolumeMount{Volume: "v", Path: "/v", ReadOnly: true})
	h.withVolume(m, "r2", sandbox.VolumeMount{Volume: "v", Path: "/v", ReadOnly: true})
	refused := func(name, by string) {
		t.Helper()
		_, err := m.Start(ctx, name, StartOptions{})
		expectKind(t, err, sandbox.Conflict, `"v"`, `sandbox "`+by+`"`)
		h.expect(m, name, sandbox.Created)
	}
	h.start(m, "w1")
	refused("w2", "w1")
	refused("r1", "w1")
	m.Close()
	m = h.boot()
	refused("w2", "w1") // adopted, or about to be
	m.Close()
	for _, v := range h.engine.vmms { // nobody sees it
		v.kill(errKilled)
	}
	m = h.boot()
	h.expect(m, "w1", sandbox.Failed)
	h.start(m, "r1")
	h.start(m, "r2")
	refused("w2", "r1")

	// A sandbox that may run and whose record cannot be read may have it.
	if _, err := m.Stop(ctx, "r1", 0); err != nil {
		t.Fatal(err)
	}
	rec, err := m.Get("r2")
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	file := filepath.Join(h.dir, "sandboxes", rec.ID, "sandbox.json")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m = h.boot()
	_, err = m.Start(ctx, "w2", StartOptions{})
	expectKind(t, err, sandbox.Conflict, rec.ID)
	h.expect(m, "w2", sandbox.Created)
}

// Of two starts at once one gets the volume.
func TestVolumeRace(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.volume(m, "v")
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		h.withVolume(m, name, sandbox.VolumeMount{Volume: "v", Path: "/v"})
	}
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() { _, errs[i] = m.Start(context.Background(), name, StartOptions{Timeout: 1 << 40}) })
	}
	wg.Wait()
	started := 0
	for _, err := range errs {
		if err == nil {
			started++
		} else {
			expectKind(t, err, sandbox.Conflict)
		}
	}
	if started != 1 || h.engine.running() != 1 {
		t.Errorf("%d starts of 4 succeeded, %d VMMs run: %v", started, h.engine.running(), errs)
	}
}

// A journal cannot be replayed by who only reads.
func TestVolumeNeedsRecovery(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.volume(m, "v")
	v, err := m.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.volumePath(v.Volume), []byte("dirty"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.withVolume(m, "r", sandbox.VolumeMount{Volume: "v", Path: "/v", ReadOnly: true})
	h.withVolume(m, "w", sandbox.VolumeMount{Volume: "v", Path: "/v"})
	_, err = m.Start(context.Background(), "r", StartOptions{})
	expectKind(t, err, sandbox.Conflict, "was not unmounted")
	h.start(m, "w")
}
