package oci

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// parallel is how many layers are downloaded and unpacked at once: what docker does.
const parallel = 3

// Event tells how far a layer is.
type Event struct {
	Layer       string // short form of its digest; empty for the image as a whole
	Phase       Phase
	Have, Total int64 // bytes, while it is downloaded
}

// Phase of a layer.
type Phase string

// The phases of a layer.
const (
	Downloading Phase = "downloading"
	Unpacking   Phase = "unpacking"
	Done        Phase = "done"
	Writing     Phase = "writing" // the image as a whole
)

// Flat is an image whose layers are merged. Its tree can be read until Close.
type Flat struct {
	Root *tree.Node
	// Warnings are for the user: what of the image could not be kept.
	Warnings []string
	// Sizes of the layers, unpacked.
	Sizes []int64

	layers []*layer.Layer
}

// Close frees what is kept on the host's disk.
func (f *Flat) Close() error {
	var errs []error
	for _, l := range f.layers {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Flatten merges the layers of an image. The contents of files go to unnamed files in dir. tell, which may be nil, is called
// by one goroutine at a time.
func (i *Image) Flatten(ctx context.Context, dir string, limits layer.Limits, tell func(Event)) (_ *Flat, err error) {
	var mu sync.Mutex
	report := func(e Event) {
		if tell != nil {
			mu.Lock()
			defer mu.Unlock()
			tell(e)
		}
	}
	flat := &Flat{Root: tree.New(tree.Time{}), layers: make([]*layer.Layer, len(i.Layers)), Sizes: make([]int64, len(i.Layers))}
	defer func() {
		if err != nil {
			_ = flat.Close()
		}
	}()
	if i.Config != nil && !i.Config.Created.IsZero() {
		flat.Root.Mtime = tree.Time{Sec: i.Config.Created.Unix(), Nsec: uint32(i.Config.Created.Nanosecond())}
	}
	budget := layer.NewBudget(limits)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for k := range i.Layers {
		group.Go(func() (err error) {
			flat.layers[k], err = i.Layers[k].scan(groupCtx, dir, budget, report)
			if err != nil && groupCtx.Err() == nil {
				err = fmt.Errorf("layer %d of %d (%s): %w", k+1, len(i.Layers), i.Layers[k].short(), err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	dropped := 0
	for k, l := range flat.layers {
		if err := l.Merge(flat.Root, k); err != nil {
			return nil, fmt.Errorf("layer %d of %d (%s): %w", k+1, len(i.Layers), i.Layers[k].short(), err)
		}
		flat.Sizes[k] = l.Size
		dropped += l.Dropped
	}
	if dropped > 0 {
		flat.Warnings = append(flat.Warnings, fmt.Sprintf("%d extended attributes of the image were left out: they belong to overlayfs or to no file system", dropped))
	}
	return flat, nil
}

// Download gets the layers that take time to get, so that Flatten finds them there.
func (i *Image) Download(ctx context.Context, tell func(Event)) error {
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for k := range i.Layers {
		l := &i.Layers[k]
		group.Go(func() error {
			body, err := l.open(groupCtx, func(have int64) {
				if tell != nil {
					mu.Lock()
					defer mu.Unlock()
					tell(Event{Layer: l.short(), Phase: Downloading, Have: have, Total: l.Size})
				}
			})
			if err != nil {
				return err
			}
			return body.Close()
		})
	}
	return group.Wait()
}

// short is how a layer is called in messages.
func (l *Layer) short() string {
	id := l.Digest
	if id == "" {
		id = l.DiffID
	}
	return id[len("sha256:"):][:12]
}

// scan gets a layer and reads it.
func (l *Layer) scan(ctx context.Context, dir string, budget *layer.Budget, report func(Event)) (*layer.Layer, error) {
	for {
		body, err := l.open(ctx, func(have int64) {
			report(Event{Layer: l.short(), Phase: Downloading, Have: have, Total: l.Size})
		})
		if err != nil {
			return nil, err
		}
		report(Event{Layer: l.short(), Phase: Unpacking})
		read, err := layer.Scan(ctx, body, dir, budget, l.DiffID)
		_ = body.Close()
		var wrong *layer.DigestError
		switch {
		case err == nil:
			report(Event{Layer: l.short(), Phase: Done})
			return read, nil
		case errors.As(err, &wrong), errors.Is(err, layer.ErrDamaged):
			// A copy that was kept may have been damaged on the host's disk. What was counted against the limits stays
			// counted, which is no more than once over.
			if l.forget() {
				continue
			}
		}
		return nil, err
	}
}
