// Package dockerfile has a Dockerfile built by whichever builder of container images this host has, and gets the result as an
// archive. What a Dockerfile runs, it runs there: in containers on this host, and not in a microVM.
package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Builders are the programs that are looked for, in this order.
var Builders = []string{"buildctl", "docker", "podman", "buildah"}

// Options of Build.
type Options struct {
	Context    string // absolute path of the directory that COPY copies from
	Dockerfile string // absolute path
	Args       []string
	Arch       string    // as container images call it: amd64, arm64
	Dir        string    // where the archive is written; it stays the caller's
	Output     io.Writer // what the builder says
}

// Builder is a program that builds.
type Builder struct {
	Name string
	path string
}

// Find returns the first builder that works; or the one that is asked for, unless asked is empty.
func Find(ctx context.Context, asked string) (Builder, error) {
	var reasons []string
	for _, name := range Builders {
		if asked != "" && asked != name {
			continue
		}
		b, err := find(ctx, name)
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return Builder{}, context.Cause(ctx)
		}
		reasons = append(reasons, name+": "+err.Error())
	}
	if len(reasons) == 0 {
		return Builder{}, sandbox.Errorf(sandbox.Invalid, "choose one of "+strings.Join(Builders, ", "), "unknown builder %q", asked)
	}
	return Builder{}, sandbox.Errorf(sandbox.Unavailable, "install one: apt-get install docker.io (and start it), podman, or buildah",
		"nothing on this host can build a Dockerfile (%s)", strings.Join(reasons, "; "))
}

// alive is how a builder that has a server is asked whether that is there.
var alive = map[string][]string{
	"buildctl": {"debug", "workers"},
	"docker":   {"version", "--format", "{{.Server.Version}}"},
}

func find(ctx context.Context, name string) (Builder, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return Builder{}, errors.New("not installed")
	}
	if args := alive[name]; args != nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
			text := strings.Join(strings.Fields(string(out)), " ")
			return Builder{}, fmt.Errorf("its server does not answer: %w: %.200s", err, text)
		}
	}
	return Builder{Name: name, path: path}, nil
}

// Build builds an image and returns the path of an archive of it below o.Dir, as docker save writes it or as an OCI layout.
func (b Builder) Build(ctx context.Context, o Options) (archive string, err error) {
	archive = filepath.Join(o.Dir, "image.tar")
	platform := "linux/" + o.Arch
	if b.Name == "buildctl" {
		args := []string{"build", "--frontend", "dockerfile.v0", "--local", "context=" + o.Context, "--local", "dockerfile=" + filepath.Dir(o.Dockerfile),
			"--opt", "filename=" + filepath.Base(o.Dockerfile), "--opt", "platform=" + platform, "--output", "type=oci,dest=" + archive}
		for _, a := range o.Args {
			args = append(args, "--opt", "build-arg:"+a)
		}
		return archive, b.run(ctx, o, args...)
	}
	id := filepath.Join(o.Dir, "id")
	args := []string{"build", "--platform", platform, "--iidfile", id, "-f", o.Dockerfile}
	for _, a := range o.Args {
		args = append(args, "--build-arg", a)
	}
	if err := b.run(ctx, o, append(args, o.Context)...); err != nil {
		return "", err
	}
	data, err := os.ReadFile(id)
	if err != nil {
		return "", fmt.Errorf("find out what %s has built: %w", b.Name, err)
	}
	image := strings.TrimSpace(string(data))
	switch b.Name {
	case "buildah":
		err = b.run(ctx, o, "push", image, "oci-archive:"+archive)
	case "podman":
		err = b.run(ctx, o, "save", "--format", "oci-archive", "-o", archive, image)
	default:
		err = b.run(ctx, o, "save", "-o", archive, image)
	}
	return archive, err
}

func (b Builder) run(ctx context.Context, o Options, args ...string) error {
	cmd := exec.CommandContext(ctx, b.path, args...)
	cmd.Dir = o.Dir
	cmd.Stdout, cmd.Stderr = o.Output, o.Output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return sandbox.Errorf(sandbox.Failure, "what it said is above", "%s %s: %w", b.Name, args[0], err)
	}
	return nil
}

// Arguments checks values of --build-arg. NAME without a value takes that of the environment, as docker's does.
func Arguments(args []string, environ func(string) (string, bool)) ([]string, error) {
	var out []string
	for _, a := range args {
		name, _, has := strings.Cut(a, "=")
		if name == "" {
			return nil, sandbox.Errorf(sandbox.Invalid, "write it as NAME=VALUE", "--build-arg %q has no name", a)
		}
		if !has {
			value, ok := environ(name)
			if !ok {
				continue
			}
			a = name + "=" + value
		}
		out = append(out, a)
	}
	return out, nil
}
