package stress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/bench/census"
	"github.com/agentkernel/agentkernel/internal/procusage"
)

const (
	// sampleInterval is how often the memory of all is measured: often enough for the peak of a run of seconds, seldom enough
	// to take less than a hundredth of a processor.
	sampleInterval = 500 * time.Millisecond
	// settleTime is how long the daemon gets to close what it has closed its part of. No event tells of it.
	settleTime, settleStep = 3 * time.Second, 50 * time.Millisecond
)

// view is what there was on the host before the run.
type view struct {
	entries map[string][]string // of each directory
	others  map[string]bool     // ids of sandboxes that are not ours
}

// look is called before anything is made.
func (r *runner) look(ctx context.Context) (*view, error) {
	v, err := r.api.Version(ctx)
	if err != nil {
		return nil, err
	}
	r.daemon = v.Pid
	s := &view{entries: map[string][]string{}}
	for _, dir := range []string{r.o.Sandboxes, r.o.Runtime} {
		if s.entries[dir], err = names(dir); err != nil {
			return nil, err
		}
	}
	if s.others, err = r.others(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// measureDaemon is called when the first sandbox is gone.
func (r *runner) measureDaemon() {
	r.api.Close() // its idle connections are descriptors of the daemon's
	if u, err := procusage.Of(r.daemon, 0, true); err == nil {
		r.report.Daemon.MemoryBefore = u.PSS
	}
	// The first sandbox's end may not be over yet: what is open then would hide as much that is left later.
	var err error
	r.report.Daemon.DescriptorsBefore, err = r.settled(func(now, before int) bool { return now == before })
	if err != nil {
		r.unchecked("descriptors", err)
	}
}

// others are the sandboxes that are not of this run.
func (r *runner) others(ctx context.Context) (map[string]bool, error) {
	list, err := r.api.List(ctx)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, sb := range list.Sandboxes {
		if !slices.Contains(r.ids, sb.Id) {
			ids[sb.Id] = true
		}
	}
	return ids, nil
}

// compare looks for what is left over of the run.
func (r *runner) compare(ctx context.Context, before *view) error {
	v, err := r.api.Version(ctx)
	if err != nil {
		return fmt.Errorf("the daemon, after the run: %w", err)
	}
	if v.Pid != r.daemon {
		r.left("another daemon answers (pid %d, before it was %d)", v.Pid, r.daemon)
	}
	list, err := r.api.List(ctx)
	if err != nil {
		return err
	}
	others := map[string]bool{}
	for _, sb := range list.Sandboxes {
		if slices.Contains(r.ids, sb.Id) {
			r.left("sandbox %s (%s)", sb.Name, sb.State)
		} else {
			others[sb.Id] = true
		}
	}
	pool, err := r.api.Pool(ctx)
	if err != nil {
		return err
	}
	r.api.Close()
	if err := r.leftFiles(before, others); err != nil {
		return err
	}
	r.leftOnHost()
	r.leftInDaemon(maps.Equal(before.others, others) && len(pool.Images) == 0)
	return nil
}

// leftFiles looks for what is new in the directories, for a while: what belongs to a microVM of the pool has a process soon, or is gone.
func (r *runner) leftFiles(before *view, others map[string]bool) error {
	deadline := time.NewTimer(settleTime)
	defer deadline.Stop()
	tick := time.NewTicker(settleStep)
	defer tick.Stop()
	for {
		files, err := r.newFiles(before, others)
		if err != nil || len(files) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			for _, file := range files {
				r.left("file %s", file)
			}
			return nil
		}
	}
}

// newFiles are entries that were not there before, and that no other sandbox and no other microVM has.
func (r *runner) newFiles(before *view, others map[string]bool) (files []string, err error) {
	for dir, had := range before.entries {
		now, err := names(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range now {
			id := name[strings.LastIndexByte(name, '-')+1:] // a directory that is being made or removed has a prefix
			if slices.Contains(had, name) || others[id] {
				continue
			}
			if p, err := census.Processes([]string{id}); err == nil && len(p) > 0 && !slices.Contains(r.ids, id) {
				continue
			}
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files, nil
}

// leftOnHost looks for processes and sockets.
func (r *runner) leftOnHost() {
	processes, err := census.Processes(r.ids)
	if err != nil {
		r.unchecked("processes", err)
	}
	told := map[int]bool{}
	for _, p := range processes {
		told[p.PID] = true
		r.left("process %d: %s", p.PID, p.Command)
	}
	for _, vmm := range r.vmms { // also one that has another name
		if now, err := census.Identify(vmm.PID); err == nil && now == vmm && !told[vmm.PID] {
			r.left("process %d, a VMM", vmm.PID)
		}
	}
	if len(r.ids) == 0 {
		return
	}
	sockets, err := census.Sockets(r.ids)
	if err != nil {
		r.unchecked("sockets", err)
	}
	for _, path := range sockets {
		r.left("socket %s", path)
	}
}

// leftInDaemon looks at what the daemon holds.
//
// alone says that nothing else has made it open or close descriptors: it keeps some for each microVM.
func (r *runner) leftInDaemon(alone bool) {
	if u, err := procusage.Of(r.daemon, 0, true); err == nil {
		r.report.Daemon.MemoryAfter = u.PSS
		r.report.Daemon.MemoryPeak = max(r.report.Daemon.MemoryPeak, u.PSS)
	}
	d := &r.report.Daemon
	var err error
	if d.DescriptorsAfter, err = r.settled(func(now, _ int) bool { return now <= d.DescriptorsBefore }); err == nil && d.DescriptorsAfter > d.DescriptorsBefore {
		if alone {
			r.left("%d descriptors of the daemon, before it had %d", d.DescriptorsAfter, d.DescriptorsBefore)
		} else {
			r.unchecked("descriptors", errors.New("others have used the daemon meanwhile, or its pool has"))
		}
	}
	zombies, err := census.Zombies(r.daemon)
	if err != nil {
		r.unchecked("zombies", err)
	}
	for _, pid := range zombies {
		r.left("zombie %d, a child of the daemon", pid)
	}
}

// settled counts the daemon's descriptors until the count is good, or for a while.
func (r *runner) settled(good func(now, before int) bool) (int, error) {
	deadline := time.NewTimer(settleTime)
	defer deadline.Stop()
	tick := time.NewTicker(settleStep)
	defer tick.Stop()
	last := -1
	for {
		n, err := census.Descriptors(r.daemon)
		if err != nil || good(n, last) {
			return n, err
		}
		last = n
		select {
		case <-tick.C:
		case <-deadline.C:
			return n, nil
		}
	}
}

// sample measures the memory of all VMMs and of the daemon until what it returns is called.
func (r *runner) sample() (stop func()) {
	quit, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(sampleInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.sampleOnce()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-over
	}
}

func (r *runner) sampleOnce() {
	r.mu.Lock()
	ids := make([]string, 0, len(r.running))
	for id := range r.running {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	processes, err := census.Processes(ids)
	if err != nil {
		return
	}
	daemon, err := procusage.Of(r.daemon, 0, true)
	if err != nil || daemon.PSS == 0 {
		return
	}
	sum, vmms := daemon.PSS, map[string]bool{}
	for _, p := range processes {
		if u, err := procusage.Of(p.PID, 0, true); err == nil {
			sum += u.PSS
			vmms[p.Sandbox] = true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.report.Memory
	m.Samples++
	if sum > m.Peak {
		m.Peak, m.PeakVMMs = sum, len(vmms)
	}
	r.report.Daemon.MemoryPeak = max(r.report.Daemon.MemoryPeak, daemon.PSS)
}

func (r *runner) left(format string, args ...any) {
	r.report.Left = append(r.report.Left, fmt.Sprintf(format, args...))
}

func (r *runner) unchecked(what string, err error) {
	r.report.Unchecked = append(r.report.Unchecked, what+": "+err.Error())
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for what is left over: %w", err)
	}
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Name()
	}
	return list, nil
}
