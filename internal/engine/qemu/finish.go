package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Finish has a QEMU that never runs the guest load what Save has written, with the guest's memory in a file that it shares, and
// write its devices alone. Pages of zeros are not written, so that the file has holes there. spec is that of the microVM that was
// saved; of its disks nothing is opened. The QEMU ends with this process, if not before (on Linux; elsewhere Sweep ends it).
func (e *Engine) Finish(ctx context.Context, spec sandbox.MachineSpec, saved sandbox.SavedState) (done sandbox.SavedState, err error) {
	if len(saved.Files) != 1 || saved.Files[0] != streamFile {
		return saved, fmt.Errorf("finish a saved microVM: it is not one that was just saved: %q", saved.Files)
	}
	unused := saved // its disks are as they were to the driver in the guest, and none has a file
	unused.Disks = slices.Clone(saved.Disks)
	for i := range unused.Disks {
		unused.Disks[i].Role = ""
	}
	spec.From, spec.CountFile, spec.Disks = &unused, "", nil
	cmd, err := e.prepare(ctx, spec)
	if err != nil {
		return saved, err
	}
	cmd.use = finishes
	if err := e.finish(ctx, cmd); err != nil {
		return saved, fmt.Errorf("finish a saved microVM: %w", err)
	}
	saved.Files = []string{memoryFile, stateFile}
	return saved, nil
}

func (e *Engine) finish(ctx context.Context, cmd *command) error {
	dir := cmd.spec.From.Dir
	stream := filepath.Join(dir, streamFile)
	memory, err := createEmpty(cmd.memory)
	if err != nil {
		return err
	}
	defer memory.Close()
	if err := memory.Truncate(int64(cmd.spec.MemoryMiB) << 20); err != nil {
		return err
	}
	state, err := createEmpty(filepath.Join(dir, stateFile))
	if err != nil {
		return err
	}
	defer state.Close()
	if err := e.convert(ctx, cmd, stream, state); err != nil {
		return err
	}
	for _, f := range []*os.File{memory, state} {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	if err := os.Remove(stream); err != nil {
		return err
	}
	return syncDir(dir)
}

// createEmpty makes a file, or empties what an attempt that was cut short has left.
func createEmpty(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// convert runs the QEMU, which reads the stream and writes the state.
func (e *Engine) convert(ctx context.Context, cmd *command, stream string, state io.Writer) (err error) {
	// The kernel ends a child with the thread that has started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	monitor, monitorEnd, err := socketPair()
	if err != nil {
		return err
	}
	said, output, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make a pipe: %w", err), monitor.Close(), monitorEnd.Close())
	}
	feed, incoming, err := feedFrom(stream)
	if err != nil {
		return errors.Join(err, monitor.Close(), monitorEnd.Close(), said.Close(), output.Close())
	}
	defer feed.end()
	start := process.Spec{
		Path: cmd.bin.path, Args: append([]string{cmd.bin.path}, cmd.args()...), Dir: cmd.spec.From.Dir, Env: environment(),
		Output: output, Files: []*os.File{monitorEnd, incoming},
	}
	endsWithUs(&start.Attr)
	proc, err := process.Start(start)
	closeAll([]*os.File{monitorEnd, incoming, output})
	if err != nil {
		return errors.Join(err, monitor.Close(), said.Close())
	}
	var words []byte // QEMU's, bounded
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		words, _ = io.ReadAll(io.LimitReader(said, 4096))
		_, _ = io.Copy(io.Discard, said)
	}()
	m := newMigration()
	q := newQMP(monitor, func(name string, data json.RawMessage) {
		if name == "MIGRATION" {
			m.onEvent(data)
		}
	})
	err = func() error {
		if err := m.load(ctx, q, qmpFD+1, true); err != nil {
			return err
		}
		return m.save(ctx, q, state, maxDeviceBytes, false)
	}()
	err = errors.Join(err, vmm.KillAndWait(ctx, name, proc))
	q.close()
	<-heard
	said.Close()
	if proc.Exit().Signal == syscall.SIGBUS.String() { // a page of the mapped memory had no room on the disk
		return &os.PathError{Op: "write", Path: cmd.memory, Err: syscall.ENOSPC}
	}
	if err != nil && ctx.Err() == nil {
		if last := vmmlog.LastLines(complaints(words), 4); last != "" {
			return sandbox.Errorf(sandbox.Failure, hintFor(last), "QEMU cannot load what it saved: %s (%w)", last, err)
		}
	}
	return err
}

// socketPair is a connected pair of unix sockets, one of them for a child.
func socketPair() (net.Conn, *os.File, error) {
	syscall.ForkLock.RLock() // no child gets them before they are marked; only Linux marks them at once
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "monitor"), os.NewFile(uintptr(fds[1]), "monitor")
	defer ours.Close() // FileConn has a duplicate
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pair of sockets: %w", err), theirs.Close())
	}
	return conn, theirs, nil
}
