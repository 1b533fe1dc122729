package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`

// fakeServer plays QEMU's side: it is given the connection after the negotiation.
func fakeServer(t *testing.T, serve func(conn net.Conn, commands *bufio.Scanner)) *qmp {
	t.Helper()
	ours, theirs := net.Pipe()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer theirs.Close()
		commands := bufio.NewScanner(theirs)
		fmt.Fprintf(theirs, "%s\r\n", greeting)
		if commands.Scan() && strings.Contains(commands.Text(), `"qmp_capabilities"`) {
			fmt.Fprintf(theirs, `{"return": {}, "id": 0}`+"\r\n")
			serve(theirs, commands)
		}
	}()
	q := newQMP(ours, func(string, json.RawMessage) {})
	t.Cleanup(func() {
		q.close()
		<-finished
	})
	return q
}

func idOf(t *testing.T, command string) uint64 {
	var c struct{ ID uint64 }
	if err := json.Unmarshal([]byte(command), &c); err != nil {
		t.Errorf("a command is not JSON: %v", err)
	}
	return c.ID
}

func TestQMPExecute(t *testing.T) {
	q := fakeServer(t, func(conn net.Conn, commands *bufio.Scanner) {
		for commands.Scan() {
			id := idOf(t, commands.Text())
			// An event and an answer that nobody waits for may come in between.
			fmt.Fprintf(conn, `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`+"\r\n"+`{"return": {}, "id": 99}`+"\r\n")
			if strings.Contains(commands.Text(), `"query-status"`) {
				fmt.Fprintf(conn, `{"return": {"status": "running", "running": true}, "id": %d}`+"\r\n", id)
			} else {
				fmt.Fprintf(conn, `{"error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}, "id": %d}`+"\r\n", id)
			}
		}
	})
	var status struct{ Status string }
	if err := q.execute(t.Context(), "query-status", &status); err != nil || status.Status != "running" {
		t.Errorf("%+v, %v", status, err)
	}
	var qerr *qmpError
	if err := q.execute(t.Context(), "nonsense", nil); !errors.As(err, &qerr) || qerr.Class != "CommandNotFound" {
		t.Errorf("%v, want QEMU's error", err)
	}
}

// Answers find their commands by id, whatever the order.
func TestQMPOutOfOrder(t *testing.T) {
	q := fakeServer(t, func(conn net.Conn, commands *bufio.Scanner) {
		for {
			var ids []uint64
			for range 2 {
				if !commands.Scan() {
					return
				}
				ids = append(ids, idOf(t, commands.Text()))
			}
			for _, id := range []uint64{ids[1], ids[0]} {
				fmt.Fprintf(conn, `{"return": {"n": %d}, "id": %d}`+"\r\n", id, id)
			}
		}
	})
	results := make(chan error, 2)
	seen := make(chan uint64, 2)
	for range 2 {
		go func() {
			var r struct{ N uint64 }
			results <- q.execute(t.Context(), "query-version", &r)
			seen <- r.N
		}()
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if a, b := <-seen, <-seen; a+b != 3 {
		t.Errorf("the answers are %d and %d, want 1 and 2", a, b)
	}
}

func TestQMPEnds(t *testing.T) {
	t.Run("QEMU dies with a command open", func(t *testing.T) {
		q := fakeServer(t, func(_ net.Conn, commands *bufio.Scanner) { commands.Scan() })
		if err := q.execute(t.Context(), "stop", nil); err == nil {
			t.Error("no error")
		}
	})
	t.Run("QEMU does not answer", func(t *testing.T) {
		q := fakeServer(t, func(_ net.Conn, commands *bufio.Scanner) {
			for commands.Scan() {
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error)
		go func() { errs <- q.execute(ctx, "stop", nil) }()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that it was cancelled", err)
		}
	})
	t.Run("QEMU does not read", func(t *testing.T) {
		q := fakeServer(t, func(conn net.Conn, _ *bufio.Scanner) { <-t.Context().Done() })
		<-q.ready
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error)
		go func() { errs <- q.execute(ctx, "stop", nil) }()
		cancel()
		if err := <-errs; err == nil {
			t.Error("no error")
		}
	})
}

// What breaks the protocol ends the connection with an error that says so.
func TestQMPRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ said, want string }{
		"not JSON":             {"hello\n", "decode"},
		"no kind":              {"{}\n", "not a greeting"},
		"two kinds":            {`{"return": {}, "event": "X", "id": 1}` + "\n", "not a greeting"},
		"answer before all":    {`{"return": {}, "id": 0}` + "\n", "negotiate"},
		"answer to nothing":    {`{"return": {}}` + "\n", "answer to nothing"},
		"endless line":         {strings.Repeat("x", maxQMPLine+1), "longer than"},
		"error to negotiation": {`{"error": {"class": "GenericError", "desc": "no"}, "id": 0}` + "\n", "QEMU refused"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			finished := make(chan struct{})
			go func() {
				defer close(finished)
				_, _ = theirs.Write([]byte(tc.said))
				theirs.Close()
			}()
			q := newQMP(ours, func(string, json.RawMessage) {})
			<-q.done
			<-finished
			if !strings.Contains(q.err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", q.err, tc.want)
			}
			if err := q.execute(t.Context(), "stop", nil); err == nil {
				t.Error("a command succeeds on a broken connection")
			}
		})
	}
}

func FuzzQMP(f *testing.F) {
	f.Add([]byte(greeting + "\r\n" + `{"return": {}, "id": 0}` + "\r\n" + `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\r\n"))
	f.Add([]byte(`{"error": {"class": "a", "desc": "b"}, "id": 18446744073709551615}` + "\n"))
	f.Add([]byte(greeting + "\n" + greeting + "\n"))
	f.Add([]byte("[\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		m := &machine{}
		ours, theirs := net.Pipe()
		go func() { // takes what the client sends
			buf := make([]byte, 256)
			for {
				if _, err := theirs.Read(buf); err != nil {
					return
				}
			}
		}()
		q := newQMP(ours, m.onEvent)
		_, _ = theirs.Write(said)
		theirs.Close()
		<-q.done
		if len(m.shutReason) > vmmlog.MaxShown {
			t.Errorf("a reason of %d bytes is kept", len(m.shutReason))
		}
	})
}
