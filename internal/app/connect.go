package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

const (
	startTimeout = 60 * time.Second // for a daemon to be ready; it may have many sandboxes to look after first
	maxDaemonLog = 4 << 20          // bytes; a larger log is renamed to daemon.log.1 when a daemon is started
)

// Running returns a client of the daemon that runs, or an error when none does.
func Running(ctx context.Context, dirs paths.Dirs) (*client.Client, client.Version, error) {
	c := client.New(dirs.Socket())
	v, err := c.Version(ctx)
	if err != nil {
		c.Close()
		return nil, v, err
	}
	return c, v, nil
}

// Connect returns a client of the daemon, which it starts when none runs. An idle daemon of another version is replaced: a
// running sandbox does not notice. warn gets a line when that could not be done.
func Connect(ctx context.Context, dirs paths.Dirs, warn func(string)) (*client.Client, error) {
	c, v, err := Running(ctx, dirs)
	if err == nil {
		if v.Version == Version {
			return c, nil
		}
		var refused *client.Error
		if err := c.StopDaemon(ctx, true); errors.As(err, &refused) {
			warn(fmt.Sprintf("the daemon (pid %d) has version %s and this command %s; it is busy, so it is used as it is", v.Pid, v.Version, Version))
			return c, nil
		}
		c.Close()
	}
	// One command starts the daemon, the others wait for it.
	lock := flock.New(filepath.Join(dirs.Runtime, "start.lock"))
	if err := lock.Lock(); err != nil {
		return nil, fmt.Errorf("lock the start of the daemon: %w", err)
	}
	defer lock.Unlock()
	if c, v, err := Running(ctx, dirs); err == nil {
		if v.Version == Version {
			return c, nil
		}
		c.Close()
	}
	if ctx.Err() != nil { // that is why no daemon has answered
		return nil, context.Cause(ctx)
	}
	if err := startDaemon(ctx, dirs); err != nil {
		return nil, err
	}
	c, _, err = Running(ctx, dirs)
	if err != nil {
		return nil, fmt.Errorf("talk to the daemon that was just started (its log is %s): %w", dirs.DaemonLog(), err)
	}
	return c, nil
}

// ConnectLate returns a client that does what Connect does when a command is run and it turns out to be needed.
func ConnectLate(dirs paths.Dirs, warn func(string)) *client.Client {
	c := client.New(dirs.Socket())
	c.Expect = Version
	c.Renew = func(ctx context.Context) error {
		other, err := Connect(ctx, dirs, warn)
		if err != nil {
			return err
		}
		other.Close()
		c.Close() // what it has kept leads to the old one
		return nil
	}
	return c
}

// StopDaemon ends the daemon that runs and returns its pid when it is gone. Sandboxes go on running.
func StopDaemon(ctx context.Context, dirs paths.Dirs) (pid int, err error) {
	c, v, err := Running(ctx, dirs)
	if err != nil {
		return 0, sandbox.Errorf(sandbox.NotFound, "", "no daemon runs")
	}
	defer c.Close()
	if err := c.StopDaemon(ctx, false); err != nil {
		return 0, err
	}
	// It holds the lock of the state directory until its end.
	gone := make(chan error, 1)
	lock := flock.New(stateLock(dirs), flock.SetPermissions(0o600))
	go func() { gone <- errors.Join(lock.Lock(), lock.Unlock()) }()
	select {
	case err := <-gone:
		return v.Pid, err
	case <-ctx.Done():
		return v.Pid, context.Cause(ctx)
	}
}

// startDaemon runs this program as a daemon in a session of its own, and returns when it is ready or has failed.
func startDaemon(ctx context.Context, dirs paths.Dirs) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	log, err := openDaemonLog(dirs.DaemonLog())
	if err != nil {
		return err
	}
	defer log.Close()
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer ready.Close()
	// It outlives this command, so no context ends it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, "daemon", "--ready-fd", strconv.Itoa(3))
	cmd.Dir = "/"
	if os.Getenv(paths.HomeVariable) != "" { // it may be relative to this directory
		cmd.Env = append(os.Environ(), paths.HomeVariable+"="+filepath.Dir(dirs.State))
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{readyWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	readyWrite.Close()
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	deadline := time.Now().Add(startTimeout)
	if err := ready.SetReadDeadline(deadline); err != nil {
		return fmt.Errorf("wait for the daemon: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(ready, 64<<10)).ReadString('\n')
	switch {
	case err == nil && line == readyLine:
		return cmd.Process.Release()
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the daemon (pid %d) is not ready after %v; its log is %s", cmd.Process.Pid, startTimeout, dirs.DaemonLog())
	}
	_ = cmd.Wait() // it has closed the pipe: it ends
	reason := strings.TrimSpace(line)
	if reason == "" {
		reason = "it said nothing"
	}
	return sandbox.Errorf(sandbox.Unavailable, "its log is "+dirs.DaemonLog(), "the daemon did not start: %s", reason)
}

func openDaemonLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxDaemonLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rotate the daemon's log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's log: %w", err)
	}
	return f, nil
}
