package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/guest/exec"
	"github.com/agentkernel/agentkernel/internal/guest/identity"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("panic") // as the agent does
	goleak.VerifyTestMain(m)
}

// agent is an agent that runs commands on this host, and a client of it.
type agent struct {
	*guestrpc.Client
	shutdown chan time.Duration
	named    chan string
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	r := reaper.New()
	reaped := make(chan struct{})
	go func() { defer close(reaped); r.Run() }()
	runner, err := exec.NewRunner(r)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{shutdown: make(chan time.Duration, 2), named: make(chan string, 1)}
	served := make(chan error, 1)
	go func() {
		served <- Serve(context.Background(), Options{
			Runner: runner, Build: "test", Kernel: "6.1", Arch: "x86_64", Init: 1, Ready: 2,
			Shutdown: func(grace time.Duration) { a.shutdown <- grace },
			Machine:  a,
		}, l)
	}()
	dial := func(ctx context.Context) (guestrpc.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
	if a.Client, err = guestrpc.Connect(t.Context(), dial, guestrpc.Identity{Hostname: "box"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		l.Close()
		<-served
		<-r.Empty()
		r.Close()
		<-reaped
	})
	return a
}

func (*agent) SetClock(time.Time) error { return nil }
func (*agent) AddEntropy([]byte) error  { return nil }
func (*agent) Sync()                    {}
func (a *agent) SetNames(_ *identity.Report, hostname, _ string) {
	a.named <- hostname
}
func (*agent) RemoveHostKeys(bool) (int, error) { return 0, nil }

type result struct {
	stdout, stderr string
	exit           guestrpc.Exited
	failed         *guestrpc.Failed
}

var ids struct {
	sync.Mutex
	n int
}

func (a *agent) start(t *testing.T, spec guestrpc.ExecSpec) *guestrpc.Exec {
	t.Helper()
	if spec.ID == "" {
		ids.Lock()
		ids.n++
		spec.ID = fmt.Sprint(ids.n)
		ids.Unlock()
	}
	x, err := a.Exec(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

// run runs a command to its end, with stdin when that is not nil.
func (a *agent) run(t *testing.T, spec guestrpc.ExecSpec, stdin []byte) (r result) {
	t.Helper()
	spec.Stdin = stdin != nil
	x := a.start(t, spec)
	var stdout, stderr bytes.Buffer
	for {
		ev, err := x.Recv()
		if err != nil {
			t.Errorf("%q: %v", spec.Argv, err)
			return r
		}
		switch ev := ev.(type) {
		case guestrpc.Stdout:
			stdout.Write(ev)
		case guestrpc.Stderr:
			stderr.Write(ev)
		case guestrpc.StdinCredit:
			n := min(int(ev), len(stdin))
			err := x.SendStdin(stdin[:n])
			if stdin = stdin[n:]; len(stdin) == 0 {
				err = errors.Join(err, x.CloseStdin())
			}
			if err != nil && !errors.Is(err, guestrpc.ErrStdinClosed) {
				t.Error(err)
			}
		case guestrpc.Exited:
			return result{stdout.String(), stderr.String(), ev, nil}
		case guestrpc.Failed:
			return result{failed: &ev}
		}
	}
}

func sh(script string) guestrpc.ExecSpec {
	return guestrpc.ExecSpec{Argv: []string{"sh", "-c", script}}
}

func TestControl(t *testing.T) {
	a := newAgent(t)
	if name := <-a.named; name != "box" || a.Info().Build != "test" || a.Info().Ready != 2 {
		t.Errorf("%q, %+v", name, a.Info())
	}
	if err := a.Signal(t.Context(), "nobody", 15); !errors.Is(err, guestrpc.ErrNoExec) {
		t.Error(err)
	}
	for range 2 { // only the first counts
		if err := a.Shutdown(t.Context(), 3*time.Second); err != nil {
			t.Error(err)
		}
	}
	if grace := <-a.shutdown; grace != 3*time.Second || len(a.shutdown) != 0 {
		t.Error(grace)
	}
}

func TestExits(t *testing.T) {
	a := newAgent(t)
	dir := t.TempDir()
	noShebang, noInterpreter, plain := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	os.WriteFile(noShebang, []byte("echo hi"), 0o755)
	os.WriteFile(noInterpreter, []byte("#!/nonexistent\n"), 0o755)
	os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644)
	path := []string{"PATH=" + dir}
	for name, tc := range map[string]struct {
		spec guestrpc.ExecSpec
		want result
	}{
		"code":         {sh("echo out; echo err >&2; exit 7"), result{"out\n", "err\n", guestrpc.Exited{Code: 7}, nil}},
		"code 255":     {sh("exit 255"), result{exit: guestrpc.Exited{Code: 255}}},
		"signal":       {sh("kill -9 $$"), result{exit: guestrpc.Exited{Signal: 9}}},
		"null stdin":   {guestrpc.ExecSpec{Argv: []string{"cat"}}, result{}},
		"environment":  {guestrpc.ExecSpec{Argv: []string{"sh", "-c", "echo $A $B $HOME ${TERM-none}"}, Env: []string{"A=1=2", "A=3", "B=", "HOME=/x"}}, result{stdout: "3 /x none\n"}},
		"directory":    {guestrpc.ExecSpec{Argv: []string{"pwd"}, Cwd: "/usr"}, result{stdout: "/usr\n"}},
		"relative":     {guestrpc.ExecSpec{Argv: []string{"./sh", "-c", "echo hi"}, Cwd: "/bin"}, result{stdout: "hi\n"}},
		"session":      {sh("set -- $(cat /proc/$$/stat); [ $5 = $$ ] && [ $6 = $$ ]"), result{}},
		"files":        {sh("ulimit -Sn; for i in 0 1 2; do readlink /proc/$$/fd/$i | cut -c 1-5; done"), result{stdout: "1024\n/dev/\npipe:\npipe:\n"}},
		"signals":      {sh("grep SigBlk /proc/self/status"), result{stdout: "SigBlk:\t0000000000000000\n"}}, // what is ignored depends on who runs the tests
		"blocking":     {sh("case $(sed -n 's/^flags:[[:space:]]*//p' /proc/$$/fdinfo/1) in *4???) echo non-blocking;; *1) echo blocking;; esac"), result{stdout: "blocking\n"}},
		"timeout":      {guestrpc.ExecSpec{Argv: []string{"sh", "-c", "sleep 1000 & sleep 1000"}, TimeoutMs: 50}, result{exit: guestrpc.Exited{Signal: 9, TimedOut: true}}},
		"in time":      {guestrpc.ExecSpec{Argv: []string{"true"}, TimeoutMs: 1 << 31}, result{}},
		"not found":    {guestrpc.ExecSpec{Argv: []string{"nonexistent"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotFound}}},
		"no file":      {guestrpc.ExecSpec{Argv: []string{"/nonexistent"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotFound}}},
		"below a file": {guestrpc.ExecSpec{Argv: []string{"/etc/passwd/x"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotFound}}},
		"interpreter":  {guestrpc.ExecSpec{Argv: []string{"b"}, Env: path}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotFound}}},
		"no shebang":   {guestrpc.ExecSpec{Argv: []string{"a"}, Env: path}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotExecutable}}},
		"mode":         {guestrpc.ExecSpec{Argv: []string{"c"}, Env: path}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotExecutable}}},
		"mode by path": {guestrpc.ExecSpec{Argv: []string{plain}}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotExecutable}}},
		"a directory":  {guestrpc.ExecSpec{Argv: []string{"/"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.NotExecutable}}},
		"nothing":      {guestrpc.ExecSpec{}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"empty":        {guestrpc.ExecSpec{Argv: []string{""}}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"NUL":          {guestrpc.ExecSpec{Argv: []string{"true", "a\x00b"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"no cwd":       {guestrpc.ExecSpec{Argv: []string{"true"}, Cwd: "/nonexistent"}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"cwd a file":   {guestrpc.ExecSpec{Argv: []string{"true"}, Cwd: "/etc/passwd"}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"cwd relative": {guestrpc.ExecSpec{Argv: []string{"true"}, Cwd: "etc"}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"no user":      {guestrpc.ExecSpec{Argv: []string{"true"}, User: "nonexistent"}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"no key":       {guestrpc.ExecSpec{Argv: []string{"true"}, Env: []string{"=x"}}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
		"too long":     {guestrpc.ExecSpec{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, result{failed: &guestrpc.Failed{Reason: guestrpc.BadRequest}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.run(t, tc.spec, nil)
			if tc.want.failed != nil {
				if got.failed == nil || got.failed.Reason != tc.want.failed.Reason || got.failed.Message == "" {
					t.Errorf("%+v (%+v), want %+v", got, got.failed, tc.want.failed)
				}
			} else if got != tc.want {
				t.Errorf("%+v (%+v), want %+v", got, got.failed, tc.want)
			}
		})
	}
}

// TestStdinToStdout sends random bytes through a command.
func TestStdinToStdout(t *testing.T) {
	a := newAgent(t)
	for _, n := range []int{0, 1, 32 << 10, 1<<20 + 1, 8 << 20} {
		data := make([]byte, n)
		rand.Read(data)
		if got := a.run(t, guestrpc.ExecSpec{Argv: []string{"cat"}}, data); got.stdout != string(data) || got.exit != (guestrpc.Exited{}) {
			t.Errorf("of %d bytes, %d came back; %+v", n, len(got.stdout), got.exit)
		}
	}
	if got := a.run(t, sh("exec <&-; echo done"), make([]byte, 1<<20)); got.stdout != "done\n" {
		t.Errorf("a command that closes its stdin: %+v", got)
	}
	if got := a.run(t, sh("head -c 5; exit 3"), make([]byte, 1<<20)); len(got.stdout) != 5 || got.exit.Code != 3 {
		t.Errorf("a command that reads a part of its stdin: %+v", got)
	}
}

// TestBackPressure leaves output unread for longer than the RPC library lets a message wait, and expects none to be lost
// and the command to be held up meanwhile.
func TestBackPressure(t *testing.T) {
	a := newAgent(t)
	done := filepath.Join(t.TempDir(), "done")
	const size = 20 << 20
	x := a.start(t, sh(fmt.Sprintf("head -c %d /dev/zero; touch %s", size, done)))
	if _, err := x.Recv(); err != nil {
		t.Fatal(err)
	}
	const patience = 1 * time.Second // of ttrpc: stream.receive
	timer := time.NewTimer(patience + patience/2)
	<-timer.C
	if _, err := os.Stat(done); err == nil {
		t.Error("the command went on although nobody took its output")
	}
	n := 0
	for {
		ev, err := x.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if o, ok := ev.(guestrpc.Stdout); ok {
			n += len(o)
		}
		if e, ok := ev.(guestrpc.Exited); ok {
			if e != (guestrpc.Exited{}) {
				t.Errorf("%+v", e)
			}
			break
		}
	}
	if n != size {
		t.Errorf("%d of %d bytes came", n, size)
	}
}

// TestBackground checks that a process that keeps a command's pipes does not keep the command, and does not die of that.
func TestBackground(t *testing.T) {
	a := newAgent(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if got := a.run(t, sh("mkfifo "+fifo), nil); got.exit.Code != 0 {
		t.Skip("cannot make a FIFO: ", got.stderr)
	}
	got := a.run(t, sh(fmt.Sprintf("(read x <%s; head -c 300000 /dev/zero; echo $? >%s) & head -c 100000 /dev/zero", fifo, fifo)), nil)
	if len(got.stdout) != 100_000 || got.exit != (guestrpc.Exited{}) {
		t.Errorf("%d bytes, %+v", len(got.stdout), got.exit)
	}
	if got := a.run(t, sh(fmt.Sprintf("echo >%s; cat %s", fifo, fifo)), nil); got.stdout != "0\n" {
		t.Errorf("what was left behind ended with %q", got.stdout)
	}
}

func TestSignal(t *testing.T) {
	a := newAgent(t)
	spec := sh("trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done")
	spec.ID = "it"
	x := a.start(t, spec)
	for {
		ev, err := x.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := ev.(guestrpc.Stdout); ok {
			if got := a.run(t, spec, nil); got.failed == nil || got.failed.Reason != guestrpc.BadRequest {
				t.Errorf("a second command with the same id: %+v", got)
			}
			if err := a.Signal(t.Context(), "it", 10); err != nil {
				t.Fatal(err)
			}
		}
		if e, ok := ev.(guestrpc.Exited); ok {
			if e.Code != 5 && e.Signal != 10 { // the signal goes to the group, and may end sleep first
				t.Errorf("%+v", e)
			}
			return
		}
	}
}

// TestCloseKills checks that a command and what it started end with the connection: the clean-up of newAgent waits for it.
func TestCloseKills(t *testing.T) {
	a := newAgent(t)
	for _, script := range []string{"sleep 1000 & sleep 1000", "cat /dev/zero", "cat"} {
		spec := sh(script)
		spec.Stdin = true
		x := a.start(t, spec)
		if _, err := x.Recv(); err != nil {
			t.Fatal(err)
		}
		x.Close()
		for err := error(nil); err == nil; { // what had come before
			_, err = x.Recv()
		}
	}
}

func TestParallel(t *testing.T) {
	a := newAgent(t)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			got := a.run(t, sh(fmt.Sprintf("cat; echo %d >&2; exit %d", i, i%100)), []byte("in"))
			if got.stdout != "in" || got.stderr != fmt.Sprintln(i) || got.exit.Code != uint32(i%100) {
				t.Errorf("%d: %+v", i, got)
			}
		})
	}
	all.Wait()
}
