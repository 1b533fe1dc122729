package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// ExecProtocol is the WebSocket subprotocol of exec.
const ExecProtocol = "exec.v1.agentkernel"

// The first byte of a binary message from the server.
const (
	stdoutChannel = 1
	stderrChannel = 2
)

// maxStart bounds the first message, in bytes: argv and env of one process, as Linux's default of 2 MiB for both.
const (
	maxStart   = 2 << 20
	maxMessage = 64 << 10
)

// The largest limits of a command: what a microVM can have, and PID_MAX_LIMIT of Linux.
const (
	maxMemoryMiB = 16 << 20
	maxPids      = 4 << 20
)

// Exec runs one command over a WebSocket; the messages are described in the API document.
func (h *handler) Exec(w http.ResponseWriter, r *http.Request, name apiv1.Name) {
	if !h.webSocket(w, r) {
		return
	}
	if _, err := h.Manager.Get(name); err != nil {
		h.fail(w, r, err)
		return
	}
	h.execSession(w, r, name, func(s *execSession) error { return s.run(h.Manager, name) })
}

// AttachExec takes part in a command in the background.
func (h *handler) AttachExec(w http.ResponseWriter, r *http.Request, name apiv1.Name, id apiv1.ExecID, params apiv1.AttachExecParams) {
	if !h.webSocket(w, r) {
		return
	}
	if _, err := h.Manager.ExecInfo(r.Context(), name, id); err != nil {
		h.fail(w, r, err)
		return
	}
	spec := guestrpc.AttachSpec{ID: id, Stdin: or(params.Stdin, false), Output: true, History: or(params.History, false), Follow: or(params.Follow, true)}
	h.execSession(w, r, name, func(s *execSession) error {
		s.conn.SetReadLimit(maxMessage)
		x, info, err := h.Manager.Attach(s.ctx, name, spec)
		if err != nil {
			return err
		}
		s.terminal = info.Terminal
		return s.carry(x)
	})
}

// webSocket refuses a request that does not ask for a WebSocket.
func (h *handler) webSocket(w http.ResponseWriter, r *http.Request) bool {
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return true
	}
	h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "connect with a WebSocket client", "exec speaks WebSocket, and this request does not ask for it"))
	return false
}

// execSession upgrades a request to a WebSocket and runs a session on it.
func (h *handler) execSession(w http.ResponseWriter, r *http.Request, name string, run func(*execSession) error) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{ExecProtocol}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		h.Log.Debug("accept an exec", "sandbox", name, "err", err)
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s := &execSession{conn: conn, ctx: ctx, cancel: cancel}
	if err := run(s); err != nil {
		h.Log.Debug("exec ended", "sandbox", name, "err", err)
		// A client that is gone does not hear it.
		_ = s.event(apiv1.ExecEvent{Type: apiv1.ExecEventTypeError, ExitCode: exitCode(err), Error: ptr(Error(err))})
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
}

type execSession struct {
	conn   *websocket.Conn
	ctx    context.Context // ends when the client is gone
	cancel context.CancelFunc
	out    []byte

	terminal bool // the command has one
}

func (s *execSession) run(m *manager.Manager, name string) error {
	s.conn.SetReadLimit(maxStart)
	kind, data, err := s.conn.Read(s.ctx)
	if err != nil {
		return fmt.Errorf("read the start of an exec: %w", err)
	}
	s.conn.SetReadLimit(maxMessage)
	if kind != websocket.MessageText {
		return sandbox.Errorf(sandbox.Invalid, "send an ExecStart as text first", "the first message is binary")
	}
	var start apiv1.ExecStart
	if err := decode(strings.NewReader(string(data)), &start); err != nil {
		return err
	}
	spec, err := execSpec(start)
	if err != nil {
		return err
	}
	s.terminal = spec.Terminal != nil
	x, err := m.Exec(s.ctx, name, spec)
	if err != nil {
		return err
	}
	return s.carry(x)
}

// carry connects the client to a command until the end of one of them.
func (s *execSession) carry(x *manager.Exec) error {
	defer x.Close()
	// The reader may wait for a guest that takes no stdin or answers no signal, and so not notice that the client is gone.
	defer context.AfterFunc(s.ctx, func() { x.Close() })()
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		s.receive(x)
		s.cancel()
		x.Close() // the client is gone, or has broken the rules: the command has no reason to go on
	}()
	err := s.send(x)
	if err == nil {
		err = s.conn.Close(websocket.StatusNormalClosure, "")
		if err != nil {
			s.cancel()
		}
		<-reading
		return nil
	}
	return err
}

// execSpec checks a start.
func execSpec(start apiv1.ExecStart) (spec guestrpc.ExecSpec, err error) {
	timeout := or(start.TimeoutMs, 0)
	spec = guestrpc.ExecSpec{
		Argv: start.Argv, Shell: or(start.Shell, false), Env: deref(start.Env), Cwd: or(start.Cwd, ""), User: or(start.User, ""),
		Stdin: or(start.Stdin, false), TimeoutMs: uint32(timeout), Detach: or(start.Detach, false),
	}
	memory, pids := or(start.MemoryMib, 0), or(start.PidsLimit, 0)
	switch {
	case spec.Shell && len(start.Argv) > 0:
		return spec, sandbox.Errorf(sandbox.Invalid, "give argv or shell", "a login shell takes no command")
	case !spec.Shell && (len(start.Argv) == 0 || start.Argv[0] == ""):
		return spec, sandbox.Errorf(sandbox.Invalid, "give a command", "there is no command to run")
	case timeout < 0 || timeout > math.MaxUint32:
		return spec, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use 0 to %d", uint32(math.MaxUint32)), "timeout_ms %d is out of range", timeout)
	case memory < 0 || memory > maxMemoryMiB:
		return spec, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use 1 to %d", maxMemoryMiB), "memory_mib %d is out of range", memory)
	case pids < 0 || pids > maxPids:
		return spec, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use 1 to %d", maxPids), "pids_limit %d is out of range", pids)
	}
	spec.MemoryBytes, spec.MaxPids = uint64(memory)<<20, uint32(pids)
	if or(start.Tty, false) {
		size, err := terminalSize(or(start.Rows, 24), or(start.Cols, 80))
		if err != nil {
			return spec, err
		}
		spec.Terminal = &size
	}
	return spec, nil
}

func terminalSize(rows, cols int) (guestrpc.TerminalSize, error) {
	if rows < 1 || rows > math.MaxUint16 || cols < 1 || cols > math.MaxUint16 {
		return guestrpc.TerminalSize{}, sandbox.Errorf(sandbox.Invalid, "use 1 to 65535 for both", "%d rows and %d columns are no size of a terminal", rows, cols)
	}
	return guestrpc.TerminalSize{Rows: uint16(rows), Cols: uint16(cols)}, nil
}

// receive passes on what the client sends, until it sends no more. It never waits for the command's stdin longer than the
// guest holds back bytes that it has granted credit for.
func (s *execSession) receive(x *manager.Exec) {
	for {
		kind, data, err := s.conn.Read(s.ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			if err := x.SendStdin(data); err != nil && !errors.Is(err, guestrpc.ErrStdinClosed) {
				_ = s.conn.Close(websocket.StatusPolicyViolation, "stdin: "+err.Error())
				return
			}
			continue
		}
		if err := s.control(x, data); err != nil {
			_ = s.conn.Close(websocket.StatusPolicyViolation, err.Error())
			return
		}
	}
}

func (s *execSession) control(x *manager.Exec, data []byte) error {
	var c apiv1.ExecControl
	if err := decode(strings.NewReader(string(data)), &c); err != nil {
		return err
	}
	switch c.Type {
	case apiv1.StdinClose:
		return x.CloseStdin()
	case apiv1.Signal:
		n := or(c.Signal, 0)
		if n < 1 || n > 64 {
			return fmt.Errorf("signal %d is not one of 1 to 64", n)
		}
		return x.Signal(s.ctx, uint32(n))
	case apiv1.Resize:
		if !s.terminal {
			return errors.New("the command has no terminal to resize")
		}
		size, err := terminalSize(or(c.Rows, 0), or(c.Cols, 0))
		if err != nil {
			return err
		}
		return x.Resize(size)
	}
	return fmt.Errorf("unknown control message %q", c.Type)
}

// send passes on what the command says, until its end.
func (s *execSession) send(x *manager.Exec) error {
	for {
		ev, err := x.Recv()
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case guestrpc.Started:
			err = s.event(apiv1.ExecEvent{Type: apiv1.ExecEventTypeStarted, Id: ptr(x.ID()), Pid: ptr(int(ev.PID))})
		case guestrpc.Stdout:
			err = s.output(stdoutChannel, ev)
		case guestrpc.Stderr:
			err = s.output(stderrChannel, ev)
		case guestrpc.StdinCredit:
			err = s.event(apiv1.ExecEvent{Type: apiv1.ExecEventTypeCredit, Bytes: ptr(int64(ev))})
		case guestrpc.Dropped:
			err = s.event(apiv1.ExecEvent{Type: apiv1.ExecEventTypeDropped, Bytes: ptr(int64(min(ev, math.MaxInt64)))})
		case guestrpc.Detached:
			return s.event(apiv1.ExecEvent{Type: apiv1.ExecEventTypeDetached})
		case guestrpc.Exited:
			exit := apiv1.ExecEvent{Type: apiv1.ExecEventTypeExit, Code: ptr(int(ev.Code)), TimedOut: ptr(ev.TimedOut), OomKilled: ptr(ev.OOMKilled)}
			if ev.Signal != 0 {
				exit.Signal = ptr(int(ev.Signal))
			}
			return s.event(exit)
		case guestrpc.Failed:
			return execFailure(ev)
		}
		if err != nil {
			return fmt.Errorf("send to the client: %w", err)
		}
	}
}

func (s *execSession) output(channel byte, data []byte) error {
	s.out = append(append(s.out[:0], channel), data...)
	return s.conn.Write(s.ctx, websocket.MessageBinary, s.out)
}

func (s *execSession) event(ev apiv1.ExecEvent) error {
	data, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	return s.conn.Write(s.ctx, websocket.MessageText, data)
}

// commandError is why the guest did not run the command.
type commandError struct {
	cause    *sandbox.Error
	exitCode int
}

func (e *commandError) Error() string { return e.cause.Message }
func (e *commandError) Unwrap() error { return e.cause }

func execFailure(f guestrpc.Failed) error {
	kind, code := sandbox.Failure, 125
	switch f.Reason {
	case guestrpc.NotFound:
		kind, code = sandbox.NotFound, 127
	case guestrpc.NotExecutable:
		kind, code = sandbox.Invalid, 126
	case guestrpc.BadRequest:
		kind = sandbox.Invalid
	}
	return &commandError{sandbox.Errorf(kind, "", "%s", f.Message), code}
}

func exitCode(err error) *int {
	var e *commandError
	if errors.As(err, &e) {
		return &e.exitCode
	}
	return ptr(125)
}

func ptr[T any](v T) *T { return &v }
