package stress

import (
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A VMM, a socket and a descriptor that stay are found, whoever was to end them.
func TestRunFindsWhatTheHostHas(t *testing.T) {
	f := newFake(t)
	id := f.id(2) // of the first that counts
	var cmd *exec.Cmd
	f.starts = func(name string) error {
		if !strings.HasSuffix(name, "-0") {
			return nil
		}
		cmd = exec.Command("cat", "-", "/nonexistent/agentkernel-"+id)
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), id))
		if err != nil {
			return err
		}
		t.Cleanup(func() {
			l.Close()
			in.Close()
			_ = cmd.Wait()
		})
		return cmd.Start()
	}
	r := f.run(t, t.Context(), 1)
	for _, want := range []string{"process ", "socket /", " descriptors of the daemon"} {
		if !slices.ContainsFunc(r.Left, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("no %q in %q", want, r.Left)
		}
	}
	if r.OK() || len(r.Left) != 3 {
		t.Errorf("%+v", r)
	}
}
