package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// busybox is the static one of Debian's busybox-static.
const busybox = "/bin/busybox"

// docker measures a docker daemon.
type docker struct {
	tag string // of the image
	id  string // of the container that runs; empty before it does
}

func newDocker(ctx context.Context) (*docker, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Unavailable, "apt-get install busybox-static", "make a container image: %w", err)
	}
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	for _, name := range []string{"bin/true", "bin/sleep"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(program))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(program); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	d := &docker{tag: unique()}
	if _, err := d.command(ctx, &image, "import", "-", d.tag); err != nil {
		return nil, sandbox.Errorf(sandbox.Unavailable, "is dockerd running?", "%w", err)
	}
	return d, nil
}

func (d *docker) Name() string { return "docker" }

func (d *docker) Run(ctx context.Context) (time.Duration, error) {
	return timeCommand(ctx, "docker", "run", "--rm", d.tag, "/bin/true")
}

// container starts the one that commands run in.
func (d *docker) container(ctx context.Context) (string, error) {
	if d.id == "" {
		id, err := d.command(ctx, &bytes.Buffer{}, "run", "-d", "--network", "none", d.tag, "/bin/sleep", "86400")
		if err != nil {
			return "", err
		}
		d.id = id
	}
	return d.id, nil
}

func (d *docker) Exec(ctx context.Context) (time.Duration, error) {
	id, err := d.container(ctx)
	if err != nil {
		return 0, err
	}
	return timeCommand(ctx, "docker", "exec", id, "/bin/true")
}

func (d *docker) Close() error {
	ctx := context.Background() // also after Ctrl-C
	var err error
	if d.id != "" {
		_, err = d.command(ctx, &bytes.Buffer{}, "rm", "-f", d.id)
	}
	_, rmiErr := d.command(ctx, &bytes.Buffer{}, "rmi", "-f", d.tag)
	return errors.Join(err, rmiErr)
}

// command runs a docker command and returns what it printed.
func (d *docker) command(ctx context.Context, stdin *bytes.Buffer, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
