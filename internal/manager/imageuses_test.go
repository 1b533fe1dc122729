package manager

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// A sandbox uses its image in every state, and while it is being made, from before the image may be let go.
func TestImageUses(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	for _, name := range []string{"created", "running", "stopped", "failed"} {
		h.create(m, name)
	}
	h.start(m, "running")
	h.start(m, "stopped")
	if _, err := m.Stop(context.Background(), "stopped", time.Minute); err != nil {
		t.Fatal(err)
	}
	h.engine.onLaunch = func(*fakeVMM) error { return errors.New("no") }
	if _, err := m.Start(context.Background(), "failed", StartOptions{Timeout: time.Minute}); err == nil {
		t.Fatal("it started")
	}
	uses := func() (list []ImageUse) {
		list, problems := m.ImageUses()
		if len(problems) > 0 {
			t.Error(problems)
		}
		return list
	}
	all := []ImageUse{
		{"sha256:0", "created", "", sandbox.Created}, {"sha256:0", "failed", "", sandbox.Failed},
		{"sha256:0", "running", "", sandbox.Running}, {"sha256:0", "stopped", "", sandbox.Stopped},
	}
	if d := cmp.Diff(all, uses()); d != "" {
		t.Error(d)
	}

	// While an image is held it is not in use yet, and when it is let go it is.
	held, made := false, make(chan error)
	m.d.HoldImages = func(context.Context) (func(), error) {
		held = true
		return func() {
			held = false
			if list := uses(); len(list) != 5 || list[0] != (ImageUse{Digest: "sha256:0", Sandbox: "another"}) {
				t.Errorf("let go before it is in use: %v", list)
			}
		}, nil
	}
	packing, goOn := make(chan struct{}), make(chan struct{})
	m.d.CreateUpper = func(context.Context, string, int) error {
		close(packing)
		<-goOn
		return errors.New("the disk is full")
	}
	go func() {
		_, err := m.Create(context.Background(), spec("another"))
		made <- err
	}()
	<-packing
	if held || len(uses()) != 5 {
		t.Errorf("held %v, %v", held, uses())
	}
	close(goOn)
	if err := <-made; err == nil {
		t.Error("it was made")
	}
	if d := cmp.Diff(all, uses()); d != "" {
		t.Error(d)
	}
	if err := m.Remove(context.Background(), "created", false); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(all[1:], uses()); d != "" {
		t.Error(d)
	}
}
