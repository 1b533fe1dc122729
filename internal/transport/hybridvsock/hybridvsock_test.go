package hybridvsock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vmm answers a request with text and then hangs up. What it was asked is sent to asked.
func vmm(t *testing.T, text string) (conn net.Conn, asked chan string) {
	t.Helper()
	ours, theirs := net.Pipe()
	asked = make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		line, err := bufio.NewReader(theirs).ReadString('\n')
		if err != nil {
			return
		}
		asked <- line
		_, _ = io.WriteString(theirs, text)
	}()
	t.Cleanup(func() { ours.Close(); <-done })
	return ours, asked
}

func TestConnect(t *testing.T) {
	for _, tc := range []struct {
		name, answer, want string // want is part of the error
		refused            bool
	}{
		{name: "accepted", answer: "OK 1073741824\nhello"},
		{name: "the longest answer", answer: "OK 4294967295\nhello"},
		{name: "hung up", answer: "", refused: true},
		{name: "hung up in the middle", answer: "OK 10", refused: true},
		{name: "no number", answer: "OK \nhello", want: "answered"},
		{name: "not a number", answer: "OK x\nhello", want: "answered"},
		{name: "a number that is no port", answer: "OK 4294967296\n", want: "answered"},
		{name: "something else", answer: "NO 1\nhello", want: "answered"},
		{name: "an empty line", answer: "\n", want: "answered"},
		{name: "no end", answer: "OK " + strings.Repeat("1", 100), want: "and more"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, asked := vmm(t, tc.answer)
			err := Connect(t.Context(), conn, 1024)
			if got := <-asked; got != "CONNECT 1024\n" {
				t.Errorf("it was asked %q", got)
			}
			if tc.refused || tc.want != "" {
				if err == nil || errors.Is(err, ErrRefused) != tc.refused || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v, want an error with %q, refused: %v", err, tc.want, tc.refused)
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("the connection is not closed: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			// Nothing of what the guest said was swallowed.
			if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
				t.Errorf("the guest said %q, %v", got, err)
			}
		})
	}
}

func TestConnectIsCancelled(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the microVM has ended")
	errs := make(chan error)
	go func() { errs <- Connect(ctx, ours, 1) }()
	if _, err := bufio.NewReader(theirs).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel(why)
	if err := <-errs; !errors.Is(err, why) {
		t.Errorf("%v, want why its context ended", err)
	}
}

func TestHostPath(t *testing.T) {
	if got := HostPath("/run/x/v.sock", 1025); got != "/run/x/v.sock_1025" {
		t.Error(got)
	}
}

// Whatever comes, at most one line of an answer is read, and an answer is taken for one only when it is.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"OK 1\n", "OK 4294967295\nabc", "OK", "", "OK -1\n", "OK +1\n", "\n\n\n", "OK 00000000001\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		r := bytes.NewReader(said)
		line, err := readLine(r)
		read := len(said) - r.Len()
		if read > maxAnswer {
			t.Fatalf("%d bytes were read", read)
		}
		if err == nil && (line+"\n" != string(said[:read]) || strings.Contains(line, "\n")) {
			t.Fatalf("%q was read as %q", said[:read], line)
		}
		if err != nil && bytes.IndexByte(said[:min(len(said), maxAnswer)], '\n') >= 0 {
			t.Fatalf("%q has a line: %v", said, err)
		}
	})
}
