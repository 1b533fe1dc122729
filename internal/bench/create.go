package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// createWindow is how many creates at either end are compared: a tenth of all, and at most so many.
const createWindow = 50

// CreateResult is the outcome of Create.
type CreateResult struct {
	Rows []Summary `json:"rows"` // all creates, the first of them, the last of them, and the removals
	// Ratio is the median of the last creates over that of the first.
	Ratio float64 `json:"last_to_first"`
	// BytesEach is by how much the host's disk is fuller for each sandbox: all blocks below the state directory, those of
	// directories as well.
	BytesEach int64 `json:"bytes_each"`
}

// Create makes n sandboxes, which exist beside each other and are never started, and removes them. stateDir is where the
// daemon keeps its state. What is made once for all of them (an empty disk of that size) is made before, and not counted.
func Create(ctx context.Context, c *client.Client, n int, stateDir string, req client.CreateRequest, progress func(done, of int)) (r CreateResult, err error) {
	prefix := req.Name
	if _, err := c.Create(ctx, req); err != nil {
		return r, err
	}
	if err := c.Remove(ctx, prefix, true); err != nil {
		return r, err
	}
	before, err := blocksBelow(stateDir)
	if err != nil {
		return r, err
	}
	var t Table
	made := 0
	defer func() {
		for i := range made {
			began := time.Now()
			err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), fmt.Sprintf("%s-%d", prefix, i), true))
			t.Add("remove", time.Since(began))
		}
		r.Rows = t.Summaries()
	}()
	var times []time.Duration
	for i := range n {
		req.Name = fmt.Sprintf("%s-%d", prefix, i)
		began := time.Now()
		if _, err := c.Create(ctx, req); err != nil {
			return r, err
		}
		times = append(times, time.Since(began))
		made++
		progress(made, n)
	}
	after, err := blocksBelow(stateDir)
	if err != nil {
		return r, err
	}
	r.BytesEach = (after - before) / int64(n)
	window := min(max(n/10, 1), createWindow)
	first, last := Series{Samples: times[:window]}, Series{Samples: times[n-window:]}
	t.Series = []Series{
		{Name: "create, all", Samples: times},
		{Name: fmt.Sprintf("the first %d", window), Samples: first.Samples},
		{Name: fmt.Sprintf("the last %d", window), Samples: last.Samples},
	}
	r.Ratio = float64(last.Quantile(0.5)) / float64(first.Quantile(0.5))
	return r, nil
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
