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
	runner         *Runner
	id             string
	process        *reaper.Process
	pipes          *pipes
	stdin          *stdin // nil for a command without stdin
	stdout, stderr output
	credit         chan struct{}
}

// maxCredit bounds the output messages that may be under way.
const maxCredit = 1024

func (c *Command) attach(process *reaper.Process, p *pipes) {
	c.pipes = p
	c.stdout.file, c.stderr.file, c.stdout.terminal = p.stdout, p.stderr, p.terminal
	c.credit = make(chan struct{}, maxCredit)
	c.runner.mu.Lock()
	defer c.runner.mu.Unlock()
	c.process = process
}

// PID returns the number of the command's process, which is also that of its process group.
func (c *Command) PID() int { return c.process.PID() }

// Input takes what the host sends after the start of a command, until next returns an error. It must run while Run does.
func (c *Command) Input(next func() (*guestv1.ExecRequest, error)) error {
	for {
		req, err := next()
		if err != nil {
			return err
		}
		switch m := req.GetMsg().(type) {
		case *guestv1.ExecRequest_Stdin:
			if c.stdin != nil {
				err = c.stdin.put(m.Stdin)
			}
		case *guestv1.ExecRequest_StdinClose:
			if c.stdin != nil {
				c.stdin.close()
			}
		case *guestv1.ExecRequest_OutputCredit:
			c.addCredit(m.OutputCredit)
		case *guestv1.ExecRequest_Resize:
			c.resize(m.Resize)
		}
		if err != nil {
			return err
		}
	}
}

func (c *Command) addCredit(n uint32) {
	for range min(n, maxCredit) {
		select {
		case c.credit <- struct{}{}:
		default:
			return
		}
	}
}

// Prepare sets what Input needs, and must be called before Input and Run. send is called from several goroutines at
// once.
func (c *Command) Prepare(outputCredit uint32, send func(*guestv1.ExecResponse) error) {
	c.addCredit(outputCredit)
	if c.pipes.stdin != nil {
		c.stdin = newStdin(c.pipes.stdin, c.pipes.terminal, func(n uint32) error {
			return send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_StdinCredit{StdinCredit: n}})
		})
	}
}

// Run carries the command's streams and returns how it ended, once what it wrote has been sent. It is killed, with its
// process group, when ctx ends or send fails (one with a terminal is hung up on first), and after timeout unless that is 0. Processes that it left behind may keep
// its pipes open: they do not hold Run up, and what they write after the command's end is discarded.
func (c *Command) Run(ctx context.Context, timeout time.Duration, send func(*guestv1.ExecResponse) error) (*guestv1.ExecExited, error) {
	defer c.runner.leave(c)
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
		return c.stdout.pump(ctx, c.credit, &c.runner.buffers, func(p []byte) error {
			return send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stdout{Stdout: p}})
		})
	})
	if c.stderr.file != nil {
		run(func() error {
			return c.stderr.pump(ctx, c.credit, &c.runner.buffers, func(p []byte) error {
				return send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stderr{Stderr: p}})
			})
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
	go c.stdout.discard()
	if c.stderr.file != nil {
		go c.stderr.discard()
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	status := c.process.Status()
	return exited(status, timedOut.Load() && status.Signaled()), nil
}

func (c *Command) kill() { _ = c.process.SignalGroup(unix.SIGKILL) } // gone is as good

func exited(s syscall.WaitStatus, timedOut bool) *guestv1.ExecExited {
	e := &guestv1.ExecExited{TimedOut: timedOut}
	if s.Signaled() {
		e.Signal = uint32(s.Signal())
	} else {
		e.Code = uint32(s.ExitStatus())
	}
	return e
}
