package client

import (
	"context"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// The types of snapshots, described in api/openapi.yaml.
type (
	// Snapshot is a sandbox as it was at one point in time.
	Snapshot = apiv1.Snapshot
	// SnapshotList is all snapshots, and what of them could not be read.
	SnapshotList = apiv1.SnapshotList
)

// Suspend puts the memory of a sandbox on disk and ends its VMM.
func (c *Client) Suspend(ctx context.Context, name string) (s Sandbox, err error) {
	resp, err := c.api.SuspendSandbox(ctx, name)
	return s, result(resp, err, &s)
}

// Resume has a suspended sandbox go on. timeout is for the guest agent to answer; 0: the daemon's default, 2 minutes.
func (c *Client) Resume(ctx context.Context, name string, timeout time.Duration) (s Sandbox, err error) {
	params := &apiv1.ResumeSandboxParams{}
	if timeout != 0 {
		params.TimeoutMs = ptr(int(timeout.Milliseconds()))
	}
	resp, err := c.api.ResumeSandbox(ctx, name, params)
	return s, result(resp, err, &s)
}

// ForkOptions of a fork.
type ForkOptions struct {
	Count   int           // 0: one
	Name    string        // of the copy, or what their names begin with; empty: the original's
	Timeout time.Duration // for the guest agent of each to answer; 0: the daemon's default, 2 minutes
}

// Fork makes running copies of a running sandbox and returns them.
func (c *Client) Fork(ctx context.Context, name string, o ForkOptions) ([]Sandbox, error) {
	var req apiv1.ForkRequest
	if o.Count != 0 {
		req.Count = &o.Count
	}
	if o.Name != "" {
		req.Name = &o.Name
	}
	if o.Timeout != 0 {
		req.TimeoutMs = ptr(int(o.Timeout.Milliseconds()))
	}
	resp, err := c.api.ForkSandbox(ctx, name, req)
	var list SandboxList
	err = result(resp, err, &list)
	return list.Sandboxes, err
}

// CreateSnapshot saves the memory and disks of a running or paused sandbox, which goes on. tag may be empty.
func (c *Client) CreateSnapshot(ctx context.Context, name, tag string) (s Snapshot, err error) {
	var req apiv1.CreateSnapshotRequest
	if tag != "" {
		req.Tag = &tag
	}
	resp, err := c.api.CreateSnapshot(ctx, name, req)
	return s, result(resp, err, &s)
}

// Snapshots returns all snapshots, by sandbox, the newest first.
func (c *Client) Snapshots(ctx context.Context) (l SnapshotList, err error) {
	resp, err := c.api.ListSnapshots(ctx)
	return l, result(resp, err, &l)
}

// Snapshot returns one, by sandbox:tag or id.
func (c *Client) Snapshot(ctx context.Context, ref string) (s Snapshot, err error) {
	resp, err := c.api.GetSnapshot(ctx, ref)
	return s, result(resp, err, &s)
}

// RemoveSnapshot deletes one, by sandbox:tag or id. Sandboxes that were started from it go on.
func (c *Client) RemoveSnapshot(ctx context.Context, ref string) error {
	resp, err := c.api.RemoveSnapshot(ctx, ref)
	return result(resp, err, nil)
}
