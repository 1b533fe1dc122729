package exec

import (
	"context"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// maxCredit bounds the output messages that may be under way.
const maxCredit = 1024

// Session is a connection of the host that takes part in a command.
type Session struct {
	command *Command
	send    func(*guestv1.ExecResponse) error
	credit  chan struct{}
	sender  *stdinSession // nil when the session sends no stdin
}

// Session returns a connection's part in the command. send is called from several goroutines at once.
func (c *Command) Session(outputCredit uint32, stdin bool, send func(*guestv1.ExecResponse) error) *Session {
	s := &Session{command: c, send: send, credit: make(chan struct{}, maxCredit)}
	if stdin && c.stdin != nil {
		s.sender = &stdinSession{grant: func(n uint32) error {
			return send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_StdinCredit{StdinCredit: n}})
		}}
	}
	s.addCredit(outputCredit)
	return s
}

// Input takes what the host sends after its first request, until next returns an error. It must run while Run or Follow does.
func (s *Session) Input(next func() (*guestv1.ExecRequest, error)) error {
	for {
		req, err := next()
		if err != nil {
			return err
		}
		switch m := req.GetMsg().(type) {
		case *guestv1.ExecRequest_Stdin:
			if s.sender != nil {
				err = s.command.stdin.put(m.Stdin)
			}
		case *guestv1.ExecRequest_StdinClose:
			if s.sender != nil {
				s.command.stdin.close()
			}
		case *guestv1.ExecRequest_OutputCredit:
			s.addCredit(m.OutputCredit)
		case *guestv1.ExecRequest_Resize:
			s.command.resize(m.Resize)
		}
		if err != nil {
			return err
		}
	}
}

func (s *Session) addCredit(n uint32) {
	for range min(n, maxCredit) {
		select {
		case s.credit <- struct{}{}:
		default:
			return
		}
	}
}

// Run carries the command until its end, or timeout unless that is 0, and returns how it ended. When ctx ends or the
// connection breaks, the command is killed.
func (s *Session) Run(ctx context.Context, timeout time.Duration) (*guestv1.ExecExited, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.sender != nil {
		if _, err := s.command.stdin.connect(s.sender); err != nil { // nobody else can have it
			cancel(err)
		}
	}
	return s.command.run(ctx, timeout, s.credit, s.output)
}

func (s *Session) output(stderr bool, p []byte) error {
	if stderr {
		return s.send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stderr{Stderr: p}})
	}
	return s.send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Stdout{Stdout: p}})
}

// Follow takes part in a command in the background, as req asks for, and returns the last message of the connection.
func (s *Session) Follow(ctx context.Context, req *guestv1.ExecAttach) (*guestv1.ExecResponse, error) {
	c := s.command
	if s.sender != nil {
		mine, err := c.stdin.connect(s.sender)
		if err != nil {
			return nil, err
		}
		if !mine {
			return failed(failure(guestv1.ExecFailed_BAD_REQUEST, "someone else sends stdin to this command")), nil
		}
		defer c.stdin.disconnect(s.sender)
	}
	if req.GetOutput() {
		if more, err := s.follow(ctx, req); err != nil || !more {
			return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Detached{Detached: &guestv1.ExecDetached{}}}, err
		}
	}
	select {
	case <-c.over:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Exited{Exited: c.exited}}, nil
}

// follow sends what is kept of the command's output, as far as req asks for, and what comes. It returns false when req does
// not want to wait for the command's end.
func (s *Session) follow(ctx context.Context, req *guestv1.ExecAttach) (bool, error) {
	log := s.command.log
	at, stop := log.bounds()
	if !req.GetHistory() {
		at = stop
	}
	buf := make([]byte, pieceSize)
	for {
		select {
		case <-s.credit:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		for {
			limit := len(buf)
			if !req.GetFollow() {
				limit = int(min(uint64(limit), stop-min(at, stop)))
			}
			if limit == 0 {
				select {
				case <-s.command.over: // its end is told when it is known
					return true, nil
				default:
					return false, nil
				}
			}
			n, stderr, gap, more := log.read(at, buf[:limit])
			at += gap + uint64(n)
			if gap > 0 {
				if err := s.send(&guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Dropped{Dropped: gap}}); err != nil {
					return false, err
				}
			}
			if n > 0 {
				if err := s.output(stderr, buf[:n]); err != nil {
					return false, err
				}
				break
			}
			if more == nil {
				return true, nil
			}
			select {
			case <-more:
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
		}
	}
}

// failed is the message for a command that does not run.
func failed(why *Error) *guestv1.ExecResponse {
	return &guestv1.ExecResponse{Msg: &guestv1.ExecResponse_Failed{Failed: &guestv1.ExecFailed{Reason: why.Reason, Message: why.Message}}}
}
