package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	// poolTimeout is how long the pool may take to be full.
	poolTimeout = 2 * time.Minute
	// poolStep is how often it is asked. No event tells of it.
	poolStep = 20 * time.Millisecond
	noPool   = "no pool is configured for the image: [pool] size and images of config.toml"
)

// awaitPool returns when the pool has all that it is to have of the image, and makes nothing; ok is false when it is not configured for
// the image. A pool on hold is waited for: it goes on when the host has memory again.
func (e *Env) awaitPool(ctx context.Context) (ok bool, err error) {
	late := time.NewTimer(poolTimeout)
	defer late.Stop()
	tick := time.NewTicker(poolStep)
	defer tick.Stop()
	for {
		p, err := e.Client.Pool(ctx)
		if err != nil {
			return false, err
		}
		ok, full := false, true
		for _, image := range p.Images {
			ok = ok || image.Image == deref(e.Request.Image)
			full = full && image.Ready >= min(p.Size, p.Max/len(p.Images))
			if image.Error != nil {
				return false, fmt.Errorf("the pool has no microVM of %s: %s", image.Image, *image.Error)
			}
		}
		if !ok || full {
			return ok, nil
		}
		select {
		case <-tick.C:
		case <-late.C:
			if p.OnHold != nil {
				return false, fmt.Errorf("the pool makes no microVMs: %s", *p.OnHold)
			}
			return false, fmt.Errorf("the pool is not full after %v", poolTimeout)
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// ofPool is e for sandboxes that the pool has: they are of the default size.
func (e *Env) ofPool() *Env {
	p := *e
	memory, vcpus := sandbox.DefaultMemoryMiB, sandbox.DefaultVCPUs
	p.Request.MemoryMib, p.Request.Vcpus, p.Request.Engine = &memory, &vcpus, nil
	return &p
}
