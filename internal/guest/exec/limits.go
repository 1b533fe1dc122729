package exec

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Limits of open files. Each command takes three of the agent. A child begins with the soft limit that programs expect
// which use select(2) or close every number up to the limit, and may raise it.
const (
	childFiles = 1024
	lowFiles   = 512 // numbers from here to childFiles are left for what is open for a short time
	agentFiles = 64 << 10
	hardFiles  = 512 << 10
)

// limits are this process's limits of open files.
type limits struct{ own, child unix.Rlimit }

// raiseLimits sets them as far as this process may.
func raiseLimits() (limits, error) {
	l := limits{own: unix.Rlimit{Cur: agentFiles, Max: hardFiles}}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l.own); err != nil {
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l.own); err != nil {
			return l, fmt.Errorf("read the limit of open files: %w", err)
		}
		l.own.Cur = min(l.own.Max, agentFiles)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l.own); err != nil {
			return l, fmt.Errorf("set the limit of open files: %w", err)
		}
	}
	l.child = unix.Rlimit{Cur: min(childFiles, l.own.Max), Max: l.own.Max}
	return l, nil
}

// forChild calls start while this process has the limits that its child shall inherit. What start opens for itself must
// find room below childFiles: that is why pipes do not stay between lowFiles and that.
func (l limits) forChild(start func() error) error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l.child); err != nil {
		return fmt.Errorf("lower the limit of open files: %w", err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l.own) }() // was allowed before
	return start()
}
