package exec

import (
	"errors"
	"os"
	"sync"
)

// Credit for stdin, in bytes: what may be under way to a command at once, and how much is granted at a time after that.
const (
	stdinWindow = 128 << 10
	stdinGrant  = stdinWindow / 4
)

var errStdinFlood = errors.New("more stdin came than was asked for")

// stdin is the pipe that a command reads from, with what waits for it.
type stdin struct {
	file     *os.File
	terminal bool

	mu      sync.Mutex
	changed sync.Cond
	session *stdinSession // who sends; nil for nobody
	waiting []byte
	room    int  // bytes that may still come from session
	closed  bool // no more comes
}

// stdinSession is a connection that sends stdin.
type stdinSession struct{ grant func(bytes uint32) error }

func newStdin(file *os.File, terminal bool) *stdin {
	s := &stdin{file: file, terminal: terminal}
	s.changed.L = &s.mu
	return s
}

// connect asks a session for stdin. It returns false when another one has it.
func (s *stdin) connect(session *stdinSession) (bool, error) {
	s.mu.Lock()
	if s.session != nil {
		s.mu.Unlock()
		return false, nil
	}
	s.session = session
	n := 0
	if !s.closed {
		n = max(0, stdinWindow-len(s.waiting))
	}
	s.room = n
	s.mu.Unlock()
	if n == 0 {
		return true, nil
	}
	return true, session.grant(uint32(n))
}

// disconnect is for the end of a session.
func (s *stdin) disconnect(session *stdinSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == session {
		s.session, s.room = nil, 0
	}
}

// put takes what came for the command.
func (s *stdin) put(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if len(p) > s.room {
		return errStdinFlood
	}
	s.room -= len(p)
	s.waiting = append(s.waiting, p...)
	s.changed.Signal()
	return nil
}

// close says that no more comes; the command gets what waits, and then the end of its input.
func (s *stdin) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Signal()
}

// abort ends a pump that waits for the command to read.
func (s *stdin) abort() {
	s.mu.Lock()
	s.waiting = nil
	s.mu.Unlock()
	s.close()
	_ = s.file.Close()
}

// pump writes stdin to the command until its end, and asks for more. When the command closes its stdin, no more is asked for.
func (s *stdin) pump() error {
	defer s.file.Close()
	var spare []byte
	taken := 0
	lineBegun := false
	for {
		p, ok := s.take(spare)
		if !ok {
			if s.terminal {
				_, _ = s.file.Write(endOfFile(s.file, lineBegun)) // fails after the command's end
			}
			return nil
		}
		lineBegun = p[len(p)-1] != '\n'
		if _, err := s.file.Write(p); err != nil {
			s.close()
			return nil // EPIPE, or the command's end
		}
		spare = p[:0]
		if taken += len(p); taken >= stdinGrant {
			if err := s.give(taken); err != nil {
				return err
			}
			taken = 0
		}
	}
}

// take waits for stdin and takes all that has come. It leaves spare in its place.
func (s *stdin) take(spare []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.waiting) == 0 && !s.closed {
		s.changed.Wait()
	}
	p := s.waiting
	s.waiting = spare
	return p, len(p) > 0
}

// give asks for more. What cannot be asked for, since the session has just ended, the next one is asked for when it connects.
func (s *stdin) give(n int) error {
	s.mu.Lock()
	session := s.session
	if session != nil {
		s.room += n
	}
	s.mu.Unlock()
	if session == nil {
		return nil
	}
	return session.grant(uint32(n))
}
