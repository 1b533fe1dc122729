package main

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/agent"
	"github.com/agentkernel/agentkernel/internal/guest/boot"
	"github.com/agentkernel/agentkernel/internal/guest/exec"
	"github.com/agentkernel/agentkernel/internal/guest/identity"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
)

// root is the sandbox's file systems. Those of a template are there as far as its disks are.
type root struct {
	boot.Mounts
	params boot.Params
	rooted bool          // the upper disk is there
	whole  chan struct{} // closed when all disks are there
}

// newRoot mounts what there is.
func newRoot(p boot.Params) (*root, error) {
	r := &root{params: p, whole: make(chan struct{})}
	if err := boot.System(); err != nil {
		return nil, err
	}
	if err := r.Image(p); err != nil {
		return nil, err
	}
	if p.Template {
		if !p.HasUpper() {
			return r, nil
		}
		r.rooted = true
		return r, r.Root(p)
	}
	return r, r.complete()
}

func (r *root) complete() error {
	if !r.rooted {
		if err := r.Root(r.params); err != nil {
			return err
		}
	}
	if err := r.Attach(r.params); err != nil {
		return err
	}
	close(r.whole)
	keepSmall()
	return nil
}

// warm brings into a template what each sandbox would have to make or to read first.
func (r *root) warm(runner *exec.Runner) error {
	defer runtime.GC() // a sandbox begins without garbage
	agent.Warm()
	if !r.rooted {
		return runner.Warm(r.Top())
	}
	if err := identity.NameTemplate("/"); err != nil {
		return err
	}
	identity.System{Own: r.Own}.Rehearse()
	err := runner.Warm("/")
	unix.Sync() // or the first moments of a sandbox may be those in which the kernel gets to writing
	return err
}

// enter is agent.Options.Enter.
func (r *root) enter(disks []*guestv1.ResumeDisk) error {
	had := len(r.params.Disks)
	for _, d := range disks {
		if err := r.params.AddDisk(d.GetDisk(), d.GetBytes(), d.GetRebind()); err != nil {
			return err
		}
	}
	if len(r.params.Disks) > had {
		if err := r.Find(r.params); err != nil {
			return err
		}
	}
	return r.complete()
}

// onceWhole returns a handler that refuses streams while disks are missing.
func (r *root) onceWhole(h stream.Handler) stream.Handler {
	return func(ctx context.Context, s *stream.Stream) error {
		select {
		case <-r.whole:
			return h(ctx, s)
		default:
			return fmt.Errorf("this microVM is a template, and has no disks yet: %w", unix.EAGAIN)
		}
	}
}
