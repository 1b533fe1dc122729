package image

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// An image goes with the last of its names, unless somebody uses it.
func TestRemoveTheLastName(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	file := imageFile(t, ext4Head())
	var m Manifest
	for _, name := range []string{"one", "two", "three"} {
		var err error
		if m, err = s.Import(ctx, file, name, sandbox.X8664, ""); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		name  string
		inUse func(string) bool
		there bool
	}{
		{"one", never, true},
		{"two", never, true},
		{"three", always, true},
	} {
		freed, err := s.Remove(step.name, sandbox.X8664, step.inUse)
		if _, openErr := s.OpenDigest(ctx, m.Digest); err != nil || freed != 0 || openErr != nil {
			t.Errorf("step %d: %d freed, %v, %v", i, freed, err, openErr)
		}
	}
	if _, err := s.Import(ctx, file, "four", sandbox.X8664, ""); err != nil {
		t.Fatal(err)
	}
	if freed, err := s.Remove("four", sandbox.X8664, never); err != nil || freed == 0 {
		t.Errorf("%d freed, %v", freed, err)
	}
	if _, err := s.OpenDigest(ctx, m.Digest); err == nil {
		t.Error("the image is there although nobody has a name for it")
	}
}

// Who holds images keeps those out who remove, and they keep out who would hold.
func TestHoldAndExclude(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	first, err := s.Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	first()
	waits, have := make(chan struct{}), make(chan func())
	go func() {
		unlock, err := s.Exclude(ctx, func() { close(waits) })
		if err != nil {
			t.Error(err)
		}
		have <- unlock
	}()
	<-waits
	select {
	case <-have:
		t.Fatal("the store is its own although somebody holds images")
	default:
	}
	second()
	unlock := <-have
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Hold(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	if _, err := s.Import(cancelled, imageFile(t, ext4Head()), "a", sandbox.X8664, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	unlock()
	if _, err := s.Import(ctx, imageFile(t, ext4Head()), "a", sandbox.X8664, ""); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(s.blobDir()); err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}
