package vm

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// follow begins a stream of events and returns a function that waits for the next one that is wanted.
func (h *home) follow(o client.EventOptions) (next func(want func(client.Event) bool) client.Event) {
	h.t.Helper()
	h.ok("list") // there is a daemon
	c := client.New(filepath.Join(h.dir, "run", "daemon.sock"))
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	events, err := c.Events(ctx, o)
	if err != nil {
		h.t.Fatal(err)
	}
	found := make(chan client.Event)
	go func() {
		defer close(found)
		for ev, err := range events {
			if err != nil {
				return
			}
			select {
			case found <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	h.t.Cleanup(func() {
		cancel()
		for range found {
		}
		c.Close()
	})
	return func(want func(client.Event) bool) client.Event {
		h.t.Helper()
		for ev := range found {
			if want(ev) {
				return ev
			}
		}
		h.t.Fatal("the events ended without the one that is waited for")
		return client.Event{}
	}
}

func ofType(types ...string) func(client.Event) bool {
	return func(ev client.Event) bool { return slices.Contains(types, string(ev.Type)) }
}

func TestEvents(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.run("exec", "a", "sh", "-c", "exit 7")
	h.fails(127, nil, "exec", "a", "no-such-command")
	h.run("exec", "a", "sh", "-c", "kill -9 $$")
	h.ok("stop", "a")
	h.ok("rm", "a")
	var got []string
	for line := range strings.Lines(h.ok("events", "--json", "--since", "0", "--until", "now", "--sandbox", "a")) {
		var ev client.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatal(err)
		}
		word := string(ev.Type)
		switch {
		case ev.To != nil:
			word = *ev.To
		case ev.ExitCode != nil:
			word += " " + string(rune('0'+*ev.ExitCode))
		case ev.Signal != nil:
			word += " by signal"
		case word == "exec.end":
			word += " " + *ev.Reason
		}
		if word != "vmm.end" { // stands beside stopped
			got = append(got, word)
		} else if ev.Reason == nil || !strings.Contains(*ev.Reason, "VMM ended") {
			t.Errorf("%+v", ev)
		}
	}
	want := []string{"created", "starting", "running", "exec.start", "exec.end 7", "exec.end there is no command no-such-command in the guest",
		"exec.start", "exec.end by signal", "stopping", "stopped", "removing", "sandbox.removed"}
	if len(got) == len(want) && strings.Contains(got[5], "no-such-command") {
		got[5] = want[5]
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestIdleTimeout(t *testing.T) {
	h := newHome(t)
	h.create("a", "--idle-timeout", "2s")
	h.fails(125, []string{"idle timeout", "1 s"}, "create", "b", "--idle-timeout", "10ms")
	next := h.follow(client.EventOptions{Sandboxes: []string{"a"}})
	h.ok("start", "a")
	// A command that lasts longer keeps it awake; the count begins with its end.
	h.ok("exec", "a", "sleep", "4")
	ended := next(ofType("exec.end", "sandbox.idle"))
	if ended.Type != "exec.end" {
		t.Fatalf("stopped under a command: %+v", ended)
	}
	idle := next(ofType("sandbox.idle"))
	if idle.Time.Sub(ended.Time).Seconds() < 1.9 {
		t.Errorf("idle %v after the end of the command", idle.Time.Sub(ended.Time))
	}
	next(func(ev client.Event) bool { return ev.To != nil && *ev.To == "stopped" })
	if sb := h.inspect("a"); sb.Reason == nil || !strings.Contains(*sb.Reason, "nothing happened") || *sb.IdleTimeoutMs != 2000 {
		t.Errorf("%+v", sb)
	}
	h.fails(125, []string{"is stopped"}, "exec", "a", "true")
}
