package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	// outputCredit is how many messages with output may be under way: together no more than one stream of the serial link
	// holds (256 KiB), so that the guest agent never blocks in sending.
	outputCredit = 6
	// maxWaiting bounds the messages that may wait for Recv: an honest guest's are output, the start, the end, and a few
	// that grant credit. The library keeps 64.
	maxWaiting = 48
	// maxStart bounds argv, env and the rest of a start, in bytes. Linux takes 2 MiB of argv and env by default.
	maxStart = 3 << 20
)

// ExecSpec is a command to run. ID is unique among the commands that run in the guest; the other fields are those of
// ExecStart in api/guest/v1/agent.proto.
type ExecSpec struct {
	ID        string
	Argv      []string
	Shell     bool // the user's login shell; Argv is empty then
	Terminal  *TerminalSize
	Env       []string
	Cwd       string
	User      string
	Stdin     bool
	TimeoutMs uint32

	Detach      bool
	MemoryBytes uint64
	MaxPids     uint32
}

// AttachSpec says what to take part in: ExecAttach in api/guest/v1/agent.proto. Terminal says whether the command has one.
type AttachSpec struct {
	ID       string
	Terminal bool
	Stdin    bool
	Output   bool
	History  bool
	Follow   bool
}

// TerminalSize is in characters; neither is 0.
type TerminalSize struct{ Rows, Cols uint16 }

func (s *TerminalSize) message() *guestv1.TerminalSize {
	if s == nil {
		return nil
	}
	return &guestv1.TerminalSize{Rows: uint32(s.Rows), Cols: uint32(s.Cols)}
}

// Exec is a command in the guest. Recv may be called by one goroutine and the stdin methods by another; Close by any.
type Exec struct {
	client *Client
	line   *line
	stream execStream
	cancel context.CancelFunc
	over   atomic.Bool // the line is not this command's any more

	dec   decoder // belongs to Recv
	taken int     // output messages that were handed out and not credited yet; belongs to Recv

	sending sync.Mutex // belongs to who sends stdin or a size, and may be held for as long as the guest does not read

	mu     sync.Mutex // guards what follows, and is never held while waiting
	closed bool       // stdin takes no more
	credit uint64     // bytes of stdin that the guest will take
}

// Exec starts a command, on a connection of its own. ctx bounds the start; the command ends with Close. Whether it runs at
// all is told by the first event.
func (c *Client) Exec(ctx context.Context, spec ExecSpec) (*Exec, error) {
	start := &guestv1.ExecStart{
		Id: spec.ID, Argv: spec.Argv, Env: spec.Env, Cwd: spec.Cwd, User: spec.User, Stdin: spec.Stdin,
		TimeoutMs: spec.TimeoutMs, OutputCredit: outputCredit, Terminal: spec.Terminal.message(), Shell: spec.Shell,
		Detach: spec.Detach, MemoryBytes: spec.MemoryBytes, MaxPids: spec.MaxPids,
	}
	if n := proto.Size(start); n > maxStart {
		return nil, sandbox.Errorf(sandbox.Invalid, "pass large data by stdin", "the command and its environment have %d bytes, more than the %d allowed", n, maxStart)
	}
	dec := decoder{hasStdin: spec.Stdin && !spec.Detach, terminal: spec.Terminal != nil, detach: spec.Detach}
	return c.open(ctx, dec, &guestv1.ExecRequest{Msg: &guestv1.ExecRequest_Start{Start: start}})
}

// Attach takes part in a command that was detached, on a connection of its own. ctx bounds the beginning; Close leaves the
// command alone. Whether it is there at all is told by the first event.
func (c *Client) Attach(ctx context.Context, spec AttachSpec) (*Exec, error) {
	attach := &guestv1.ExecAttach{Id: spec.ID, Stdin: spec.Stdin, Output: spec.Output, History: spec.History, Follow: spec.Follow, OutputCredit: outputCredit}
	dec := decoder{hasStdin: spec.Stdin, terminal: spec.Terminal, detach: spec.Output && !spec.Follow, attached: true}
	return c.open(ctx, dec, &guestv1.ExecRequest{Msg: &guestv1.ExecRequest_Attach{Attach: attach}})
}

// open begins an Exec with its first request.
func (c *Client) open(ctx context.Context, dec decoder, first *guestv1.ExecRequest) (*Exec, error) {
	l, err := c.line(ctx)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	x := &Exec{client: c, line: l, cancel: cancel, dec: dec, closed: !dec.hasStdin}
	l.begin()
	stop := context.AfterFunc(ctx, func() { x.Close() })
	x.stream, err = l.exec(life, first)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		x.Close()
		return nil, fmt.Errorf("start a command in the guest: %w", explain(x.line.guard, err))
	}
	return x, nil
}

// Recv waits for the next event. After Exited, Failed or Detached it returns io.EOF; when the connection breaks or the guest breaks
// the rules, another error, and the command counts as lost.
func (x *Exec) Recv() (Event, error) {
	if x.dec.ended {
		return nil, io.EOF
	}
	if 2*x.taken >= outputCredit {
		// When this fails, the connection is gone, and what came before that is still to be handed out.
		_ = x.stream.Send(&guestv1.ExecRequest{Msg: &guestv1.ExecRequest_OutputCredit{OutputCredit: uint32(x.taken)}})
		x.taken = 0
	}
	resp, err := x.stream.Recv()
	x.line.frames.Add(-1)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the guest ended the stream before the end of the command")
		}
		return nil, x.fail(err)
	}
	ev, err := x.dec.decode(resp)
	if err != nil {
		x.Close()
		return nil, err
	}
	switch ev := ev.(type) {
	case Stdout, Stderr:
		x.taken++
	case StdinCredit:
		x.mu.Lock()
		x.credit += uint64(ev)
		x.mu.Unlock()
	case Exited, Failed, Detached:
		x.mu.Lock()
		x.closed = true
		x.mu.Unlock()
		if x.over.CompareAndSwap(false, true) {
			x.client.release(x)
		}
	}
	return ev, nil
}

func (x *Exec) fail(err error) error {
	err = explain(x.line.guard, err)
	x.Close()
	return err
}

// SendStdin sends input to the command. It takes no more bytes in all than StdinCredit events have granted. It waits for a
// guest that does not read, until Close.
func (x *Exec) SendStdin(p []byte) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	if err := x.useCredit(len(p)); err != nil {
		return err
	}
	for len(p) > 0 {
		piece := p[:min(len(p), maxPiece)]
		p = p[len(piece):]
		if err := x.stream.Send(&guestv1.ExecRequest{Msg: &guestv1.ExecRequest_Stdin{Stdin: piece}}); err != nil {
			return fmt.Errorf("send stdin: %w", explain(x.line.guard, err))
		}
	}
	return nil
}

func (x *Exec) useCredit(n int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return ErrStdinClosed
	}
	if uint64(n) > x.credit {
		return fmt.Errorf("%d bytes are more than the %d that the command takes now", n, x.credit)
	}
	x.credit -= uint64(n)
	return nil
}

// CloseStdin ends the command's input. It may be called more than once, and waits as SendStdin does.
func (x *Exec) CloseStdin() error {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.mu.Lock()
	closed := x.closed
	x.closed = true
	x.mu.Unlock()
	if closed {
		return nil
	}
	if err := x.stream.Send(&guestv1.ExecRequest{Msg: &guestv1.ExecRequest_StdinClose{StdinClose: &guestv1.StdinClose{}}}); err != nil {
		return fmt.Errorf("close stdin: %w", explain(x.line.guard, err))
	}
	return nil
}

// Resize gives the command's terminal another size, unless the command has ended. It waits as SendStdin does.
func (x *Exec) Resize(size TerminalSize) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	if x.over.Load() {
		return nil
	}
	if err := x.stream.Send(&guestv1.ExecRequest{Msg: &guestv1.ExecRequest_Resize{Resize: size.message()}}); err != nil {
		return fmt.Errorf("resize the terminal: %w", explain(x.line.guard, err))
	}
	return nil
}

// Close ends the command when it still runs and is not detached, by ending its connection. It does not block.
func (x *Exec) Close() error {
	if !x.over.CompareAndSwap(false, true) {
		return nil
	}
	x.cancel()
	err := x.line.guard.Close()
	x.client.refill()
	return err
}
