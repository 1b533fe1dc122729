// Package stress boots many sandboxes, has each compute an answer that is checked, shuts them down, and then looks for what
// they left on the host. It uses the daemon as any other client does.
package stress

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/bench/census"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// API is the part of the daemon's that is used; *client.Client has it.
type API interface {
	Version(ctx context.Context) (client.Version, error)
	List(ctx context.Context) (client.SandboxList, error)
	Create(ctx context.Context, req client.CreateRequest) (client.Sandbox, error)
	Start(ctx context.Context, name string, o client.StartOptions) (client.Sandbox, error)
	Exec(ctx context.Context, name string, start client.ExecStart, streams client.ExecIO) (client.Exit, error)
	Stop(ctx context.Context, name string, grace time.Duration) (client.Sandbox, error)
	Remove(ctx context.Context, name string, force bool) error
	Pool(ctx context.Context) (client.Pool, error)
	Close()
}

// Options of a run.
type Options struct {
	Count, Parallel int
	// Request is what each sandbox is made from; its name is not used.
	Request client.CreateRequest
	Start   client.StartOptions
	// Sandboxes and Runtime are the directories where the daemon keeps the files and the sockets of sandboxes.
	Sandboxes, Runtime string
	// Progress is told how many sandboxes are done.
	Progress func(done, of int)
}

// runner is a run under way.
type runner struct {
	api  API
	o    Options
	seed string

	mu      sync.Mutex
	report  Report
	table   bench.Table
	ids     []string // of the sandboxes that were made
	vmms    []census.Identity
	sizes   []uint64 // of VMMs
	done    int
	daemon  int // pid
	running map[string]bool
}

// Run makes, boots, uses, shuts down and removes sandboxes, so many at once, and says how it went. One sandbox goes before them
// that is not counted: it makes what is made once, so that what there is before and after can be compared, and an error
// of it ends the run. When ctx ends, sandboxes that were begun are removed, and the report is of those that were done.
func Run(ctx context.Context, api API, o Options) (Report, error) {
	r := &runner{api: api, o: o, seed: newSeed(), running: map[string]bool{}}
	r.report = Report{Seed: r.seed, Count: o.Count, Parallel: o.Parallel, Cold: o.Start.Cold, From: map[string]int{}}
	before, err := r.look(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := r.first(ctx); err != nil {
		return Report{}, err
	}
	r.measureDaemon()
	stopSampling := r.sample()
	began := time.Now()
	r.all(ctx)
	r.report.WallSeconds = time.Since(began).Seconds()
	stopSampling()
	r.report.Interrupted = ctx.Err() != nil && r.done < o.Count
	r.report.Steps = r.table.Summaries()
	r.report.Memory.vmms(r.sizes)
	if err := r.compare(context.WithoutCancel(ctx), before); err != nil {
		return r.report, err
	}
	return r.report, nil
}

// first boots the sandbox that is not counted.
func (r *runner) first(ctx context.Context) error {
	f := r.one(ctx, "first")
	sb := f.sandbox
	if f.err != nil {
		return fmt.Errorf("the first sandbox, before the others: %s: %w", f.step, f.err)
	}
	r.report.Image, r.report.MemoryMiB = sb.Image, sb.MemoryMib
	r.report.Engine, r.report.Accelerator, r.report.Kernel = deref(sb.Engine), deref(sb.Accelerator), deref(sb.Kernel)
	r.table, r.sizes, r.report.From = bench.Table{}, nil, map[string]int{}
	return nil
}

// all hands the sandboxes to as many workers as there are to be at once.
func (r *runner) all(ctx context.Context) {
	jobs := make(chan int)
	var workers sync.WaitGroup
	for range min(r.o.Parallel, r.o.Count) {
		workers.Go(func() {
			for i := range jobs {
				r.record(ctx, r.one(ctx, fmt.Sprint(i)))
			}
		})
	}
feed:
	for i := range r.o.Count {
		select {
		case jobs <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(jobs)
	workers.Wait()
}

// record counts an outcome. What an interruption cut short is none.
func (r *runner) record(ctx context.Context, f outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.err != nil && ctx.Err() != nil && f.step != stepRemove {
		return
	}
	r.done++
	r.o.Progress(r.done, r.o.Count)
	if f.err == nil {
		r.report.Passed++
		return
	}
	r.report.Failed++
	var wrong *wrongAnswer
	if errors.As(f.err, &wrong) {
		r.report.WrongAnswers++
	}
	if len(r.report.Failures) < maxFailures {
		r.report.Failures = append(r.report.Failures, Failure{Sandbox: f.name, Step: f.step, Error: f.err.Error()})
	}
}

func newSeed() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
