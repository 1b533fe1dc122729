package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// errUntil ends a stream whose time has come.
var errUntil = errors.New("the time has come")

// GetEvents streams events, one a line.
func (h *handler) GetEvents(w http.ResponseWriter, r *http.Request, params apiv1.GetEventsParams) {
	from, err := eventStart(or(params.Since, ""))
	if err == nil {
		err = checkTypes(deref(params.Type))
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	ctx := r.Context()
	until := deref(params.Until)
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, until, errUntil)
		defer cancel()
	}
	reader := h.Manager.Events().Reader(from, eventFilter(deref(params.Sandbox), deref(params.Type)))
	defer reader.Close()
	s := newLineStream(w)
	if err := s.flush(); err != nil {
		return
	}
	for {
		ev, ok := reader.TryNext()
		if !ok {
			// Nothing waits: what has been written goes out.
			if s.flush() != nil || !until.IsZero() && !time.Now().Before(until) {
				return
			}
			if ev, err = reader.Next(ctx); err != nil {
				return
			}
		}
		if !until.IsZero() && ev.Type != events.Lost && ev.Time.After(until) {
			_ = s.flush()
			return
		}
		if err := s.send(eventView(ev)); err != nil {
			h.Log.Debug("send events", "err", err)
			return
		}
	}
}

// eventStart reads the parameter since.
func eventStart(since string) (events.Start, error) {
	if since == "" {
		return events.Start{}, nil
	}
	if n, err := strconv.ParseUint(since, 10, 64); err == nil {
		if n == 0 {
			return events.Start{Time: time.Unix(0, 0)}, nil
		}
		return events.Start{Seq: n}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, since)
	if err != nil || t.IsZero() {
		return events.Start{}, sandbox.Errorf(sandbox.Invalid, "give the number of an event, or a time such as 2006-01-02T15:04:05Z", "since %q is neither a number nor a time", since)
	}
	return events.Start{Time: t}, nil
}

func checkTypes(types []string) error {
	for _, t := range types {
		if !slices.Contains(events.Types(), events.Type(t)) {
			var known []string
			for _, k := range events.Types() {
				known = append(known, string(k))
			}
			return sandbox.Errorf(sandbox.Invalid, "use "+strings.Join(known, ", "), "there are no events of type %q", t)
		}
	}
	return nil
}

func eventFilter(sandboxes, types []string) events.Filter {
	if len(sandboxes) == 0 && len(types) == 0 {
		return nil
	}
	return func(ev *events.Event) bool {
		return (len(sandboxes) == 0 || slices.Contains(sandboxes, ev.Sandbox) || slices.Contains(sandboxes, ev.SandboxID)) &&
			(len(types) == 0 || slices.Contains(types, string(ev.Type)))
	}
}

func eventView(ev events.Event) apiv1.Event {
	v := apiv1.Event{
		Seq: int64(ev.Seq), Time: ev.Time, Type: apiv1.EventType(ev.Type), Sandbox: optional(ev.Sandbox), SandboxId: optional(ev.SandboxID),
		From: optional(ev.From), To: optional(ev.To), Reason: optional(ev.Reason), ExecId: optional(ev.ExecID), Argv: optional(ev.Argv),
		ExitCode: ev.ExitCode, Process: optional(ev.Process), Snapshot: optional(ev.Snapshot), Tag: optional(ev.Tag),
	}
	if ev.Signal != 0 {
		v.Signal = &ev.Signal
	}
	if ev.TimedOut {
		v.TimedOut = &ev.TimedOut
	}
	if ev.Type == events.ExecEnd || ev.Type == events.Snapshot {
		v.DurationMs = ptr(float64(ev.Duration.Microseconds()) / 1000)
	}
	if ev.PID != 0 {
		v.Pid = &ev.PID
	}
	if ev.Count != 0 {
		v.Count = ptr(int64(ev.Count))
	}
	return v
}

// lineStream is a response of JSON values, one a line.
type lineStream struct {
	enc     *json.Encoder
	control *http.ResponseController
}

func newLineStream(w http.ResponseWriter) *lineStream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	return &lineStream{json.NewEncoder(w), http.NewResponseController(w)}
}

func (s *lineStream) send(v any) error { return s.enc.Encode(v) }
func (s *lineStream) flush() error     { return s.control.Flush() }
