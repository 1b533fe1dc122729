package manager

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// stageClock cuts the time of a start into stages.
type stageClock struct {
	last time.Time
	list []sandbox.Stage
}

func (c *stageClock) mark(name string) {
	now := time.Now()
	c.list = append(c.list, sandbox.Stage{Name: name, Duration: now.Sub(c.last)})
	c.last = now
}

// spawned divides the time since the last mark by what the engine says of it. What is not in that is its choice and preparation.
func (c *stageClock) spawned(machine sandbox.Machine) {
	now := time.Now()
	rest := now.Sub(c.last)
	var parts []sandbox.Stage
	if s, ok := machine.(sandbox.Stager); ok {
		parts = s.Stages()
	}
	for _, p := range parts {
		rest -= p.Duration
	}
	c.list = append(append(c.list, sandbox.Stage{Name: "spawn", Duration: max(rest, 0)}), parts...)
	c.last = now
}

// boot divides the time since the last mark by what the guest says of it: the guest's clock began with its kernel, so what
// is not in it is the VMM's own start, its firmware, and the answer's way back.
func (c *stageClock) boot(info guestrpc.Info) {
	total := time.Since(c.last)
	kernel := min(max(info.Init, 0), total)
	agent := min(max(info.Ready-info.Init, 0), total-kernel)
	c.list = append(c.list,
		sandbox.Stage{Name: "vmm", Duration: total - kernel - agent},
		sandbox.Stage{Name: "kernel", Duration: kernel},
		sandbox.Stage{Name: "init", Duration: agent},
	)
	c.last = time.Now()
}

// explain returns why a microVM did not become ready: the end of the VMM or the deadline, when one of them is behind err.
func explain(ctx context.Context, machine sandbox.Machine, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	// The link breaks in the same moment as the VMM ends.
	if ended(machine.Done()) {
		return fmt.Errorf("the microVM ended before its guest agent answered (%s)", exitReason(machine.Exit()))
	}
	return err
}

// endPatience is how long the end of a VMM may take to be noticed after the link to it broke.
const endPatience = 2 * time.Second

// ended waits a little for a channel that is about to be closed.
func ended(done <-chan struct{}) bool {
	timer := time.NewTimer(endPatience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func exitReason(e sandbox.Exit) string {
	var b strings.Builder
	switch {
	case e.Signal != "":
		fmt.Fprintf(&b, "its VMM was ended by the signal %q", e.Signal)
	case e.Code < 0:
		b.WriteString("its VMM ended")
	default:
		fmt.Fprintf(&b, "its VMM ended with exit code %d", e.Code)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// consoleTail returns the last lines of a console log, for an error message, with what could harm a terminal taken out.
func consoleTail(path string) string {
	const maxBytes, maxLines = 8192, 60
	f, err := os.Open(path)
	if err != nil {
		return "; there is no console output"
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-maxBytes), io.SeekStart)
	}
	data, _ := io.ReadAll(io.LimitReader(f, maxBytes))
	lines := strings.Split(printable(data), "\n")
	if len(lines) > maxLines {
		lines = lines[len(lines)-maxLines:]
	}
	text := strings.TrimSpace(strings.Join(lines, "\n  "))
	if text == "" {
		return "; there is no console output"
	}
	return "; the end of its console:\n  " + text
}

func printable(data []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || (r >= ' ' && r < 0x7f) || (r >= 0xa0 && r != utf8.RuneError) {
			return r
		}
		return -1
	}, string(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))))
}
