package process

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, script string, args ...string) (p *Process, output *bufio.Reader) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	p, err = Start(Spec{Path: "/bin/sh", Args: append([]string{"sh", "-c", script}, args...), Env: []string{"A=b", "PATH=/usr/bin:/bin"}, Dir: "/", Output: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err == nil {
			p.Release()
		}
	})
	return p, bufio.NewReader(r)
}

func wait(t *testing.T, p *Process) Status {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(time.Minute):
		t.Fatal("the process does not end")
		return Status{}
	}
}

func TestExit(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   Status
	}{
		{"exit 0", Status{}},
		{"exit 7", Status{Code: 7}},
		{"kill -9 $$", Status{Code: -1, Signal: "killed"}},
	} {
		p, _ := start(t, tc.script)
		if got := wait(t, p); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.script, got, tc.want)
		}
		if err := syscall.Kill(p.Identity().PID, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s: a zombie is left: %v", tc.script, err)
		}
		if err := p.Kill(); err != nil {
			t.Errorf("%s: kill after the end: %v", tc.script, err)
		}
	}
}

func TestErrorsApart(t *testing.T) {
	var ends [2]struct{ r, w *os.File }
	for i := range ends {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		ends[i].r, ends[i].w = r, w
	}
	p, err := Start(Spec{Path: "/bin/sh", Args: []string{"sh", "-c", "echo out; echo err >&2"}, Dir: "/", Output: ends[0].w, Errors: ends[1].w})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	for i, want := range []string{"out\n", "err\n"} {
		ends[i].w.Close()
		if got, err := io.ReadAll(ends[i].r); string(got) != want || err != nil {
			t.Errorf("stream %d said %q, %v; want %q", i+1, got, err, want)
		}
	}
}

func TestStartFails(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := Start(Spec{Path: "/nonexistent", Args: []string{"x"}, Output: null}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want that it does not exist", err)
	}
}

// A process is cut off from us: its own session, no terminal, no stdin, only its own descriptors and environment.
func TestStartIsolates(t *testing.T) {
	// A descriptor that we inherited ourselves has no close-on-exec flag.
	inherited, err := syscall.Open(os.DevNull, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	p, out := start(t, `readlink /proc/self/fd/0; ls /proc/$$/fd | tr '\n' ' '; echo; cut -d' ' -f6 /proc/$$/stat; echo $$; env | sort | tr '\n' ' '; pwd`)
	var lines []string
	for {
		line, err := out.ReadString('\n')
		if err != nil {
			break
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	wait(t, p)
	if len(lines) != 5 {
		t.Skipf("this host has no /proc to ask: %q", lines)
	}
	if lines[0] != "/dev/null" {
		t.Errorf("stdin is %s", lines[0])
	}
	if slot := strconv.Itoa(inherited); strings.Contains(" "+lines[1]+" ", " "+slot+" ") {
		t.Errorf("descriptor %s was inherited: %s", slot, lines[1])
	}
	if lines[2] != lines[3] {
		t.Errorf("its session is %s, want its own, %s", lines[2], lines[3])
	}
	if !strings.Contains(lines[4], "A=b") || strings.Contains(lines[4], "HOME=") || !strings.HasSuffix(lines[4], "/") {
		t.Errorf("environment and directory: %s", lines[4])
	}
}

func TestFilesAreHandedOver(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	p, err := Start(Spec{Path: "/bin/sh", Args: []string{"sh", "-c", "echo hello >&3"}, Output: null, Files: []*os.File{w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	if line, err := bufio.NewReader(r).ReadString('\n'); line != "hello\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestKill(t *testing.T) {
	p, out := start(t, "trap '' TERM INT HUP; echo ready; kill -STOP $$")
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got.Signal != "killed" {
		t.Errorf("%+v, want that it was killed", got)
	}
}

// TestOpen adopts a process that is not our child: its parent is a shell that has ended.
// A stopped process does nothing until it is continued; another one of ours can do that, and it can be killed.
func TestStop(t *testing.T) {
	p, out := start(t, "while :; do echo x; done")
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if is, err := p.Stopped(); !is || err != nil {
			t.Errorf("it runs: %v", err)
		}
		other, err := Open(p.Identity())
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Continue(); err != nil {
			t.Error(err)
		}
		other.Release()
		if is, err := p.Stopped(); is || err != nil {
			t.Errorf("it is stopped: %v", err)
		}
		for range 20_000 { // more than a pipe holds
			if _, err := out.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if st := wait(t, p); st.Signal != "killed" {
		t.Errorf("%+v, want that it was killed", st)
	}
	if err := errors.Join(p.Stop(t.Context()), p.Continue()); err != nil {
		t.Errorf("after its end: %v", err)
	}
}

func TestOpen(t *testing.T) {
	out, err := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	began, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	id := Identity{PID: pid, StartTime: began, BootID: boot}
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, p); got.Code != -1 {
		t.Errorf("%+v, want that its code is not known", got)
	}
	if _, err := Open(id); !errors.Is(err, ErrGone) {
		t.Errorf("%v, want that it is gone", err)
	}
}

func TestOpenRefusesAnother(t *testing.T) {
	p, _ := start(t, "exec sleep 1000")
	good := p.Identity()
	for name, change := range map[string]func(*Identity){
		"another boot":       func(i *Identity) { i.BootID = "x" },
		"another start time": func(i *Identity) { i.StartTime++ },
		"no process":         func(i *Identity) { i.PID = 1<<22 + 1 },
		"zero":               func(i *Identity) { i.PID = 0 },
		"negative":           func(i *Identity) { i.PID = -1 },
	} {
		id := good
		change(&id)
		if _, err := Open(id); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want that it is gone", name, err)
		}
	}
	second, err := Open(good)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
	second.Release()
	select {
	case <-p.Done():
		t.Error("Release ended the process")
	default:
	}
}

func TestFindByArg(t *testing.T) {
	const marker = "marker-of-TestFindByArg,a=b"
	p, out := start(t, "echo ready; kill -STOP $$", marker)
	start(t, "kill -STOP $$", marker+"x", "y"+marker)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	found, err := FindByArg(marker)
	if err != nil || len(found) != 1 || found[0] != p.Identity() {
		t.Errorf("%+v, %v; want %+v alone", found, err, p.Identity())
	}
}
