package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// ending are the signals that end a session.
var ending = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT}

// SignalError ends the context of a Session: this process was told to end.
type SignalError struct{ Signal syscall.Signal }

func (e *SignalError) Error() string { return "ended by signal: " + e.Signal.String() }

// Session has a terminal in another mode until Close.
type Session struct {
	in    *os.File // whose mode is changed
	apply func() error
	flush func() error // at the end; may be nil
	saved *term.State
	sizes chan Size
	ask   chan struct{} // see Announce
	stop  context.CancelCauseFunc
	got   chan os.Signal
	quit  chan struct{}
	done  chan struct{}

	mu    sync.Mutex // held while something is written to the terminal, and while this process is stopped
	out   io.Writer  // nil when the output is not a terminal
	modes Modes
	wrote bool // the program has written something

	closing sync.Once
	err     error
}

// Raw puts a terminal in raw mode: all keys go to the reader of in, none of them is a signal of this process, and output is
// left as it is. out is where the program's output is shown; it may be something else than a terminal.
//
// The context that is returned ends with ctx, and with a *SignalError as its cause when this process gets SIGINT, SIGTERM,
// SIGHUP, SIGQUIT or SIGABRT from elsewhere: the terminal has its mode back by then. A second such signal kills this
// process. While this process is stopped (SIGTSTP), the terminal has its mode and its defaults back as well.
func Raw(ctx context.Context, in *os.File, out io.Writer) (*Session, context.Context, error) {
	return open(ctx, in, out, func() error {
		_, err := term.MakeRaw(int(in.Fd()))
		return err
	})
}

// Playback is like Raw, but keys are still signals of this process: what is shown is not interactive. What else is typed
// is dropped at Close.
func Playback(ctx context.Context, in *os.File, out io.Writer) (*Session, context.Context, error) {
	s, ctx, err := open(ctx, in, out, func() error { return makePlayback(int(in.Fd())) })
	if err == nil {
		s.flush = func() error { return dropInput(int(in.Fd())) }
	}
	return s, ctx, err
}

func open(ctx context.Context, in *os.File, out io.Writer, apply func() error) (*Session, context.Context, error) {
	saved, err := term.GetState(int(in.Fd()))
	if err != nil {
		return nil, nil, fmt.Errorf("ask the terminal for its mode: %w", err)
	}
	s := &Session{
		in: in, apply: apply, saved: saved, sizes: make(chan Size, 1), ask: make(chan struct{}),
		got: make(chan os.Signal, 16), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if Is(out) {
		s.out = out
	}
	ctx, s.stop = context.WithCancelCause(ctx)
	// Before the mode is changed, so that no signal finds it changed and nobody there to change it back.
	// With SIGPIPE among them, a write to a closed pipe returns instead of ending the process.
	signal.Notify(s.got, append([]os.Signal{syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGWINCH, syscall.SIGPIPE}, ending...)...)
	if err := apply(); err != nil {
		signal.Stop(s.got)
		s.stop(nil)
		return nil, nil, fmt.Errorf("change the terminal's mode: %w", err)
	}
	go s.watch()
	return s, ctx, nil
}

// Sizes tells the terminal's size when it has changed, the latest only, and also the same one after this process was stopped:
// the program is to draw anew then.
func (s *Session) Sizes() <-chan Size { return s.sizes }

// Announce tells the terminal's size on Sizes: for a program that runs already and has drawn for another terminal.
func (s *Session) Announce() {
	select {
	case s.ask <- struct{}{}:
	case <-s.done:
	}
}

// Writer writes the program's output to w and follows it, when the output is a terminal.
func (s *Session) Writer(w io.Writer) io.Writer {
	if s.out == nil {
		return w
	}
	return &followed{s, w}
}

type followed struct {
	s *Session
	w io.Writer
}

func (f *followed) Write(p []byte) (int, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	n, err := f.w.Write(p)
	_, _ = f.s.modes.Write(p[:n])
	f.s.wrote = f.s.wrote || n > 0
	return n, err
}

// Wrote reports whether the program has written something to the terminal, so that the cursor may be anywhere.
func (s *Session) Wrote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrote
}

// Reset switches off what the program has left on, as it was cut short. A program that has ended by itself may have meant it.
func (s *Session) Reset() error {
	if s.out == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	off := s.modes.Off()
	s.modes = Modes{}
	if _, err := s.out.Write(off); err != nil {
		return fmt.Errorf("reset the terminal: %w", err)
	}
	return nil
}

// Close gives the terminal its mode back. It may be called more than once.
func (s *Session) Close() error {
	s.closing.Do(func() {
		close(s.quit)
		<-s.done
		if s.flush != nil {
			_ = s.flush() // what was typed is not worth an error
		}
		s.err = s.restore()
		signal.Stop(s.got)
		s.stop(nil)
	})
	return s.err
}

func (s *Session) restore() error {
	err := retry(func() error { return term.Restore(int(s.in.Fd()), s.saved) })
	if err != nil {
		return fmt.Errorf("give the terminal its mode back: %w", err)
	}
	return nil
}

func (s *Session) watch() {
	defer close(s.done)
	defer func() { // a panic here would otherwise end the program with the terminal as it is
		if p := recover(); p != nil {
			_ = s.restore()
			panic(p)
		}
	}()
	for {
		select {
		case <-s.quit:
			return
		case <-s.ask:
			s.resized()
		case sig := <-s.got:
			if sig == syscall.SIGTSTP {
				sig = s.suspend()
			}
			switch sig {
			case nil, syscall.SIGPIPE, syscall.SIGTSTP:
			case syscall.SIGWINCH:
				s.resized()
			case syscall.SIGCONT: // it may have been a SIGSTOP, which nobody sees coming
				s.resume()
			default:
				_ = s.restore()
				signal.Reset(ending...)
				s.stop(&SignalError{sig.(syscall.Signal)})
				return
			}
		}
	}
}

// suspend stops this process, with the terminal as it was before, and returns with the signal that comes when it goes on:
// SIGCONT, or one that ends it. It returns nil when the session was closed.
func (s *Session) suspend() os.Signal {
	s.mu.Lock() // output waits
	defer s.mu.Unlock()
	if s.out != nil {
		_, _ = s.out.Write(s.modes.Off())
	}
	_ = s.restore()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGSTOP); err != nil {
		return syscall.SIGCONT
	}
	// The stop may come a moment later than Kill returns: only a signal says that it is over.
	for {
		select {
		case <-s.quit:
			return nil
		case sig := <-s.got:
			switch sig {
			case syscall.SIGTSTP, syscall.SIGWINCH, syscall.SIGPIPE: // the size is asked for after SIGCONT
			default:
				return sig
			}
		}
	}
}

// resume takes the terminal after a stop. In the background this stops the process again, until it is in the foreground.
func (s *Session) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = retry(s.apply)
	if s.out != nil {
		_, _ = s.out.Write(s.modes.On())
	}
	s.resized()
}

// resized offers the terminal's size to the reader of Sizes.
func (s *Session) resized() {
	f := s.in
	if out := File(s.out); out != nil {
		f = out
	}
	size, err := SizeOf(f)
	if err != nil || size.Rows == 0 || size.Cols == 0 {
		return
	}
	select {
	case <-s.sizes: // what nobody took is out of date
	default:
	}
	s.sizes <- size // never waits: only this goroutine sends, and the channel was emptied
}

// retry calls f until no signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
