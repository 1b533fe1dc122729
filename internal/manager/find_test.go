package manager

import (
	"context"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestFind(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	one, two := h.create(m, "one"), h.create(m, "two")
	for _, ref := range []string{"one", one.ID, one.ID[:10]} {
		if rec, err := m.Get(ref); err != nil || rec.ID != one.ID {
			t.Errorf("%s: %+v, %v", ref, rec, err)
		}
	}
	// The name of one sandbox may be the beginning of another's id.
	named := h.create(m, two.ID[:8])
	if rec, err := m.Get(two.ID[:8]); err != nil || rec.ID != named.ID {
		t.Errorf("%+v, %v", rec, err)
	}
	for _, ref := range []string{one.ID[:minID-1], one.ID + "0", one.ID[1:]} {
		if _, err := m.Get(ref); sandbox.KindOf(err) != sandbox.NotFound {
			t.Errorf("%s: %v", ref, err)
		}
	}
	m.mu.Lock()
	m.byName["two"].id = one.ID[:8] + "00000000"
	m.mu.Unlock()
	_, err := m.Get(one.ID[:8])
	expectKind(t, err, sandbox.Invalid, "2 sandboxes")
	if err := m.Remove(ctx, one.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := m.Get("one"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Error(err)
	}
}

func TestFindVolume(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.volume(m, "v")
	v, err := m.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Volume(v.ID[:8]); err != nil || again.ID != v.ID {
		t.Errorf("%+v, %v", again, err)
	}
	// A mount is by name: what a sandbox's record says has one meaning.
	s := spec("x")
	s.Volumes = []sandbox.VolumeMount{{Volume: v.ID, Path: "/v"}}
	_, err = m.Create(context.Background(), s)
	expectKind(t, err, sandbox.NotFound)
	if err := m.RemoveVolume(context.Background(), v.ID); err != nil {
		t.Error(err)
	}
	if _, err := m.Volume("v"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Error(err)
	}
}
