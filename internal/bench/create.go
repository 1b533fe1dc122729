package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// createWindow is how many creates at either end are compared: a tenth of all, and at most so many.
const createWindow = 50

// Create makes N sandboxes, which exist beside each other and are never started, and removes them. stateDir is where the daemon
// keeps its state. What is made once for all of them (an empty disk of that size) is made before, and not counted.
func Create(ctx context.Context, e *Env, stateDir string) (s Section, err error) {
	s = Section{Name: "create", Title: "Many sandboxes of one image, made and removed"}
	sb, remove, err := e.create(ctx)
	if err == nil {
		err = remove()
	}
	if err != nil {
		return s, err
	}
	s.Setup = fmt.Sprintf("image %s, disks of %d MiB; %d beside each other", sb.Image, sb.DiskMib, e.N)
	before, err := blocksBelow(stateDir)
	if err != nil {
		return s, err
	}
	times, removals, bytes, err := e.createAll(ctx, stateDir)
	if err != nil {
		return s, err
	}
	window := min(max(e.N/10, 1), createWindow)
	first, last := Series{fmt.Sprintf("the first %d", window), times[:window]}, Series{fmt.Sprintf("the last %d", window), times[e.N-window:]}
	t := Table{Series: []Series{{"create, all", times}, first, last, {"remove", removals}}}
	s.Times = t.Summaries()
	s.Add("the last creates / the first", float64(last.Quantile(0.5))/float64(first.Quantile(0.5)), Ratio)
	// All blocks below the state directory, those of directories as well.
	s.Add("disk of each sandbox", float64(bytes-before)/1024/float64(e.N), "KiB")
	return s, nil
}

// createAll makes N sandboxes, measures what the state directory takes then, and removes them.
func (e *Env) createAll(ctx context.Context, stateDir string) (times, removals []time.Duration, bytes int64, err error) {
	var removes []func() error
	defer func() {
		for _, remove := range removes {
			began := time.Now()
			err = errors.Join(err, remove())
			removals = append(removals, time.Since(began))
		}
	}()
	for i := range e.N {
		began := time.Now()
		_, remove, err := e.create(ctx)
		if err != nil {
			return nil, nil, 0, err
		}
		times = append(times, time.Since(began))
		removes = append(removes, remove)
		e.Progress(i+1, e.N)
	}
	bytes, err = blocksBelow(stateDir)
	return times, nil, bytes, err
}

// blocksBelow is how many bytes of the host's disk everything below a directory takes: stat(2), st_blocks.
func blocksBelow(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil // a temporary file of the daemon
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			total += s.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure what %s takes of the disk: %w", dir, err)
	}
	return total, nil
}
