package agent

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
)

// session is a command with a terminal.
type session struct {
	t   *testing.T
	x   *guestrpc.Exec
	out bytes.Buffer
}

func (a *agent) terminal(t *testing.T, spec guestrpc.ExecSpec) *session {
	t.Helper()
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skip("no pseudo terminals: ", err)
	}
	spec.Terminal, spec.Stdin = &guestrpc.TerminalSize{Rows: 24, Cols: 80}, true
	s := &session{t: t, x: a.start(t, spec)}
	for {
		if _, ok := s.next().(guestrpc.StdinCredit); ok {
			return s
		}
	}
}

func (s *session) next() guestrpc.Event {
	s.t.Helper()
	ev, err := s.x.Recv()
	if err != nil {
		s.t.Fatalf("%v after %q", err, s.out.String())
	}
	if out, ok := ev.(guestrpc.Stdout); ok {
		s.out.Write(out)
	}
	return ev
}

// expect reads until the output has text, and forgets it.
func (s *session) expect(text string) {
	s.t.Helper()
	for {
		if _, after, ok := strings.Cut(s.out.String(), text); ok {
			s.out.Reset()
			s.out.WriteString(after)
			return
		}
		if ev, ok := s.next().(guestrpc.Exited); ok {
			s.t.Fatalf("%+v without %q after %q", ev, text, s.out.String())
		}
	}
}

func (s *session) send(keys string) {
	s.t.Helper()
	if err := s.x.SendStdin([]byte(keys)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) exited() guestrpc.Exited {
	s.t.Helper()
	for {
		if ev, ok := s.next().(guestrpc.Exited); ok {
			return ev
		}
	}
}

func TestTerminal(t *testing.T) {
	a := newAgent(t)
	// A signal ends a read in some shells, which is not the end of the input.
	s := a.terminal(t, sh(`stty size; echo "$TERM" "$LC_CTYPE"; exec <&2; trap 'stty size; signal=1' WINCH; trap 'echo caught; signal=1' INT
		echo ready; while signal=0; do if read -r line; then echo "got $line"; elif [ $signal = 0 ]; then break; fi; done; echo end; exit 5`))
	s.expect("24 80\r\nxterm C.UTF-8\r\nready\r\n")
	if err := s.x.Resize(guestrpc.TerminalSize{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	s.send("\r") // some shells run a trap only when a line has come
	s.expect("50 132\r\n")
	s.send("gr\xc3\xbc\x7f\xc3\xbcn\r") // one key erases one character, of two bytes
	s.expect("got grün\r\n")
	s.send("\x03\r")
	s.expect("caught\r\n")
	s.send("begun")
	s.expect("begun")
	if err := s.x.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if exit := s.exited(); exit.Code != 5 || !strings.HasSuffix(s.out.String(), "end\r\n") {
		t.Errorf("%+v after %q", exit, s.out.String())
	}
}

// All that a command wrote comes before its end, also what the kernel had not passed on then.
func TestTerminalOutputIsWhole(t *testing.T) {
	a := newAgent(t)
	for range 20 {
		s := a.terminal(t, sh(`i=0; while [ $i -lt 2000 ]; do echo 123456789; i=$((i+1)); done; printf last`))
		s.exited()
		if got, want := s.out.String(), strings.Repeat("123456789\r\n", 2000)+"last"; got != want {
			t.Fatalf("%d bytes of %d; the last are %q", len(got), len(want), got[max(0, len(got)-20):])
		}
	}
}

func TestLoginShell(t *testing.T) {
	a := newAgent(t)
	s := a.terminal(t, guestrpc.ExecSpec{Shell: true, Env: []string{"HOME=" + t.TempDir()}})
	s.send("echo \"=$0=\"; exit 3\r")
	s.expect("=-") // argv[0] of a login shell
	if exit := s.exited(); exit.Code != 3 {
		t.Errorf("%+v", exit)
	}
}

// A process that is left in the background does not hold its terminal's exec up.
func TestTerminalBackground(t *testing.T) {
	a := newAgent(t)
	s := a.terminal(t, sh(`sleep 1000 & echo $!`))
	exit := s.exited()
	if exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	if r := a.run(t, sh("kill "+strings.TrimSpace(s.out.String())), nil); r.exit.Code != 0 {
		t.Errorf("the background process is gone: %+v", r)
	}
}

// A command whose connection breaks is hung up on, and killed when it does not listen.
func TestTerminalHangUp(t *testing.T) {
	file := t.TempDir() + "/hup"
	t.Cleanup(func() { // after that of newAgent, which waits for the end of both
		if text, err := os.ReadFile(file); string(text) != "hung up\n" {
			t.Errorf("%q, %v", text, err)
		}
	})
	a := newAgent(t)
	s := a.terminal(t, sh(`trap 'echo hung up >`+file+`; exit' HUP; echo ready; while :; do sleep 0.1; done`))
	s.expect("ready")
	deaf := a.terminal(t, sh(`trap '' HUP TERM; echo ready; while :; do sleep 0.1; done`))
	deaf.expect("ready")
	s.x.Close()
	deaf.x.Close()
}
