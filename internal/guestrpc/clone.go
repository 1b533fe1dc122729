package guestrpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// CloneCapability is what a guest agent names that answers Prepare and Resume.
const CloneCapability = "clone"

// Awaits is what a guest waits for Resume to do.
type Awaits int

// What a guest may wait for.
const (
	AwaitsNothing Awaits = iota
	AwaitsThaw           // its commands are frozen
	AwaitsDisks          // it is a template
)

// entropySize is what a guest gets of the host's entropy, in bytes.
const entropySize = 64

// Prepare has the guest freeze all commands, within timeout, and with sync write what it has in memory to its disks. Whatever the error, they run again then, unless the guest is
// hostile; but when the connection broke, it is not known whether they do, and Resume is to be called.
func (c *Client) Prepare(ctx context.Context, timeout time.Duration, sync bool) error {
	ms := uint32(min(max(timeout.Milliseconds(), 1), math.MaxUint32))
	return c.call(ctx, "freeze the commands", func(ctx context.Context) error {
		_, err := c.clone.Prepare(ctx, &guestv1.PrepareRequest{TimeoutMs: ms, Sync: sync})
		return err
	})
}

// ResumeKind says what a guest is that goes on.
type ResumeKind int

// The kinds.
const (
	ResumeOriginal ResumeKind = iota + 1 // the same sandbox: it keeps its names
	ResumeCopy                           // another sandbox than the one whose state was saved
	ResumeTemplate                       // the microVM was a template
)

// ResumeSpec is what a guest is told that goes on.
type ResumeSpec struct {
	Kind     ResumeKind
	Identity Identity            // not for the original
	Disks    []sandbox.GuestDisk // of what was a template: all but the image
}

// Resume has the guest become what spec says and let its commands run, and returns what the guest said of how it is now, with its
// clock as this host measures it. It has gone on also when an item has failed.
func (c *Client) Resume(ctx context.Context, spec ResumeSpec) ([]sandbox.HygieneItem, error) {
	items, off, offErr, err := c.resume(ctx, spec)
	if err != nil {
		return nil, err
	}
	if off, offErr, err = c.tune(ctx, off, offErr); err != nil {
		return nil, err
	}
	return judge(items, off, offErr), nil
}

// clockTries is how often a clock that is too far off is set once more.
const clockTries = 6

// tune sets the guest's clock once more when it may be too far off: a request can wait for long, as does a Hello to a guest that
// boots, and the time in it is old by then.
func (c *Client) tune(ctx context.Context, off clockError, offErr error) (clockError, error, error) {
	for try := 0; try < clockTries && offErr == nil && off.most() > MaxClockError; try++ {
		_, next, nextErr, err := c.resume(ctx, ResumeSpec{Kind: ResumeOriginal})
		if err != nil {
			return off, nil, err
		}
		off, offErr = next, nextErr
	}
	return off, offErr, nil
}

// resume makes one call; offErr says why the clock could not be measured.
func (c *Client) resume(ctx context.Context, spec ResumeSpec) (items []sandbox.HygieneItem, off clockError, offErr, err error) {
	req := &guestv1.ResumeRequest{Hostname: spec.Identity.Hostname, MachineId: spec.Identity.MachineID, Entropy: make([]byte, entropySize)}
	switch spec.Kind {
	case ResumeOriginal:
		req.Kind = guestv1.ResumeRequest_ORIGINAL
	case ResumeCopy:
		req.Kind = guestv1.ResumeRequest_COPY
	case ResumeTemplate:
		req.Kind = guestv1.ResumeRequest_TEMPLATE
	}
	for _, d := range spec.Disks {
		req.Disks = append(req.Disks, &guestv1.ResumeDisk{Disk: d.Describe(d.Device), Bytes: uint64(max(d.SizeBytes, 0)), Rebind: d.Rebind})
	}
	_, _ = rand.Read(req.Entropy) // never fails: crypto/rand
	var resp *guestv1.ResumeResponse
	var sent, received time.Time
	err = c.call(ctx, "have the guest go on", func(ctx context.Context) (err error) {
		sent = time.Now() // not while another call is under way
		req.UnixNano = sent.UnixNano()
		resp, err = c.clone.Resume(ctx, req)
		received = time.Now()
		return err
	})
	if err == nil {
		items, err = checkItems(resp.GetItems())
	}
	if err != nil {
		return nil, off, nil, fmt.Errorf("resume: %w", err)
	}
	off, offErr = measureClock(resp.GetClock(), sent, received)
	return items, off, offErr, nil
}

// checkAwaits checks what a guest says that it waits for.
func checkAwaits(r *guestv1.HelloResponse) (Awaits, error) {
	switch r.GetAwaits() {
	case guestv1.HelloResponse_NOTHING:
		return AwaitsNothing, nil
	case guestv1.HelloResponse_THAW:
		return AwaitsThaw, nil
	case guestv1.HelloResponse_DISKS:
		return AwaitsDisks, nil
	}
	return 0, errors.New("the guest agent waits for something that there is not")
}
