package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/agentkernel/agentkernel/internal/procusage"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// maxCloneMemory is the budget of what a microVM from a template takes, as a part of a cold-booted one's.
const maxCloneMemory = 0.5

// Memory measures what N running sandboxes at once, which have run one command each, take of the host: of their VMMs as PSS, where
// what is shared is divided among those who share it, and what the daemon has grown by for each.
func Memory(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "memory", Title: "Memory of idle sandboxes"}
	v, err := e.Client.Version(ctx)
	if err != nil {
		return s, err
	}
	// The first sandbox of a daemon costs it what the others have for nothing.
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	if err := errors.Join(e.execTrue(ctx, sb.Name), remove()); err != nil {
		return s, err
	}
	s.Setup = fmt.Sprintf("%s; %d at once, after one command in each", e.setup(sb), e.N)
	medians := map[string]float64{}
	for _, w := range []origin{cold(), template()} {
		sizes, daemon, err := e.memoryOf(ctx, v.Pid, w)
		if err != nil {
			return s, err
		}
		medians[w.name] = mebi(sizes[(len(sizes)-1)/2])
		s.Add("a VMM, "+w.name+" (PSS), median", medians[w.name], "MiB")
		s.Add("a VMM, "+w.name+" (PSS), most", mebi(sizes[len(sizes)-1]), "MiB")
		s.Add("the daemon's share of each, "+w.name, daemon, "MiB")
	}
	s.Budget("memory of a VMM, from a template / cold", medians[template().name]/medians[cold().name], Ratio, maxCloneMemory)
	return s, nil
}

// memoryOf starts N sandboxes, and returns the sizes of their VMMs in order and what the daemon has grown by for each, in MiB.
func (e *Env) memoryOf(ctx context.Context, daemon int, w origin) (sizes []uint64, share float64, err error) {
	e.Client.Close()
	before, err := pss(daemon)
	if err != nil {
		return nil, 0, err
	}
	var pids []int
	for i := range e.N {
		sb, remove, err := e.started(ctx, w.o)
		if err != nil {
			return nil, 0, err
		}
		defer func() { err = errors.Join(err, remove()) }()
		if err := errors.Join(w.check(sb), e.execTrue(ctx, sb.Name)); err != nil {
			return nil, 0, err
		}
		pids = append(pids, deref(sb.Pid))
		e.Progress(i+1, e.N)
	}
	if err := wait(ctx, calm); err != nil {
		return nil, 0, err
	}
	for _, pid := range pids {
		size, err := pss(pid)
		if err != nil {
			return nil, 0, err
		}
		sizes = append(sizes, size)
	}
	after, err := pss(daemon)
	if err != nil {
		return nil, 0, err
	}
	slices.Sort(sizes)
	return sizes, (mebi(after) - mebi(before)) / float64(e.N), nil
}

func pss(pid int) (uint64, error) {
	u, err := procusage.Of(pid, 0, true)
	if err == nil && u.PSS == 0 {
		err = procusage.ErrUnknown
	}
	if err != nil {
		return 0, fmt.Errorf("measure the memory of process %d: %w", pid, err)
	}
	return u.PSS, nil
}
