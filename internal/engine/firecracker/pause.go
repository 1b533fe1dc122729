package firecracker

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
)

// Pause halts the vCPUs, by stopping all of Firecracker (SIGSTOP). Its own way, a request, is only for Save: since version 1.16 a
// guest that goes on after it gets nothing from the host any more through vsock, until it has acknowledged the event that
// only a saved state sends it (pending_event_ack in Firecracker's src/vmm/src/devices/virtio/vsock/device.rs).
func (m *machine) Pause(ctx context.Context) error {
	ctx, cancel := during(m.Life(), ctx)
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return m.Proc.Stop(ctx)
}

// Resume lets the vCPUs go on, whichever way they were halted.
func (m *machine) Resume(ctx context.Context) error {
	if err := m.Proc.Continue(); err != nil {
		return err
	}
	return m.tell(ctx, func(c *fcapi.Client, ctx context.Context) error {
		info, err := c.InstanceInfo(ctx)
		if err != nil || info.State != fcapi.StatePaused {
			return err
		}
		if !m.reset.Load() {
			if err := m.sendReset(ctx, c); err != nil {
				return err
			}
		}
		if err = c.Resume(ctx); err == nil {
			m.reset.Store(false)
		}
		return err
	})
}

// sendReset is for a microVM whose Save was cut short, of which it is not known whether the guest has the event that ends its
// connections, and without which it would not go on to listen. Firecracker sends the event before it opens the files, and there is
// no such directory.
func (m *machine) sendReset(ctx context.Context, c *fcapi.Client) error {
	const nowhere = savingInside + "/none/"
	var fault *fcapi.FaultError
	err := c.CreateSnapshot(ctx, fcapi.SnapshotCreateParams{SnapshotPath: nowhere + stateFile, MemFilePath: nowhere + memoryFile, SnapshotType: fcapi.SnapshotFull})
	if err != nil && !errors.As(err, &fault) {
		return err
	}
	m.link.reset()
	m.reset.Store(true)
	return nil
}

// Paused looks at the process, which does not answer when it is stopped, and asks it otherwise.
func (m *machine) Paused(ctx context.Context) (paused bool, err error) {
	if paused, err = m.Proc.Stopped(); paused || err != nil {
		return paused, err
	}
	err = m.tell(ctx, func(c *fcapi.Client, ctx context.Context) error {
		info, err := c.InstanceInfo(ctx)
		paused = info.State == fcapi.StatePaused
		return err
	})
	return paused, err
}

// tell makes requests. The connection is closed after them: one that waits for the next request would cost memory all the
// time.
func (m *machine) tell(ctx context.Context, requests func(*fcapi.Client, context.Context) error) error {
	ctx, cancel := during(m.Life(), ctx)
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c, _, err := m.connect(ctx)
	if err == nil {
		defer c.Close()
		err = requests(c, ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("tell Firecracker: %w", cause)
	}
	return err
}
