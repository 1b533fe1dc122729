package process

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// How often a process that was told to stop is looked at. A stop that is not of a child has no event.
const (
	firstStopPause = 50 * time.Microsecond
	lastStopPause  = 10 * time.Millisecond
)

// Stop halts the process until Continue, and returns when none of its threads runs. It is not an error when it has ended already.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", p.id.PID, err)
	}
	for pause := firstStopPause; ; pause = min(2*pause, lastStopPause) {
		if is, err := stopped(p.id.PID); is || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.done:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait until process %d has stopped: %w", p.id.PID, context.Cause(ctx))
		}
	}
}

// Continue has a process go on that was stopped. It is not an error when it was not, or has ended.
func (p *Process) Continue() error {
	if err := p.signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("continue process %d: %w", p.id.PID, err)
	}
	return nil
}

// Stopped reports whether the process was stopped, by whomever, and has not been continued. One that has ended is not.
func (p *Process) Stopped() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false, nil
	}
	return stopped(p.id.PID)
}

func (p *Process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	return p.handle.signal(s)
}
