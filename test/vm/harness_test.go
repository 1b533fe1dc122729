// Package vm tests the built binary (make build) with real microVMs. It needs a kernel and the base image (make ready).
//
// Every test has an AGENTKERNEL_HOME of its own, with the machine's kernels and images, and fails when a process, a socket
// or a sandbox's directory is left over at its end.
package vm

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/pkg/client"
)

var engineAsked = flag.String("engine", "", "engine of the microVMs: firecracker or qemu (default: what would be chosen)")

var guestArch = flag.String("arch", "", "architecture of the guests: x86_64 or aarch64 (default the host's)")

var restores = flag.Int("restores", 50, "how many microVMs are restored at once, for machines that are slow")

// patience bounds what a test waits for. It is no expectation: a slow machine may take most of it.
const patience = 3 * time.Minute

var (
	binary   string // absolute path of agentkernel
	hostData string // the machine's data directory
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == confine.Command { // a test that uses an engine without a daemon has started itself
		os.Exit(confine.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	flag.Parse()
	os.Exit(func() int {
		var err error
		if binary, err = filepath.Abs("../../bin/agentkernel"); err == nil {
			_, err = os.Stat(binary)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "build it first with make ready:", err)
			return 1
		}
		dirs, err := paths.Find(os.Getenv)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		hostData = dirs.Data
		return m.Run()
	}())
}

// home is one AGENTKERNEL_HOME.
type home struct {
	t   *testing.T
	dir string
}

func newHome(t *testing.T) *home {
	t.Helper()
	return newHomeIn(t, t.TempDir())
}

func newHomeIn(t *testing.T, dir string) *home {
	t.Helper()
	h := &home{t: t, dir: dir}
	if err := os.Symlink(hostData, filepath.Join(h.dir, "data")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// close removes all sandboxes, ends the daemon, and looks for what is left over.
func (h *home) close() {
	list := h.list()
	for _, sb := range list.Sandboxes {
		h.ok("rm", "--force", sb.Name)
	}
	h.ok("daemon", "stop")
	h.expectNothingLeft()
	if h.t.Failed() {
		if log, err := os.ReadFile(filepath.Join(h.dir, "state", "daemon.log")); err == nil {
			h.t.Logf("daemon.log:\n%s", tail(log, 8000))
		}
	}
}

// expectNothingLeft fails when a process of this home runs, or a sandbox's file is there.
func (h *home) expectNothingLeft() {
	h.t.Helper()
	for _, p := range h.processes() {
		h.t.Errorf("process left over: %s", p)
	}
	for _, dir := range []string{"state/sandboxes", "run"} {
		entries, err := os.ReadDir(filepath.Join(h.dir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			h.t.Error(err)
		}
		for _, e := range entries {
			if e.Name() != "start.lock" {
				h.t.Errorf("left over: %s/%s", dir, e.Name())
			}
		}
	}
}

// processes lists the processes that name this home in their arguments or environment, work in it, or see a part of it in a root
// directory of their own, but for the zombies.
func (h *home) processes() []string {
	var found []string
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(args) == 0 {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		// A mount's source is named from the root of its file system, which may be mounted anywhere.
		bound := filepath.Join("/", filepath.Base(filepath.Dir(h.dir)), filepath.Base(h.dir), "run") + "/"
		if strings.HasPrefix(cwd, h.dir+"/run/") || bytes.Contains(mounts, []byte(bound)) || bytes.Contains(args, []byte(h.dir+"/")) || bytes.Contains(environ, []byte("AGENTKERNEL_HOME="+h.dir+"\x00")) {
			found = append(found, filepath.Base(dir)+" "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// vmms is the number of VMMs that run, of whatever engine: each has the id of its sandbox in an argument.
func (h *home) vmms() int {
	h.t.Helper()
	n := 0
	for _, p := range h.processes() {
		if strings.Contains(p, "agentkernel-") && !strings.Contains(p, binary+" ") {
			n++
		}
	}
	return n
}

func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "AGENTKERNEL_HOME="+h.dir)
	cmd.Dir = h.t.TempDir()
	return cmd
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// run runs agentkernel and returns how it ended.
func (h *home) run(args ...string) result {
	h.t.Helper()
	return h.wait(h.command(args...))
}

func (h *home) wait(cmd *exec.Cmd) result {
	h.t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	timer := time.AfterFunc(patience, func() {
		h.t.Errorf("%v still runs after %v", cmd.Args[1:], patience)
		_ = cmd.Process.Kill()
	})
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// ok runs agentkernel, which must end with exit code 0, and returns its stdout.
func (h *home) ok(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	if r.code != 0 {
		h.t.Fatalf("agentkernel %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs agentkernel, which must end with this exit code and say all of these on stderr.
func (h *home) fails(code int, says []string, args ...string) result {
	h.t.Helper()
	r := h.run(args...)
	if r.code != code {
		h.t.Errorf("agentkernel %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	for _, s := range says {
		if !strings.Contains(r.stderr, s) {
			h.t.Errorf("agentkernel %s: stderr lacks %q:\n%s", strings.Join(args, " "), s, r.stderr)
		}
	}
	return r
}

// create makes a sandbox with little memory.
func (h *home) create(name string, args ...string) {
	h.t.Helper()
	args = append([]string{"create", name, "--memory", "128M"}, args...)
	if *guestArch != "" {
		args = append(args, "--arch", *guestArch)
	}
	if *engineAsked != "" {
		args = append(args, "--engine", *engineAsked)
	}
	h.ok(args...)
}

// started makes a sandbox and starts it.
func (h *home) started(name string, args ...string) {
	h.t.Helper()
	h.create(name, args...)
	h.ok("start", name)
}

// sh runs a shell command in a sandbox and returns its trimmed stdout.
func (h *home) sh(name, script string) string {
	h.t.Helper()
	return strings.TrimSpace(h.ok("exec", name, "sh", "-c", script))
}

func (h *home) inspect(name string) client.Sandbox {
	h.t.Helper()
	var list []client.Sandbox
	if err := json.Unmarshal([]byte(h.ok("inspect", "--json", name)), &list); err != nil || len(list) != 1 {
		h.t.Fatal(err, len(list))
	}
	return list[0]
}

func (h *home) list() client.SandboxList {
	h.t.Helper()
	var list client.SandboxList
	if err := json.Unmarshal([]byte(h.ok("list", "--json")), &list); err != nil {
		h.t.Fatal(err)
	}
	return list
}

func (h *home) expectState(name, want string) {
	h.t.Helper()
	if sb := h.inspect(name); string(sb.State) != want {
		h.t.Errorf("%s is %s, want %s", name, sb.State, want)
	}
}

// daemonPID is the process id of this home's daemon.
func (h *home) daemonPID() int {
	h.t.Helper()
	var v client.Version
	if err := json.Unmarshal([]byte(h.ok("daemon", "status", "--json")), &v); err != nil {
		h.t.Fatal(err)
	}
	return v.Pid
}

func (h *home) killDaemon() {
	h.t.Helper()
	kill(h.t, h.daemonPID())
}

// kill ends a process with SIGKILL and waits until it is gone.
func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := pidfdOpen(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitReadable(t, fd)
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
