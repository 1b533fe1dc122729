// Package filelock makes processes of one host wait for each other: flock(2) on a file that stays, empty, for as long as its
// directory does.
package filelock

import (
	"context"
	"fmt"

	"github.com/gofrs/flock"
)

// Try takes the lock at path if it is free, which ok tells.
func Try(path string) (unlock func(), ok bool, err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	if ok, err = l.TryLock(); err != nil {
		return nil, false, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = l.Close() }, ok, nil
}

// Lock takes the lock at path, whose directory must exist, and waits for it as long as ctx lasts; waiting, which may be nil,
// is called if it has to. The kernel offers no wait for a file lock that can be called off, so a wait that is given up goes
// on in the background and lets the lock go as soon as it has it.
func Lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	return wait(ctx, l, l.TryLock, l.Lock, waiting)
}

// Share is Lock for one of many who may have the lock together, while nobody has it by Lock.
func Share(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	l := flock.New(path, flock.SetPermissions(0o600))
	return wait(ctx, l, l.TryRLock, l.RLock, waiting)
}

func wait(ctx context.Context, l *flock.Flock, try func() (bool, error), lock func() error, waiting func()) (unlock func(), err error) {
	path := l.Path()
	free, err := try()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if free {
		return func() { _ = l.Close() }, nil
	}
	if waiting != nil {
		waiting()
	}
	got := make(chan error, 1)
	go func() { got <- lock() }()
	select {
	case err := <-got:
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return func() { _ = l.Close() }, nil
	case <-ctx.Done():
		go func() {
			if <-got == nil {
				_ = l.Close()
			}
		}()
		return nil, fmt.Errorf("wait for %s, which another process holds: %w", path, context.Cause(ctx))
	}
}
