package exec

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
)

// Command is a command that was started.
type Command struct {
	runner   *Runner
	id       string
	argv     []string
	user     string
	terminal bool
	began    time.Time
	log      *outputLog // of a command in the background, else nil

	// Set when the process is there.
	pipes          *pipes
	stdin          *stdin // nil for a command without stdin
	stdout, stderr output

	// Guarded by the runner's mu.
	number  uint64
	process *reaper.Process
	group   *group // nil where there are none
	ended   time.Time
	exited  *guestv1.ExecExited
	stayed  bool // this is a copy, and its client is connected to the original

	over chan struct{} // closed when ended and exited are set
}

func (c *Command) attach(process *reaper.Process, p *pipes) {
	c.pipes = p
	c.stdout.file, c.stderr.file, c.stdout.terminal = p.stdout, p.stderr, p.terminal
	if p.stdin != nil {
		c.stdin = newStdin(p.stdin, p.terminal)
	}
	c.runner.mu.Lock()
	defer c.runner.mu.Unlock()
	c.process = process
}

// PID returns the number of the command's process, which is also that of its process group.
func (c *Command) PID() int { return c.process.PID() }

// Detach lets the command go on by itself, until it ends or after timeout, unless that is 0.
func (c *Command) Detach(timeout time.Duration) {
	ready := make(chan struct{})
	close(ready) // its output is always taken
	go func() {
		// Without a connection nothing can go wrong but in reading its output, and then there is no more of it.
		_, _ = c.run(context.Background(), timeout, ready, func(stderr bool, p []byte) error {
			c.log.add(stderr, p)
			return nil
		})
		c.log.finish()
	}()
}

// run carries the command's streams and returns how it ended, once what it wrote has been emitted. It is killed when ctx ends
// or emit fails (one with a terminal is hung up on first), and after timeout unless that is 0. Processes that it left behind
// may keep its pipes open: they do not hold run up, and what they write after the command's end is discarded. emit may be
// called from two goroutines at once.
func (c *Command) run(ctx context.Context, timeout time.Duration, credit <-chan struct{}, emit func(stderr bool, p []byte) error) (e *guestv1.ExecExited, err error) {
	defer func() {
		if c.group != nil {
			c.runner.groups.put(c.group)
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, c.cutOff)
	defer stop()
	var timedOut atomic.Bool
	if timeout > 0 {
		timer := time.AfterFunc(timeout, func() {
			timedOut.Store(true)
			c.kill()
		})
		defer timer.Stop()
	}
	var streams sync.WaitGroup
	run := func(f func() error) {
		streams.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	run(func() error {
		return c.stdout.pump(ctx, credit, &c.runner.buffers, func(p []byte) error { return emit(false, p) })
	})
	if c.stderr.file != nil {
		run(func() error {
			return c.stderr.pump(ctx, credit, &c.runner.buffers, func(p []byte) error { return emit(true, p) })
		})
	}
	if c.stdin != nil {
		run(c.stdin.pump)
	}
	<-c.process.Done()
	c.stdout.end()
	if c.stderr.file != nil {
		c.stderr.end()
	}
	if c.stdin != nil {
		c.stdin.abort()
	}
	streams.Wait()
	c.stdout.leave()
	if c.stderr.file != nil {
		c.stderr.leave()
	}
	status := c.process.Status()
	e = exited(status, timedOut.Load() && status.Signaled())
	e.OomKilled = c.group != nil && c.group.memory && c.group.oomKilled()
	c.runner.leave(c, e)
	return e, context.Cause(ctx)
}

// kill ends all processes that came of the command; gone is as good.
func (c *Command) kill() {
	if c.group != nil {
		c.group.kill()
	}
	_ = c.process.SignalGroup(unix.SIGKILL)
}

func exited(s syscall.WaitStatus, timedOut bool) *guestv1.ExecExited {
	e := &guestv1.ExecExited{TimedOut: timedOut}
	if s.Signaled() {
		e.Signal = uint32(s.Signal())
	} else {
		e.Code = uint32(s.ExitStatus())
	}
	return e
}
