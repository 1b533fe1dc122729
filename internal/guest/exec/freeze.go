package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// frozen is what Freeze did, for Thaw to undo.
type frozen struct {
	parts  []string      // control groups, directly below the root
	held   []*Command    // that a client of the host is connected to
	thawed chan struct{} // closed by Thaw
}

// Freeze keeps all processes in control groups from running, and commands from being started, until Thaw: the control group
// freezer, Documentation/admin-guide/cgroup-v2.rst of the kernel. All groups below the root are meant, also those that
// commands made for themselves. When it cannot be done before ctx ends, everything runs again. It does nothing when all is
// frozen already.
func (r *Runner) Freeze(ctx context.Context) error {
	r.starting.Lock()
	defer r.starting.Unlock()
	if r.frozen != nil {
		return nil
	}
	f := &frozen{thawed: make(chan struct{})}
	if r.groups == nil && r.running() {
		return errors.New("commands run, and the guest's kernel has no control groups to freeze them by")
	}
	if r.groups != nil {
		if err := f.freeze(ctx, r.groups.root); err != nil {
			return errors.Join(err, f.thaw())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.commands {
		if c.log == nil && c.process != nil && c.ended.IsZero() {
			f.held = append(f.held, c)
		}
	}
	r.frozen = f
	return nil
}

// Thaw lets everything run that Freeze has frozen. In a copy, the commands that a client was connected to then are marked:
// their connections are those of the original.
func (r *Runner) Thaw(isCopy bool) error {
	r.starting.Lock()
	defer r.starting.Unlock()
	f := r.frozen
	if f == nil {
		return nil
	}
	if isCopy {
		r.mu.Lock()
		for _, c := range f.held {
			c.stayed = true
		}
		r.mu.Unlock()
	}
	if err := f.thaw(); err != nil {
		return err
	}
	r.frozen = nil
	close(f.thawed)
	return nil
}

// Frozen reports whether commands wait for Thaw.
func (r *Runner) Frozen() bool {
	r.starting.Lock()
	defer r.starting.Unlock()
	return r.frozen != nil
}

// begin takes the lock of starts. It waits while everything is frozen: a process that is put into a frozen group would not
// come to tell how its start went.
func (r *Runner) begin(ctx context.Context) error {
	for {
		r.starting.Lock()
		f := r.frozen
		if f == nil {
			return nil
		}
		r.starting.Unlock()
		select {
		case <-f.thawed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *Runner) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.commands {
		if c.process != nil && c.ended.IsZero() {
			return true
		}
	}
	return false
}

func (f *frozen) freeze(ctx context.Context, root string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("list the control groups: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(root, e.Name())
		state, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it is gone
		}
		if err != nil {
			return fmt.Errorf("look at a control group: %w", err)
		}
		if bytes.HasPrefix(state, []byte("1")) {
			continue // its owner wants it frozen, also later
		}
		f.parts = append(f.parts, dir)
		if err := write(filepath.Join(dir, "cgroup.freeze"), "1"); err != nil {
			return fmt.Errorf("freeze the commands: %w", err)
		}
	}
	for _, dir := range f.parts { // they freeze together
		if err := awaitFrozen(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozen) thaw() error {
	var errs []error
	for _, dir := range f.parts {
		if err := write(filepath.Join(dir, "cgroup.freeze"), "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("let the commands run again: %w", err))
		}
	}
	return errors.Join(errs...)
}

// awaitFrozen waits until all processes of a group and of those below it have stopped: the kernel tells that of cgroup.events
// to those who poll it.
func awaitFrozen(ctx context.Context, dir string) error {
	fd, err := unix.Open(filepath.Join(dir, "cgroup.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch the commands freeze: %w", err)
	}
	defer unix.Close(fd)
	for {
		var events [256]byte
		n, err := unix.Pread(fd, events[:], 0)
		if errors.Is(err, unix.ENODEV) {
			return nil // the group is gone
		}
		if err != nil {
			return fmt.Errorf("watch the commands freeze: %w", err)
		}
		if bytes.Contains(events[:n], []byte("frozen 1")) {
			return nil
		}
		wait := -1
		if until, ok := ctx.Deadline(); ok {
			wait = int(max(0, time.Until(until).Milliseconds()+1))
		}
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, wait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch the commands freeze: %w", err)
		}
		if n == 0 && ctx.Err() != nil {
			return errors.New("some processes cannot be frozen: they wait in the kernel for something that does not come")
		}
	}
}
