package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

func TestEvents(t *testing.T) {
	server := newServer(t, nil)
	for path, says := range map[string]string{
		"since=yesterday": "since", "since=-1": "since", "until=soon": "until", "type=nothing": "nothing", "type=lost": "lost",
	} {
		status, raw, _ := call(t, server, "GET", "/v1/events?"+path, "")
		if status != http.StatusBadRequest || !strings.Contains(string(raw), says) {
			t.Errorf("%s: %d %s", path, status, raw)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get := func(query string) *bufio.Scanner {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/events?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatal(resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return bufio.NewScanner(resp.Body)
	}
	next := func(s *bufio.Scanner) (ev apiv1.Event) {
		t.Helper()
		if !s.Scan() {
			t.Fatal("the stream ended", s.Err())
		}
		if err := json.Unmarshal(s.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	live := get("sandbox=b&sandbox=c&type=sandbox.removed") // nothing is in it yet: its header came all the same
	call(t, server, "POST", "/v1/sandboxes", `{"name":"a"}`)
	call(t, server, "POST", "/v1/sandboxes", `{"name":"b"}`)
	call(t, server, "DELETE", "/v1/sandboxes/a", "")
	call(t, server, "DELETE", "/v1/sandboxes/b", "")
	gone := next(live)
	if gone.Type != apiv1.EventTypeSandboxRemoved || *gone.Sandbox != "b" {
		t.Errorf("%+v", gone)
	}
	// What is remembered, up to now: the stream ends by itself.
	var seqs []int64
	for s := get("since=0&until=" + time.Now().UTC().Format(time.RFC3339Nano)); s.Scan(); {
		var ev apiv1.Event
		if err := json.Unmarshal(s.Bytes(), &ev); err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, ev.Seq)
	}
	if len(seqs) != 6 || seqs[5] != gone.Seq || seqs[0] != gone.Seq-5 { // created, created, removing, removed, removing, removed
		t.Errorf("%v, and the last is %d", seqs, gone.Seq)
	}
	if ev := next(get("since=" + strconv.FormatInt(seqs[4]-1, 10))); ev.Seq != seqs[4] {
		t.Errorf("after %d comes %d", seqs[4]-1, ev.Seq)
	}
	if ev := next(get("since=5")); ev.Type != apiv1.EventTypeLost || ev.Count != nil {
		t.Errorf("events of another daemon: %+v", ev)
	}
}
