package vm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSmoke is what every combination of host, engine and guest must do. make test-arm64 runs it on arm64 guests.
func TestSmoke(t *testing.T) {
	h := newHome(t)
	project := t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "hello.txt"), []byte("hello from the host\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	h.started("smoke", "--project", project, "--agent", "claude")

	t.Run("inside", func(t *testing.T) {
		if release := h.sh("smoke", "uname -r"); !strings.HasSuffix(release, "-agentkernel") {
			t.Errorf("uname -r is %q", release)
		}
		if exe := h.sh("smoke", "readlink /proc/1/exe"); exe != "/init" {
			t.Errorf("PID 1 is %q, not the guest agent", exe)
		}
		if arch := h.sh("smoke", "uname -m"); *guestArch != "" && arch != *guestArch {
			t.Errorf("uname -m is %q", arch)
		}
		if got := h.sh("smoke", "cat /workspace/hello.txt"); got != "hello from the host" {
			t.Errorf("the project's file says %q", got)
		}
		if ignored := h.ok("exec", "smoke", "grep", "SigIgn", "/proc/self/status"); ignored != "SigIgn:\t0000000000000000\n" {
			t.Errorf("a command starts with ignored signals: %s", ignored)
		}
		if got := h.sh("smoke", "hostname"); got != "smoke" {
			t.Errorf("hostname is %q", got)
		}
		h.sh("smoke", "echo changed > /workspace/hello.txt && echo new > /workspace/new.txt")
		if data, _ := os.ReadFile(filepath.Join(project, "hello.txt")); string(data) != "hello from the host\n" {
			t.Errorf("the host's file was changed to %q", data)
		}
		mounts := h.sh("smoke", "cut -d' ' -f2,3 /proc/mounts") + "\n"
		for _, mount := range []string{"/ overlay", "/proc proc", "/sys sysfs", "/dev devtmpfs", "/dev/pts devpts", "/dev/shm tmpfs", "/sys/fs/cgroup cgroup2", "/tmp tmpfs", "/workspace overlay"} {
			if !strings.Contains(mounts, mount+"\n") {
				t.Errorf("%q is not mounted", mount)
			}
		}
	})
	t.Run("exit codes", func(t *testing.T) {
		for _, tc := range []struct {
			code int
			argv []string
		}{
			{0, []string{"true"}},
			{7, []string{"sh", "-c", "exit 7"}},
			{255, []string{"sh", "-c", "exit 255"}},
			{137, []string{"sh", "-c", "kill -9 $$"}},
			{143, []string{"sh", "-c", "kill $$"}},
			{127, []string{"no-such-command"}},
			{126, []string{"/etc/passwd"}},
			{126, []string{"/etc"}},
		} {
			if r := h.run(append([]string{"exec", "smoke"}, tc.argv...)...); r.code != tc.code {
				t.Errorf("%q: exit code %d, want %d\n%s", tc.argv, r.code, tc.code, r.stderr)
			}
		}
		h.fails(125, []string{"nobody-here"}, "exec", "--user", "nobody-here", "smoke", "true")
		h.fails(125, []string{"/no/such/dir"}, "exec", "--workdir", "/no/such/dir", "smoke", "true")
	})
	t.Run("streams", func(t *testing.T) {
		r := h.run("exec", "smoke", "sh", "-c", "echo out; echo err >&2")
		if r.stdout != "out\n" || r.stderr != "err\n" {
			t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
		}
		if got := h.ok("exec", "smoke", "printf", "%s|", "a b", "", "$HOME", "-x", "--", "--json"); got != "a b||$HOME|-x|--|--json|" {
			t.Errorf("argv arrived as %q", got)
		}
		if got := h.ok("exec", "-e", "A=1 2", "-w", "/tmp", "-u", "agent", "smoke", "sh", "-c", `echo "$A $PWD $(id -un) $HOME"`); got != "1 2 /tmp agent /home/agent\n" {
			t.Errorf("env, cwd and user arrived as %q", got)
		}
		if got := h.ok("exec", "smoke", "sh", "-c", "cat | wc -c"); strings.TrimSpace(got) != "0" {
			t.Errorf("without -i, stdin has %q bytes", got)
		}
	})
	t.Run("64 MiB through stdin and stdout", func(t *testing.T) {
		size := 64 << 20
		if *guestArch != "" {
			size = 4 << 20 // emulation of another architecture is slow
		}
		data := make([]byte, size)
		_, _ = rand.Read(data)
		cmd := h.command("exec", "-i", "smoke", "sh", "-c", "tee /root/data | sha256sum | cut -c1-64 >/root/sum; cat /root/data; rm /root/data")
		cmd.Stdin = bytes.NewReader(data)
		r := h.wait(cmd)
		want := sha256.Sum256(data)
		if r.code != 0 || sha256.Sum256([]byte(r.stdout)) != want {
			t.Errorf("exit code %d, %d bytes came back, checksum differs: %v; %s", r.code, len(r.stdout), sha256.Sum256([]byte(r.stdout)) != want, r.stderr)
		}
		if sum := h.sh("smoke", "cat /root/sum"); sum != hex.EncodeToString(want[:]) {
			t.Errorf("the guest got bytes with checksum %s", sum)
		}
	})
	t.Run("stop, start, rm", func(t *testing.T) {
		h.sh("smoke", "echo kept > /root/file")
		h.ok("stop", "smoke")
		h.expectState("smoke", "stopped")
		h.fails(125, []string{"stopped", "agentkernel start smoke"}, "exec", "smoke", "true")
		h.ok("start", "smoke")
		if got := h.sh("smoke", "cat /root/file /workspace/new.txt"); got != "kept\nnew" {
			t.Errorf("the disk says %q", got)
		}
		sb := h.inspect("smoke")
		if sb.Stages == nil || len(*sb.Stages) < 5 || sb.Agent == nil || *sb.Agent != "claude" {
			t.Errorf("inspect: %+v", sb)
		}
		h.ok("stop", "smoke")
		h.ok("rm", "smoke")
	})
}
