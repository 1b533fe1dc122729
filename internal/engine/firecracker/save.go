package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Files of a saved state.
const (
	memoryFile = "memory" // the guest's memory from address 0 on, without the hole below 4 GiB that is for devices
	stateFile  = "state"  // of vCPUs and devices, in Firecracker's own form
)

var savedFiles = []string{memoryFile, stateFile}

// minSaving is the oldest Firecracker whose restored guests can be relied on to be connected to: before 1.16.0 a connection could reach
// the guest before the event that ends all connections, and before 1.16.1 connections of the guest's could hang (its CHANGELOG.md,
// 5882 and 5958).
var minSaving = fcapi.Version{Major: 1, Minor: 16, Patch: 1}

func unreliable(version fcapi.Version) error {
	return sandbox.Errorf(sandbox.Unavailable, installHint+"; a sandbox that runs has to be stopped and started", "what Firecracker %s saves cannot be relied on: at least version %s is needed", version, minSaving)
}

// Save has Firecracker write a state into the one directory of its that is on a disk, and moves it to dir. The guest gets an event
// by which its vsock driver ends all connections, in this microVM too when it goes on; they are closed here at once. Firecracker cannot be told to leave
// off: when ctx ends meanwhile, its end is waited for, as every other request would have to.
func (m *machine) Save(ctx context.Context, dir string) (saved sandbox.SavedState, err error) {
	select {
	case m.saving <- struct{}{}:
	default:
		return saved, sandbox.Errorf(sandbox.Conflict, "wait until that is done", "a state of this microVM is being saved already")
	}
	defer func() { <-m.saving }()
	if len(m.Rec.Disks) == 0 {
		return saved, sandbox.Errorf(sandbox.Conflict, "stop and start the sandbox", "this microVM was started by an agentkernel that did not know how to save one")
	}
	host, err := hostvirt.HostLikeness()
	if err != nil {
		return saved, err
	}
	if err := m.files.openSaving(); err != nil {
		return saved, err
	}
	defer func() { err = errors.Join(err, m.files.closeSaving()) }()
	if ctx.Err() != nil {
		return saved, fmt.Errorf("save the microVM: %w", context.Cause(ctx))
	}
	// Until it has the first request, which is at once, a stopped guest runs.
	if err := m.Proc.Continue(); err != nil {
		return saved, err
	}
	var version fcapi.Version
	lasting, cancel := lastingFor(ctx, longestSave)
	defer cancel()
	err = m.tell(lasting, func(c *fcapi.Client, ctx context.Context) error {
		if version = c.Running(); version.Compare(minSaving) < 0 {
			return unreliable(version)
		}
		if err := c.Pause(ctx); err != nil {
			return err
		}
		return c.CreateSnapshot(ctx, fcapi.SnapshotCreateParams{
			SnapshotPath: savingInside + "/" + stateFile, MemFilePath: savingInside + "/" + memoryFile, SnapshotType: fcapi.SnapshotFull,
		})
	})
	if err != nil {
		return saved, m.explainSave(lasting, err)
	}
	m.link.reset()
	m.reset.Store(true)
	if ctx.Err() != nil {
		return saved, fmt.Errorf("save the microVM: %w", context.Cause(ctx))
	}
	for _, name := range savedFiles {
		if err := moveFile(ctx, filepath.Join(dir, name), filepath.Join(m.files.saving, name)); err != nil {
			return saved, fmt.Errorf("take over what Firecracker has saved: %w", err)
		}
	}
	return sandbox.SavedState{
		Dir: dir, Files: savedFiles, Engine: engineName, Version: version.String(), Arch: hostArch(), Accelerator: accelKVM, CPU: host.String(), Disks: m.Rec.Disks,
	}, nil
}

func (m *machine) explainSave(ctx context.Context, err error) error {
	var fault *fcapi.FaultError
	var ours *sandbox.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &ours):
		return fmt.Errorf("save the microVM: %w", err)
	case errors.As(err, &fault) && strings.Contains(fault.Message, "No space left on device"):
		return disk.NoSpace(m.files.saving, fmt.Errorf("save the microVM: %w: %w", syscall.ENOSPC, err))
	case errors.As(err, &fault):
		return sandbox.Errorf(sandbox.Failure, hintFor(fault.Message), "save the microVM: %w", err)
	}
	if detail, ended := m.ended(ctx); ended {
		return sandbox.Errorf(sandbox.Failure, hintFor(detail), "save the microVM: Firecracker has ended: %s", detail)
	}
	return fmt.Errorf("save the microVM: %w", err)
}

// longestSave is how long Firecracker may go on with a Save whose caller does not wait any more.
const longestSave = 10 * time.Minute

// lastingFor is ctx, ended later than that.
func lastingFor(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	lasting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(context.Cause(ctx))
		case <-lasting.Done():
		}
	})
	return lasting, func() {
		stop()
		cancel(nil)
	}
}

// openSaving empties the directory that Firecracker saves to, and lets it write there. A VMM with a user of its own can fill a disk
// there for no longer than it is asked to.
func (f runtimeFiles) openSaving() error {
	if err := f.emptySaving(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chmod(f.saving, 0o770); err != nil { // it has the VMMs' group
		return fmt.Errorf("let the VMM save a state: %w", err)
	}
	return nil
}

func (f runtimeFiles) closeSaving() error {
	if os.Geteuid() == 0 {
		if err := os.Chmod(f.saving, 0o700); err != nil && !errors.Is(err, os.ErrNotExist) { // the VMM has ended
			return fmt.Errorf("take the directory for saved states back from the VMM: %w", err)
		}
	}
	return f.emptySaving()
}

func (f runtimeFiles) emptySaving() error {
	entries, err := os.ReadDir(f.saving)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("empty the directory for saved states: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(f.saving, e.Name())))
	}
	return errors.Join(errs...)
}

// moveFile moves a file of the VMM's, which may be anything, to a place where the VMM cannot reach its name.
func moveFile(ctx context.Context, to, from string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	in, err := openRegular(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return copyFile(ctx, to, in)
}

// openRegular opens a regular file. It follows no link, and waits for nobody at a pipe.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// copyFile makes a new file with what is in another but for its zeros, and has it on the disk.
func copyFile(ctx context.Context, to string, in *os.File) error {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	err = disk.CopyData(ctx, out, in)
	if err == nil {
		err = disk.NoSpace(filepath.Dir(to), out.Sync())
	}
	return errors.Join(err, out.Close())
}

// ended waits for the end of a Firecracker whose socket broke, and returns what is known about it.
func (m *machine) ended(ctx context.Context) (detail string, ended bool) {
	timeout, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	select {
	case <-m.Done():
	case <-timeout.Done():
		return "", false
	}
	if detail = m.Exit().Detail; detail == "" {
		detail = strings.TrimSpace(fmt.Sprintf("it ended with code %d %s", m.Exit().Code, m.Exit().Signal))
	}
	return detail, true
}

// endTimeout is how long a Firecracker whose API socket broke may take to end. The kernel closes its sockets when it ends, so
// one that takes longer has not.
const endTimeout = 2 * time.Second
