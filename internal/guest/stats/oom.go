package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// interval is the least time between two events. What happens faster is joined.
const interval = 500 * time.Millisecond

// maxRecord is the size of a buffer that takes any record of the kernel's log: CONSOLE_EXT_LOG_MAX.
const maxRecord = 8192

// WatchOOM calls send for what the kernel says of processes that it kills for want of memory, until ctx ends or send fails.
// It wakes up for what the kernel logs, and for nothing else. path is /dev/kmsg.
func WatchOOM(ctx context.Context, path string, send func(*guestv1.OOMKill) error) error {
	log, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	if _, err := log.Seek(0, io.SeekEnd); err != nil && !errors.Is(err, unix.ESPIPE) { // a pipe in tests
		log.Close()
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := pending{wake: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(p.read(log))
	}()
	stop := context.AfterFunc(ctx, func() { log.Close() }) // ends the read
	defer func() { cancel(nil); stop(); log.Close(); <-done }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := send(p.take()); err != nil {
			return err
		}
		timer.Reset(interval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pending is what has not been sent yet.
type pending struct {
	wake chan struct{}
	mu   sync.Mutex
	kill guestv1.OOMKill
}

func (p *pending) take() *guestv1.OOMKill {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := &guestv1.OOMKill{Pid: p.kill.GetPid(), Process: p.kill.GetProcess(), Count: p.kill.GetCount()}
	p.kill.Count = 0
	return k
}

// read takes one record with each read: Documentation/ABI/testing/dev-kmsg of Linux.
func (p *pending) read(log io.Reader) error {
	buf := make([]byte, maxRecord)
	for {
		n, err := log.Read(buf)
		if errors.Is(err, unix.EPIPE) { // records were overwritten before they were read; the next read goes on behind them
			continue
		}
		if err != nil {
			return fmt.Errorf("read the kernel's log: %w", err)
		}
		pid, name, ok := parseKill(buf[:n])
		if !ok {
			continue
		}
		p.mu.Lock()
		p.kill.Pid, p.kill.Process = pid, name
		p.kill.Count++
		p.mu.Unlock()
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// parseKill reads a record such as "3,451,9876543,-;Out of memory: Killed process 123 (name) total-vm:…". Records of other
// processes than the kernel, whose number has a facility in it, do not count.
func parseKill(record []byte) (pid uint32, name string, ok bool) {
	prefix, text, found := bytes.Cut(record, []byte(";"))
	level, _, _ := bytes.Cut(prefix, []byte(","))
	if n, err := strconv.ParseUint(string(level), 10, 32); !found || err != nil || n > 7 {
		return 0, "", false
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	before, text, found := bytes.Cut(text, []byte(": Killed process "))
	if !found || !bytes.EqualFold(before, []byte("Out of memory")) && !bytes.EqualFold(before, []byte("Memory cgroup out of memory")) {
		return 0, "", false
	}
	digits, text, _ := bytes.Cut(text, []byte(" ("))
	n, err := strconv.ParseUint(string(digits), 10, 32)
	end := bytes.LastIndex(text, []byte(") total-vm:"))
	if err != nil || end < 0 {
		return 0, "", false
	}
	return uint32(n), string(text[:end]), true
}
