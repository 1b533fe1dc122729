package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/bench/census"
	"github.com/agentkernel/agentkernel/internal/procusage"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// calm is how long a guest gets to end what its boot and the command before have begun: its agent gives memory back after 5 s.
const calm = 6 * time.Second

// The budgets: % of a processor for each of VMM and daemon, and MiB.
const (
	maxIdle  = 0.5
	maxAgent = 8
)

// Idle watches one running sandbox in which nothing happens, and the daemon, for a while, and then asks what they take.
func Idle(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "idle", Title: "A sandbox at rest"}
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	v, err := e.Client.Version(ctx)
	if err != nil {
		return s, err
	}
	if err := e.execTrue(ctx, sb.Name); err != nil { // so that it has been used
		return s, err
	}
	s.Setup = fmt.Sprintf("%s; nothing runs in it, watched for %v", e.setup(sb), e.Idle)
	e.Client.Close()
	if err := wait(ctx, calm); err != nil {
		return s, err
	}
	parts := []struct {
		name          string
		pid           int
		before, after census.Activity
	}{{name: "VMM", pid: deref(sb.Pid)}, {name: "daemon", pid: v.Pid}}
	began := time.Now()
	for i := range parts {
		if parts[i].before, err = census.ActivityOf(parts[i].pid); err != nil {
			return s, err
		}
	}
	if err := wait(ctx, e.Idle); err != nil {
		return s, err
	}
	for i := range parts {
		if parts[i].after, err = census.ActivityOf(parts[i].pid); err != nil {
			return s, err
		}
	}
	seconds := time.Since(began).Seconds()
	for _, p := range parts {
		s.Budget(p.name+": of one processor", 100*(p.after.CPU-p.before.CPU).Seconds()/seconds, "%", maxIdle)
		s.Add(p.name+": context switches", float64(p.after.Switches-p.before.Switches)/seconds, "/s")
	}
	for _, p := range parts {
		if u, err := procusage.Of(p.pid, 0, true); err == nil && u.PSS > 0 {
			s.Add(p.name+": memory (PSS)", mebi(u.PSS), "MiB")
		}
	}
	agent, err := e.agentMemory(ctx, sb.Name)
	if err != nil {
		return s, err
	}
	s.Budget("guest agent: resident memory", mebi(agent), "MiB", maxAgent)
	return s, nil
}

// agentMemory is what the guest agent says it has resident: it is PID 1, and the image must have cat.
func (e *Env) agentMemory(ctx context.Context, name string) (uint64, error) {
	var out bytes.Buffer
	if _, err := e.Client.Exec(ctx, name, client.ExecStart{Argv: []string{"cat", "/proc/1/status"}}, client.ExecIO{Stdout: &out}); err != nil {
		return 0, err
	}
	for line := range strings.Lines(out.String()) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if f := strings.Fields(rest); len(f) == 2 && f[1] == "kB" {
				n, err := strconv.ParseUint(f[0], 10, 40)
				return n << 10, err
			}
		}
	}
	return 0, fmt.Errorf("the guest does not say what its agent has resident: %.200q", out.String())
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func mebi(bytes uint64) float64 { return float64(bytes) / (1 << 20) }
