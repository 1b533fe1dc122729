package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// runsc measures gVisor's runtime by itself, without docker and without a network, as agentkernel's sandboxes have none.
type runsc struct {
	dir string // of its state and of the container's bundle
	id  string // of the container that runs; empty before it does
}

func newRunsc(context.Context) (*runsc, error) {
	if _, err := exec.LookPath("runsc"); err != nil {
		return nil, sandbox.Errorf(sandbox.Unavailable, "install gVisor's runsc", "compare with runsc: %w", err)
	}
	dir, err := os.MkdirTemp("", "agentkernel-runsc-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for runsc: %w", err)
	}
	r := &runsc{dir: dir}
	if err := r.bundle(); err != nil {
		return nil, errors.Join(fmt.Errorf("make a bundle for runsc: %w", err), os.RemoveAll(dir))
	}
	return r, nil
}

// bundle is busybox with the smallest config.json of the OCI runtime specification.
func (r *runsc) bundle() error {
	bin := filepath.Join(r.dir, "bundle", "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"true", "sleep"} {
		if err := copyProgram(busybox, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	config, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process":    map[string]any{"args": []string{"/bin/sleep", "86400"}, "cwd": "/", "user": map[string]int{"uid": 0, "gid": 0}},
		"root":       map[string]any{"path": "rootfs", "readonly": true},
		"mounts":     []map[string]any{{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux":      map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, "bundle", "config.json"), config, 0o600)
}

func (r *runsc) Name() string { return "runsc" }

func (r *runsc) args(args ...string) []string {
	return append([]string{"--root", filepath.Join(r.dir, "state"), "--network", "none", "--ignore-cgroups"}, args...)
}

func (r *runsc) Run(ctx context.Context) (time.Duration, error) {
	return timeCommand(ctx, "runsc", r.args("do", "/bin/true")...)
}

func (r *runsc) Exec(ctx context.Context) (time.Duration, error) {
	if r.id == "" {
		id := unique()
		// It must not hold our pipes: the container outlives the command.
		cmd := exec.CommandContext(ctx, "runsc", r.args("run", "--detach", "--bundle", filepath.Join(r.dir, "bundle"), id)...)
		log, err := os.Create(filepath.Join(r.dir, "run.log"))
		if err != nil {
			return 0, err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(log.Name())
			return 0, fmt.Errorf("runsc run: %w: %.500s", err, bytes.TrimSpace(said))
		}
		r.id = id
	}
	return timeCommand(ctx, "runsc", r.args("exec", r.id, "/bin/true")...)
}

func (r *runsc) Close() error {
	ctx := context.Background() // also after Ctrl-C
	var errs []error
	if r.id != "" {
		_, err := timeCommand(ctx, "runsc", r.args("delete", "--force", r.id)...)
		errs = append(errs, err)
	}
	// It keeps an empty network namespace mounted on this file.
	if netns := filepath.Join(r.dir, "state", "null-netns"); exists(netns) {
		_, err := timeCommand(ctx, "umount", netns)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func copyProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
