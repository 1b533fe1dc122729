package client

import (
	"context"
	"iter"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// Stats is what a sandbox uses. Counters in it are totals: what was used in a time is the difference of two.
type Stats = apiv1.Stats

// Stats says what a sandbox uses now.
func (c *Client) Stats(ctx context.Context, name string) (s Stats, err error) {
	resp, err := c.api.GetStats(ctx, name, &apiv1.GetStatsParams{})
	return s, result(resp, err, &s)
}

// WatchStats says it again and again, until ctx ends or the sandbox is removed. The sequence is to be used once.
func (c *Client) WatchStats(ctx context.Context, name string, interval time.Duration) (iter.Seq2[Stats, error], error) {
	resp, err := c.api.GetStats(ctx, name, &apiv1.GetStatsParams{Watch: ptr(true), IntervalMs: ptr(int(interval.Milliseconds()))}) //nolint:bodyclose // the sequence closes it
	return lines[Stats](ctx, resp, err, "read statistics")
}
