package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// Env is what benchmarks work with, and their options.
type Env struct {
	Client *client.Client
	// Self is the path of agentkernel's program, where a benchmark measures the command line.
	Self string
	// Request is what sandboxes are made from, whatever configuration there is: numbers shall be comparable. Its name is not used.
	Request  client.CreateRequest
	N        int     // how often
	Rivals   []Rival // what is measured beside, in turns
	Parallel int     // commands, or sandboxes, at once
	Copy     CopySpec
	Idle     time.Duration // how long an idle sandbox is watched
	Progress func(done, of int)
}

// create makes a sandbox with a name of its own, and remove removes it whatever happened meanwhile.
func (e *Env) create(ctx context.Context) (sb client.Sandbox, remove func() error, err error) {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	req := e.Request
	req.Name = "bench-" + hex.EncodeToString(b[:])
	if sb, err = e.Client.Create(ctx, req); err != nil {
		return sb, nil, err
	}
	return sb, func() error { return e.Client.Remove(context.WithoutCancel(ctx), sb.Name, true) }, nil
}

// started makes a sandbox and starts it.
func (e *Env) started(ctx context.Context, o client.StartOptions) (sb client.Sandbox, remove func() error, err error) {
	made, remove, err := e.create(ctx)
	if err != nil {
		return sb, nil, err
	}
	if sb, err = e.Client.Start(ctx, made.Name, o); err != nil {
		return sb, nil, errors.Join(err, remove())
	}
	return sb, remove, nil
}

// setup describes what was measured.
func (e *Env) setup(sb client.Sandbox) string {
	cpus := "vCPU"
	if sb.Vcpus > 1 {
		cpus = "vCPUs"
	}
	return fmt.Sprintf("image %s, %d %s, %d MiB, engine %s (%s), kernel %s", sb.Image, sb.Vcpus, cpus, sb.MemoryMib, deref(sb.Engine), deref(sb.Accelerator), deref(sb.Kernel))
}

func (e *Env) execTrue(ctx context.Context, name string) error {
	exit, err := e.Client.Exec(ctx, name, client.ExecStart{Argv: []string{"true"}}, client.ExecIO{})
	if err == nil && exit.Status() != 0 {
		err = fmt.Errorf("true ended with exit code %d", exit.Status())
	}
	return err
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
