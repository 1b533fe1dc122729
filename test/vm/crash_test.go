package vm

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The VMM dies under a running command: the exec ends with an error at once, the sandbox is failed, and can be started
// again with what its disk had.
func TestVMMKilledDuringExec(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.sh("a", "echo kept > /root/file; sync")
	cmd := h.command("exec", "a", "sh", "-c", "echo begun; sleep 1000")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	kill(t, *h.inspect("a").Pid)
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 125 || !strings.Contains(errOut.String(), "killed") {
		t.Errorf("the exec ended with exit code %d and said %q", cmd.ProcessState.ExitCode(), errOut.String())
	}
	h.expectState("a", "failed")
	h.ok("start", "a")
	if got := h.sh("a", "cat /root/file"); got != "kept" {
		t.Errorf("the disk says %q", got)
	}
}

// The daemon dies at some point of a command; whatever comes next finds a state that is true, and in the end nothing is
// left over.
func TestDaemonKilled(t *testing.T) {
	t.Run("while idle", func(t *testing.T) {
		h := newHome(t)
		h.started("a")
		h.sh("a", "echo here > /tmp/memory")
		pid := *h.inspect("a").Pid
		for range 3 {
			h.killDaemon()
			if got := h.sh("a", "cat /tmp/memory"); got != "here" {
				t.Errorf("after the adoption the guest says %q", got)
			}
		}
		if sb := h.inspect("a"); *sb.Pid != pid || sb.State != "running" {
			t.Errorf("adopted as %+v", sb)
		}
		h.ok("daemon", "stop")
		h.ok("exec", "a", "true")
		h.killDaemon()
		kill(t, pid) // no daemon sees it
		h.expectState("a", "failed")
		h.ok("start", "a")
	})
	// The commands are cut after a number of events that the daemon has logged or files that it has made, not after a time:
	// the daemon is killed as soon as the path appears.
	for _, tc := range []struct {
		command string
		when    string // globs below the home, of one engine or the other
	}{
		{"create", "state/sandboxes/.new-*"},
		{"create", "state/sandboxes/.new-*/upper.ext4"},
		{"start", "run/????????????????"},
		{"start", "run/????????????????/*"},
		{"start", "run/????????????????/*.sock run/????????????????/sockets/*.sock"},
	} {
		t.Run("during "+tc.command+" at "+filepath.Base(tc.when), func(t *testing.T) {
			h := newHome(t)
			h.ok("list")
			pid := h.daemonPID()
			args := []string{"create", "a", "--memory", "128M"}
			if tc.command == "start" {
				h.create("a")
				args = []string{"start", "a"}
			}
			cmd := h.command(args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { _ = cmd.Wait(); close(done) }()
			h.waitFor(tc.when, func() bool {
				var found []string
				for glob := range strings.FieldsSeq(tc.when) {
					paths, _ := filepath.Glob(filepath.Join(h.dir, glob))
					found = append(found, paths...)
				}
				select {
				case <-done:
					return true // it was faster than this test: the kill comes after it
				default:
					return len(found) > 0
				}
			})
			kill(t, pid)
			<-done
			if tc.command == "create" {
				if h.run("inspect", "a").code != 0 { // it was cut before it was there
					h.expectNoSandboxFiles()
					h.create("a")
				}
			}
			h.waitForState("a", "created", "failed", "running", "stopped")
			h.ok("start", "a")
			h.ok("exec", "a", "true")
		})
	}
	t.Run("during exec", func(t *testing.T) {
		h := newHome(t)
		h.started("a")
		cmd := h.command("exec", "a", "sh", "-c", "echo begun; exec sleep 1234")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
			t.Fatal(err)
		}
		h.killDaemon()
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 125 {
			t.Errorf("the exec ended with exit code %d", code)
		}
		h.waitFor("the end of the command", func() bool { return h.sh("a", "ps | grep -c '[s]leep 1234'; true") == "0" })
	})
	t.Run("during stop", func(t *testing.T) {
		h := newHome(t)
		h.started("a")
		// A process that does not end by SIGTERM keeps the sandbox stopping.
		h.sh("a", `sh -c 'trap "" TERM; while :; do sleep 1000; done' >/dev/null 2>&1 & echo ok > /root/file; sync`)
		cmd := h.command("stop", "--timeout", "3s", "a")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h.waitForState("a", "stopping")
		h.killDaemon()
		_ = cmd.Wait()
		h.waitForState("a", "stopped")
		h.ok("start", "a")
		if got := h.sh("a", "cat /root/file"); got != "ok" {
			t.Errorf("the disk says %q", got)
		}
	})
}

func (h *home) expectNoSandboxFiles() {
	h.t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, "state", "sandboxes"))
	if err != nil || len(entries) > 0 {
		h.t.Error(entries, err)
	}
}

// A record that cannot be read is named and left alone; the others work.
func TestCorruptRecord(t *testing.T) {
	h := newHome(t)
	h.create("bad")
	h.create("newer")
	h.create("good")
	h.ok("daemon", "stop")
	paths := map[string]string{"bad": `{"version":1,"id":"`, "newer": `{"version":99}`}
	for name, content := range paths {
		path := h.recordOf(name)
		paths[name] = path
		original, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() { // for the clean-up at the end of the test
			if data, _ := os.ReadFile(path); string(data) != content {
				t.Errorf("%s was changed", path)
			}
			h.run("daemon", "stop") // the first of these ends it
			if err := os.WriteFile(path, original, 0o600); err != nil {
				t.Error(err)
			}
		}()
	}
	r := h.run("list")
	if r.code != 0 || !strings.Contains(r.stdout, "good") || strings.Contains(r.stdout, "bad") {
		t.Errorf("list: %+v", r)
	}
	for _, path := range paths {
		if !strings.Contains(r.stderr, path) {
			t.Errorf("list does not name %s:\n%s", path, r.stderr)
		}
	}
	h.ok("start", "good")
	h.ok("exec", "good", "true")
}

// recordOf finds the record of a sandbox by its name, without the daemon.
func (h *home) recordOf(name string) string {
	h.t.Helper()
	files, _ := filepath.Glob(filepath.Join(h.dir, "state/sandboxes/*/sandbox.json"))
	for _, f := range files {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), fmt.Sprintf("%q: %q", "name", name)) {
			return f
		}
	}
	h.t.Fatalf("no record of %s", name)
	return ""
}

// The disk is full: create fails, says so, and leaves nothing behind.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", state).CombinedOutput(); err != nil {
		t.Skipf("a small file system cannot be mounted here (needs root): %s", out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	h := newHomeIn(t, dir)
	project := t.TempDir()
	noise := make([]byte, 8<<20) // holes would take no room
	_, _ = rand.Read(noise)
	if err := os.WriteFile(filepath.Join(project, "big"), noise, 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails(125, []string{"no space left"}, "create", "a", "--project", project)
	h.expectNoSandboxFiles()
	h.create("b")
	// Fill up the rest: the state of a sandbox cannot be recorded any more, and that is said too.
	filler, err := os.Create(filepath.Join(state, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(filler, zeros{})
	filler.Close()
	if err == nil {
		t.Fatal("the disk is not full")
	}
	h.fails(125, []string{"no space left"}, "start", "b")
	h.fails(125, []string{"no space left"}, "create", "c")
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	h.ok("start", "b")
	h.ok("exec", "b", "true")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
