package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/gofrs/flock"

	"github.com/agentkernel/agentkernel/internal/hangup"
	"github.com/agentkernel/agentkernel/internal/httpapi"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// readyLine is what a daemon writes to its ready pipe when it listens.
const readyLine = "ready\n"

// replaceTimeout is how long a daemon that a command started waits for the one before it to end.
const replaceTimeout = 20 * time.Second

// DaemonOptions of RunDaemon.
type DaemonOptions struct {
	Dirs paths.Dirs
	Log  *slog.Logger
	// Ready, when set, is told once whether the daemon listens; it is closed then. A daemon with it waits for its
	// predecessor to end, one without it refuses to start beside it.
	Ready io.WriteCloser
}

// RunDaemon serves the API until ctx ends or a client asks it to end. Sandboxes go on running then.
func RunDaemon(ctx context.Context, o DaemonOptions) (err error) {
	if o.Ready != nil {
		defer func() {
			if o.Ready == nil {
				return // it has been told already
			}
			if err != nil {
				fmt.Fprintln(o.Ready, err)
			}
			o.Ready.Close()
		}()
	}
	lock, err := lockState(ctx, o)
	if err != nil {
		return err
	}
	// The lock is let go by the end of the process and not before: whoever gets it knows that this one is gone.
	defer runtime.KeepAlive(lock)

	// Requests end when the daemon does.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sys, err := build(o.Dirs, o.Log)
	if err != nil {
		return err
	}
	if err := sys.manager.Reconcile(ctx); err != nil {
		return err
	}
	defer sys.manager.Close()

	listener, err := unixsock.Listen(o.Dirs.Socket())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	watched, err := hangup.Listen(listener)
	if err != nil {
		_ = listener.Close()
		return err
	}
	server := &http.Server{
		Handler: httpapi.New(httpapi.Options{
			Log: o.Log, Manager: sys.manager, Version: Version, Host: sys.host, Stop: cancel,
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       hangup.Context,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(watched) }()
	o.Log.Info("the daemon is ready", "version", Version, "pid", os.Getpid(), "socket", o.Dirs.Socket())
	if o.Ready != nil {
		if _, err := io.WriteString(o.Ready, readyLine); err != nil {
			o.Log.Warn("tell that the daemon is ready", "err", err) // the command that started it is gone
		}
		o.Ready.Close()
		o.Ready = nil
	}
	select {
	case <-ctx.Done():
	case err = <-served:
		return fmt.Errorf("serve: %w", err)
	}
	o.Log.Info("the daemon ends; running sandboxes go on")
	shutdownCtx, cancelShutdown := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancelShutdown()
	if err := server.Shutdown(shutdownCtx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("end the server: %w", err)
	}
	return nil
}

func stateLock(dirs paths.Dirs) string { return filepath.Join(dirs.State, "daemon.lock") }

// lockState keeps a second daemon out of the state directory. The lock ends with the process, however it ends.
func lockState(ctx context.Context, o DaemonOptions) (*flock.Flock, error) {
	lock := flock.New(stateLock(o.Dirs), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if ok {
		return lock, nil
	}
	if o.Ready == nil {
		return nil, sandbox.Errorf(sandbox.Conflict, "agentkernel daemon stop ends it", "a daemon runs already for %s", o.Dirs.State)
	}
	locked := make(chan error, 1)
	go func() { locked <- lock.Lock() }()
	timer := time.NewTimer(replaceTimeout)
	defer timer.Stop()
	select {
	case err := <-locked:
		if err != nil {
			return nil, fmt.Errorf("lock the state directory: %w", err)
		}
		return lock, nil
	case <-timer.C:
		return nil, fmt.Errorf("the daemon before this one still runs after %v", replaceTimeout)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
