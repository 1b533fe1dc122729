package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/coder/websocket"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

const (
	execProtocol  = "exec.v1.agentkernel"
	versionHeader = "Agentkernel-Version"
	maxMessage    = 1 << 20
	stdinChunk    = 32 << 10 // the most that one message of stdin may have
)

// ExecIO connects a command to the caller. Nil writers drop what they would get.
type ExecIO struct {
	Stdin   io.Reader // nil: /dev/null. A Read of it may outlast Exec.
	Stdout  io.Writer
	Stderr  io.Writer
	Signals <-chan int // Linux signal numbers for the command's process group
	// Sizes are new sizes of the command's terminal; the first one is in ExecStart. A command with a terminal writes
	// everything to Stdout.
	Sizes <-chan TerminalSize
	// Dropped, when set, is told of bytes of output that are missing, since this reader of a command in the background was
	// too slow, or came too late.
	Dropped func(bytes int64)
}

// TerminalSize is in characters, each 1 to 65535.
type TerminalSize struct{ Rows, Cols int }

// Exit is how a command ended.
type Exit struct {
	Code     int // 0-255
	Signal   int // the signal that ended it, else 0
	TimedOut bool
	// OOMKilled says that the guest's kernel killed a process of the command for its limit on memory.
	OOMKilled bool
	// Detached says that the command runs on.
	Detached bool
	// ID of the command.
	ID string
}

// Status is what a shell would report: the code, or 128 + the signal.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + e.Signal
	}
	return e.Code
}

// ExecError says that a command did not run, or that its end is not known.
type ExecError struct {
	Cause  *Error
	Status int // what a shell would report: 127 not found, 126 not executable, 125 else
}

func (e *ExecError) Error() string { return e.Cause.Message }
func (e *ExecError) Unwrap() error { return e.Cause }

// Exec runs a command and returns when it has ended and all of its output is written. When ctx ends first, the command is
// killed, unless it is detached. start.Stdin is set from streams, which a detached command is not connected to.
func (c *Client) Exec(ctx context.Context, name string, start ExecStart, streams ExecIO) (Exit, error) {
	if deref(start.Detach) {
		streams = ExecIO{}
	} else {
		start.Stdin = ptr(streams.Stdin != nil)
	}
	first, err := json.Marshal(start)
	if err != nil {
		return Exit{}, err
	}
	return c.execSession(ctx, "/v1/sandboxes/"+url.PathEscape(name)+"/exec", first, streams)
}

// dialExec opens the WebSocket of a command. When the daemon is not the one that is expected, Renew is called first.
func (c *Client) dialExec(ctx context.Context, path string) (*websocket.Conn, error) {
	dial := func() (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(ctx, baseURL+path, &websocket.DialOptions{
			HTTPClient: c.http, Subprotocols: []string{execProtocol}, CompressionMode: websocket.CompressionDisabled,
		})
	}
	conn, resp, err := dial()
	if c.Renew != nil && ctx.Err() == nil && (resp == nil || resp.Header.Get(versionHeader) != c.Expect) {
		if conn != nil {
			_ = conn.CloseNow() // nothing has been asked for yet
		} else if resp != nil {
			_ = resp.Body.Close()
		}
		if err := c.Renew(ctx); err != nil {
			return nil, err
		}
		conn, resp, err = dial()
	}
	if err == nil {
		return conn, nil
	}
	if resp != nil && resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, failure(resp)
	}
	return nil, err
}

// execSession connects a command to the caller until its end. first is the first message, if there is one.
func (c *Client) execSession(ctx context.Context, path string, first []byte, streams ExecIO) (Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.dialExec(ctx, path)
	if err != nil {
		return Exit{}, err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxMessage)
	if first != nil {
		if err := conn.Write(ctx, websocket.MessageText, first); err != nil {
			return Exit{}, fmt.Errorf("send the command: %w", err)
		}
	}
	s := &execStream{conn: conn, io: streams, credit: make(chan struct{}, 1)}
	if streams.Stdin != nil {
		go s.sendStdin(ctx)
	}
	if streams.Signals != nil {
		go s.sendSignals(ctx)
	}
	if streams.Sizes != nil {
		go s.sendSizes(ctx)
	}
	return s.receive(ctx)
}

type execStream struct {
	conn *websocket.Conn
	io   ExecIO

	id string // belongs to receive

	mu     sync.Mutex
	avail  int           // bytes of stdin that may be sent
	credit chan struct{} // has a token when avail has grown
}

func (s *execStream) receive(ctx context.Context) (Exit, error) {
	for {
		kind, data, err := s.conn.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return Exit{}, context.Cause(ctx)
			}
			return Exit{}, fmt.Errorf("the connection to the daemon broke while the command ran: %w", err)
		}
		if kind == websocket.MessageBinary {
			if err := s.output(data); err != nil {
				return Exit{}, err
			}
			continue
		}
		var ev apiv1.ExecEvent
		if err := json.Unmarshal(data, &ev); err != nil {
			return Exit{}, fmt.Errorf("decode an event of the command: %w", err)
		}
		switch ev.Type {
		case apiv1.ExecEventTypeStarted:
			s.id = deref(ev.Id)
		case apiv1.ExecEventTypeCredit:
			s.grant(int(deref(ev.Bytes)))
		case apiv1.ExecEventTypeDropped:
			if s.io.Dropped != nil {
				s.io.Dropped(deref(ev.Bytes))
			}
		case apiv1.ExecEventTypeDetached:
			return Exit{ID: s.id, Detached: true}, nil
		case apiv1.ExecEventTypeExit:
			return Exit{Code: deref(ev.Code), Signal: deref(ev.Signal), TimedOut: deref(ev.TimedOut), OOMKilled: deref(ev.OomKilled), ID: s.id}, nil
		case apiv1.ExecEventTypeError:
			e := &ExecError{Cause: &Error{Code: apiv1.ErrorCodeInternal, Message: "the daemon gave no reason"}, Status: 125}
			if ev.Error != nil {
				e.Cause = asError(*ev.Error)
			}
			if ev.ExitCode != nil {
				e.Status = *ev.ExitCode
			}
			return Exit{}, e
		}
	}
}

// OutputError is the error of a writer that was given to Exec.
type OutputError struct{ Err error }

func (e *OutputError) Error() string { return "write the output of the command: " + e.Err.Error() }
func (e *OutputError) Unwrap() error { return e.Err }

func (s *execStream) output(data []byte) error {
	if len(data) == 0 {
		return errors.New("the daemon sent an empty message")
	}
	w := s.io.Stdout
	if data[0] == 2 {
		w = s.io.Stderr
	}
	if w == nil {
		return nil
	}
	if _, err := w.Write(data[1:]); err != nil {
		return &OutputError{err}
	}
	return nil
}

func (s *execStream) grant(n int) {
	s.mu.Lock()
	s.avail += n
	s.mu.Unlock()
	select {
	case s.credit <- struct{}{}:
	default:
	}
}

// take waits until stdin may be sent, and returns how many of at most n bytes.
func (s *execStream) take(ctx context.Context, n int) (int, error) {
	for {
		s.mu.Lock()
		got := min(n, s.avail)
		s.avail -= got
		s.mu.Unlock()
		if got > 0 {
			return got, nil
		}
		select {
		case <-s.credit:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// sendStdin copies stdin to the command until its end. An error of the connection is seen by receive as well.
func (s *execStream) sendStdin(ctx context.Context) {
	buf := make([]byte, stdinChunk)
	for {
		n, err := s.io.Stdin.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			k, err := s.take(ctx, len(rest))
			if err != nil || s.conn.Write(ctx, websocket.MessageBinary, rest[:k]) != nil {
				return
			}
			rest = rest[k:]
		}
		if err != nil {
			// A reader that has ended ctx leaves a command in the background alone. A write might still get through then.
			if ctx.Err() == nil {
				s.control(ctx, apiv1.ExecControl{Type: apiv1.StdinClose})
			}
			return
		}
	}
}

func (s *execStream) sendSignals(ctx context.Context) {
	for {
		select {
		case sig, ok := <-s.io.Signals:
			if !ok {
				return
			}
			s.control(ctx, apiv1.ExecControl{Type: apiv1.Signal, Signal: &sig})
		case <-ctx.Done():
			return
		}
	}
}

func (s *execStream) sendSizes(ctx context.Context) {
	for {
		select {
		case size, ok := <-s.io.Sizes:
			if !ok {
				return
			}
			s.control(ctx, apiv1.ExecControl{Type: apiv1.Resize, Rows: &size.Rows, Cols: &size.Cols})
		case <-ctx.Done():
			return
		}
	}
}

func (s *execStream) control(ctx context.Context, c apiv1.ExecControl) {
	if data, err := json.Marshal(c); err == nil {
		_ = s.conn.Write(ctx, websocket.MessageText, data)
	}
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
