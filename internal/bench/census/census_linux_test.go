package census

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper runs a program with these arguments until the end of the test.
func sleeper(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("cat", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return cmd
}

func TestProcesses(t *testing.T) {
	const id, other = "0123456789abcdef", "fedcba9876543210"
	mine := sleeper(t, "-", "/nonexistent/guest=agentkernel-"+other+"/agentkernel-"+id+",debug-threads=off")
	sleeper(t, "-", "agentkernel-"+id+"0") // another id that begins like it
	found, err := Processes([]string{id})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].PID != mine.Process.Pid || found[0].Sandbox != id || !strings.HasPrefix(found[0].Command, "cat - /nonexistent/guest=") {
		t.Errorf("found %+v, want process %d only", found, mine.Process.Pid)
	}
	if a, err := ActivityOf(mine.Process.Pid); err != nil || a.Switches == 0 || a.CPU <= 0 || a.CPU > time.Minute {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := ActivityOf(1<<22 + 1); !errors.Is(err, os.ErrNotExist) {
		t.Error("no process:", err)
	}
}

func TestZombies(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Waits for its end, and leaves it as it is.
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(zombies(t), cmd.Process.Pid) {
		t.Error("an ended child is no zombie")
	}
	_ = cmd.Wait()
	if slices.Contains(zombies(t), cmd.Process.Pid) {
		t.Error("a child that was waited for is a zombie")
	}
}

func zombies(t *testing.T) []int {
	t.Helper()
	list, err := Zombies(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSocketsAndDescriptors(t *testing.T) {
	before, err := Descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a b.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := Descriptors(os.Getpid()); err != nil || after <= before {
		t.Errorf("%d descriptors, %d before the socket, %v", after, before, err)
	}
	if got, err := Sockets([]string{"no such word", path[1:]}); err != nil || len(got) != 1 || got[0] != path {
		t.Errorf("%q, %v, want %q", got, err, path)
	}
	l.Close()
	if got, err := Sockets([]string{path}); err != nil || len(got) != 0 {
		t.Errorf("after its end: %q, %v", got, err)
	}
}
