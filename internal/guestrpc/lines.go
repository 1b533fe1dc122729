package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

const (
	// lineTimeout bounds how long a line may take to be made, and the guest to agree that a command's stream has ended.
	lineTimeout = 10 * time.Second
	// maxLines bounds the lines without a command, and idleTime is how long more than one is kept when they are not used.
	maxLines = 64
	idleTime = 2 * time.Second
)

// line is a connection to the guest that carries one command after another. While it carries none, the guest may send nothing
// on it.
type line struct {
	guard *guard
	rpc   *ttrpc.Client
	gone  chan struct{} // closed when the connection has ended

	last   uint32        // stream of the last command; belongs to who has the line
	stream atomic.Uint32 // of the command that is carried, and 0 when the guest has said that there is no more of it
	frames atomic.Int64  // that came and were not taken yet
}

// begin lets the messages of the next command pass. The library numbers streams from 1 in steps of 2.
func (l *line) begin() {
	if l.last++; l.last%2 == 0 {
		l.last++
	}
	l.stream.Store(l.last)
}

// expect lets the messages of the command that is carried pass, until its end.
func (l *line) expect(stream uint32, kind, flags byte) error {
	switch current := l.stream.Load(); {
	case current == 0:
		return errors.New("the guest spoke on a connection that nothing was asked on")
	case stream != current || kind != typeData && kind != typeResponse:
		return fmt.Errorf("the guest sent a message of type %d on stream %d of a command's connection", kind, stream)
	case l.frames.Add(1) > maxWaiting:
		return errors.New("the guest sent more messages than it was allowed to")
	}
	if kind == typeResponse || flags&remoteClosed != 0 {
		l.stream.Store(0)
	}
	return nil
}

// exec calls Agent.Exec. The generated client would send the first message by itself after the call, and have the guest wake up
// twice: the protocol lets it come with the call.
func (l *line) exec(ctx context.Context, first *guestv1.ExecRequest) (execStream, error) {
	desc := &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true}
	stream, err := l.rpc.NewStream(ctx, desc, "agentkernel.guest.v1.Agent", "Exec", first)
	return execStream{stream}, err
}

// execStream is what the generated client makes of a stream.
type execStream struct{ ttrpc.ClientStream }

func (s execStream) Send(m *guestv1.ExecRequest) error { return s.SendMsg(m) }

func (s execStream) Recv() (*guestv1.ExecResponse, error) {
	m := new(guestv1.ExecResponse)
	return m, s.RecvMsg(m)
}

// lost reports whether the connection is known to be broken.
func (l *line) lost() bool {
	select {
	case <-l.gone:
		return true
	default:
		return l.guard.broken() != nil
	}
}

// lines are kept for the next commands. To make one costs the guest a quarter of what a short command does, and its memory
// garbage: so a line is made before it is needed, and used again.
type lines struct {
	mu        sync.Mutex
	idle      []*line                 // the last one is taken first
	returning map[*line]chan struct{} // their commands have ended, and the guest has still to say so; closed when it has
	making    chan struct{}           // closed when the attempt that is under way has ended; nil when none is
	ended     bool
	unused    int         // how many of the first idle ones were not taken since trim was set
	trim      *time.Timer // nil unless there are more idle ones than are always kept
}

// line returns a line for a command.
func (c *Client) line(ctx context.Context) (*line, error) {
	for l := c.lines.take(); l != nil; l = c.lines.take() {
		if !l.lost() {
			return l, nil
		}
		_ = l.guard.Close()
	}
	return c.newLine(ctx)
}

func (c *Client) newLine(ctx context.Context) (*line, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest agent: %w", err)
	}
	l := &line{gone: make(chan struct{})}
	l.guard = &guard{Conn: conn, check: l.expect}
	l.rpc = ttrpc.NewClient(l.guard, ttrpc.WithOnClose(sync.OnceFunc(func() { close(l.gone) })))
	return l, nil
}

func (p *lines) take() *line {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	l := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.unused = min(p.unused, n-1)
	return l
}

// put keeps a line for the next command, or closes it.
func (p *lines) put(l *line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.returned(l)
	if p.ended {
		_ = l.guard.Close()
		return
	}
	p.idle = append(p.idle, l)
	p.setTrim()
}

// returned needs mu.
func (p *lines) returned(l *line) {
	if returned := p.returning[l]; returned != nil {
		delete(p.returning, l)
		close(returned)
	}
}

// setTrim has the lines that are not used from now on closed after a while, all but one. It needs mu.
func (p *lines) setTrim() {
	if p.trim == nil && len(p.idle) > 1 {
		p.unused = len(p.idle)
		p.trim = time.AfterFunc(idleTime, p.closeUnused)
	}
}

func (p *lines) closeUnused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trim = nil
	if p.ended {
		return
	}
	if n := p.unused - 1; n > 0 {
		for _, l := range p.idle[:n] {
			_ = l.guard.Close()
		}
		p.idle = append([]*line(nil), p.idle[n:]...)
	}
	p.setTrim()
}

// returns notes that the guest is asked for the end of a command's stream. It is false when there are enough lines.
func (p *lines) returns(l *line) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || len(p.idle)+len(p.returning) >= maxLines {
		return false
	}
	if p.returning == nil {
		p.returning = make(map[*line]chan struct{})
	}
	p.returning[l] = make(chan struct{})
	return true
}

// replace closes a line that cannot be used again.
func (c *Client) replace(l *line) {
	_ = l.guard.Close()
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	c.lines.returned(l)
	c.make()
}

// release takes a line back in the background when its command has ended: x sends nothing more, and its guest has to agree
// that the stream is over. A guest that does not, or is of a version that cannot, has its line closed.
func (c *Client) release(x *Exec) {
	l := x.line
	if !c.lines.returns(l) {
		x.cancel()
		_ = l.guard.Close()
		return
	}
	go func() {
		defer x.cancel()
		timer := time.AfterFunc(lineTimeout, func() { _ = l.guard.Close() })
		x.sending.Lock()
		err := x.stream.CloseSend()
		x.sending.Unlock()
		if err == nil {
			_, err = x.stream.Recv()
			l.frames.Add(-1)
		}
		if !timer.Stop() || !errors.Is(err, io.EOF) {
			c.replace(l)
			return
		}
		c.lines.put(l)
	}()
}

// refill makes a line in the background, unless there is one or will be.
func (c *Client) refill() {
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	c.make()
}

// make is refill for who has the lines' mu.
func (c *Client) make() {
	p := &c.lines
	if len(p.idle)+len(p.returning) > 0 || p.making != nil || p.ended {
		return
	}
	made := make(chan struct{})
	p.making = made
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lineTimeout)
		defer cancel()
		go func() {
			select {
			case <-c.dead:
				cancel()
			case <-ctx.Done():
			}
		}()
		l, err := c.newLine(ctx)
		p.mu.Lock()
		p.making = nil
		p.mu.Unlock()
		if err == nil { // else the next command makes its own, and tells
			p.put(l)
		}
		close(made)
	}()
}

// end is for the end of the client.
func (p *lines) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.trim != nil {
		p.trim.Stop()
	}
	for _, l := range p.idle {
		_ = l.guard.Close()
	}
	for l := range p.returning {
		_ = l.guard.Close()
	}
	p.idle = nil
}
