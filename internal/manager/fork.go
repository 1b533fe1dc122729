package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// Limits of a fork.
const (
	MaxForks = 64
	// forksAtOnce is how many children start at the same time: more would wait for the same CPUs.
	forksAtOnce = 4
)

// Fork makes n running copies of a running or paused sandbox, with its memory and commands, and returns them. Their names are name, with
// a number after it when n is not 1; without a name that of the sandbox is taken. When one of them cannot be had, none is left.
func (m *Manager) Fork(ctx context.Context, parent, name string, n int, timeout time.Duration) (list []sandbox.Record, err error) {
	if n < 1 || n > MaxForks {
		return nil, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("ask for 1 to %d", MaxForks), "%d forks cannot be had", n)
	}
	b, err := m.find(parent)
	if err != nil {
		return nil, err
	}
	names, err := m.forkNames(parent, name, n)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	mark := snapshot.Manifest{ID: newID(), Sandbox: parent}
	dir, err := m.d.Snapshots.Begin(mark)
	if err != nil {
		return nil, err
	}
	// The children have its memory mapped, and their own copies of the disks: they do not need its names.
	defer func() {
		if e := m.d.Snapshots.Abandon(mark); e != nil {
			m.log.Error("delete what a fork has left", "sandbox", parent, "err", e)
		}
		if err != nil {
			err = asFailure(err, "fork %q", parent)
		}
	}()
	c, err := m.take(ctx, b, dir, false)
	if err != nil {
		return nil, err
	}
	mf, err := m.manifest(ctx, mark.ID, c)
	if err != nil {
		return nil, err
	}
	from := &origin{manifest: mf, dir: dir, kind: sandbox.RestoreFork}
	boxes := make([]*box, n)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(forksAtOnce)
	for i, name := range names {
		group.Go(func() (err error) {
			boxes[i], err = m.forkOne(groupCtx, name, from, timeout)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		for _, child := range boxes {
			if child != nil {
				err = errors.Join(err, m.Remove(context.WithoutCancel(ctx), child.record().Spec.Name, true))
			}
		}
		return nil, err
	}
	for _, child := range boxes {
		list = append(list, child.record())
	}
	m.log.Info("forked", "sandbox", parent, "children", names, "paused", c.pausedFor, "took", time.Since(began).Round(time.Millisecond))
	return list, nil
}

// forkOne makes one child and starts it. A child that is there and does not run is returned as well.
func (m *Manager) forkOne(ctx context.Context, name string, from *origin, timeout time.Duration) (*box, error) {
	asked := from.manifest.Spec
	asked.Name, asked.VsockCID = name, 0
	asked.Publish = slices.Clone(asked.Publish)
	for i := range asked.Publish { // the parent has its ports of the host
		asked.Publish[i].HostPort = 0
	}
	rec := sandbox.Record{Spec: copyOf(from.manifest.Spec, asked), State: sandbox.Created, Restore: &sandbox.Restore{Kind: sandbox.RestoreFork, ID: from.manifest.ID}}
	b, err := m.createCopy(ctx, rec, from)
	if err != nil {
		return nil, err
	}
	if err := b.acquire(ctx); err != nil {
		return b, err
	}
	defer b.release()
	_, err = m.startFrom(ctx, b, StartOptions{Timeout: timeout}, from)
	return b, err
}

// forkNames finds names for n children.
func (m *Manager) forkNames(parent, name string, n int) ([]string, error) {
	if name != "" && n == 1 {
		return []string{name}, sandbox.ValidateName(name)
	}
	base := name
	if base == "" {
		base = parent
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for i := 1; len(names) < n; i++ {
		child := fmt.Sprintf("%s-%d", base, i)
		if err := sandbox.ValidateName(child); err != nil {
			return nil, err
		}
		if m.byName[child] != nil || m.reserved[child] {
			continue
		}
		names = append(names, child)
	}
	return names, nil
}
