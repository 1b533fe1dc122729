package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// Event is something that happened to a sandbox.
type Event = apiv1.Event

// EventOptions say which events are wanted. The zero value is: all that happen from now on.
type EventOptions struct {
	Sandboxes []string  // names or ids; none: all
	Types     []string  // such as exec.end; none: all
	SinceSeq  int64     // first those that are remembered after this one
	Since     time.Time // first those that are remembered from this time on; not together with SinceSeq
	Until     time.Time // end then; zero: never
}

// Events begins a stream of events. When it returns, all that happens from then on is in the stream. The sequence ends with
// the stream's end, or with an error, which is that of ctx when that has ended. It is to be used once; a stream that is not
// read lasts until ctx ends.
func (c *Client) Events(ctx context.Context, o EventOptions) (iter.Seq2[Event, error], error) {
	params := &apiv1.GetEventsParams{}
	switch {
	case o.SinceSeq != 0:
		params.Since = ptr(strconv.FormatInt(o.SinceSeq, 10))
	case !o.Since.IsZero():
		params.Since = ptr(o.Since.UTC().Format(time.RFC3339Nano))
	}
	if !o.Until.IsZero() {
		params.Until = ptr(o.Until.UTC())
	}
	if o.Sandboxes != nil {
		params.Sandbox = &o.Sandboxes
	}
	if o.Types != nil {
		params.Type = &o.Types
	}
	resp, err := c.api.GetEvents(ctx, params) //nolint:bodyclose // the sequence closes it
	return lines[Event](ctx, resp, err, "read events")
}

// lines reads a response of one JSON value a line.
func lines[T any](ctx context.Context, resp *http.Response, err error, what string) (iter.Seq2[T, error], error) {
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return func(yield func(T, error) bool) {
		defer resp.Body.Close()
		dec := json.NewDecoder(resp.Body)
		for {
			var v T
			err := dec.Decode(&v)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				yield(v, fmt.Errorf("%s: %w", what, err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}, nil
}
