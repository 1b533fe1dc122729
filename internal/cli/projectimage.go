package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/image/dockerfile"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

// projectImage is an image that is built from the Dockerfile of a project.
type projectImage struct {
	name    string // in the store: one a project
	arch    sandbox.Arch
	context dockerfile.Context
	args    []string
	always  bool // build it although the same was built before
}

// ensureProjectImage returns the name of the image of a project's Dockerfile, and has it built unless an image of the same
// content is in the store. Since what a Dockerfile runs is run in containers on this host, and the project says what that is,
// a build takes the user's word.
func (e *env) ensureProjectImage(ctx context.Context, file config.File, f *createFlags, arch sandbox.Arch) (string, error) {
	store, dirs, err := imageStore()
	if err != nil {
		return "", err
	}
	p := projectImage{name: imageOfProject(file.Dir), arch: arch, context: dockerfile.Context{Dir: file.Dir}, always: f.build}
	rel, err := filepath.Rel(file.Dir, file.Dockerfile)
	if err != nil {
		return "", err
	}
	p.context.Dockerfile = filepath.ToSlash(rel)
	if p.args, err = dockerfile.Arguments(f.buildArgs, os.LookupEnv); err != nil {
		return "", err
	}
	if !p.always {
		digest, err := p.context.Digest(ctx)
		if err != nil {
			return "", err
		}
		if m, ok, err := store.ByBuildKey(ctx, p.key(digest), p.name, arch); ok || err != nil {
			return m.Name, err
		}
	}
	b, err := dockerfile.Find(ctx, "")
	if err != nil {
		return "", err
	}
	if err := e.mayBuild(ctx, dirs, file, b, f.build); err != nil {
		return "", err
	}
	return e.buildProject(ctx, store, dirs, p, b)
}

// buildProject builds from a copy, so that what is built is what the image is known by.
func (e *env) buildProject(ctx context.Context, store *image.Store, dirs paths.Dirs, p projectImage, b dockerfile.Builder) (string, error) {
	dir, err := os.MkdirTemp("", "agentkernel-context-*")
	if err != nil {
		return "", err
	}
	defer removeTree(dir)
	copied, digest, err := p.context.CopyTo(ctx, dir)
	if err != nil {
		return "", err
	}
	pull, err := e.pullOptions(dirs)
	if err != nil {
		return "", err
	}
	pull.Name, pull.Arch, pull.BuildKey = p.name, p.arch, p.key(digest)
	o := dockerfile.Options{
		Context: copied.Dir, Dockerfile: filepath.Join(copied.Dir, filepath.FromSlash(copied.Dockerfile)), Args: p.args,
		Arch: oci.GOARCH(p.arch), Output: e.errOut,
	}
	if _, err := e.buildWith(ctx, store, b, o, filepath.Join(p.context.Dir, p.context.Dockerfile), pull); err != nil {
		return "", fmt.Errorf("build %s of the project %s: %w", p.context.Dockerfile, p.context.Dir, err)
	}
	return p.name, nil
}

// key stands for all that the image is built from.
func (p projectImage) key(digest string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %s %q %q %s", p.arch, p.context.Dockerfile, p.args, digest))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// imageOfProject is the name of the image of the project in a directory: the directory's own name, and what tells it from others of
// that name.
func imageOfProject(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	name := nameOfDir(dir)
	return strings.Trim(name[:min(len(name), 40)], "-") + "-" + hex.EncodeToString(sum[:4])
}

// mayBuild asks for the user's word, unless he gave it with --build or in his configuration.
func (e *env) mayBuild(ctx context.Context, dirs paths.Dirs, file config.File, b dockerfile.Builder, agreed bool) error {
	if agreed {
		return nil
	}
	user, err := config.LoadUser(dirs.Config)
	if err != nil || user.MayBuild(file.Dir) {
		return err
	}
	what := fmt.Sprintf("The image of this project is built from %q with %s. What that file says is run in containers on this host, and not in a microVM.", file.Dockerfile, b.Name)
	if terminal.Is(e.in) && terminal.Is(e.errOut) && !e.json {
		fmt.Fprintf(e.errOut, "%s\nBuild it? [y/N] ", what)
		answered := make(chan string, 1)
		go func() {
			answer, _ := bufio.NewReader(e.in).ReadString('\n')
			answered <- strings.ToLower(strings.TrimSpace(answer))
		}()
		select {
		case answer := <-answered:
			if answer == "y" || answer == "yes" {
				return nil
			}
		case <-ctx.Done(): // no signal ends the read, but the process ends
			fmt.Fprintln(e.errOut)
			return ctx.Err()
		}
	}
	return sandbox.Errorf(sandbox.Invalid,
		fmt.Sprintf("agree with --build, or for good with [build] allow_projects = %q in %s; or choose an image with --image", file.Dir, dirs.Config),
		"the image of this project has to be built from %s, which runs what the project says in containers on this host, and nobody has agreed to that", file.Dockerfile)
}

// removeTree removes a copy in which directories may be read-only.
func removeTree(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}
