package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Local splits a reference to an image in the store of another program on this host: docker://NAME, podman://NAME or
// containers-storage:NAME.
func Local(ref string) (program, name string, ok bool) {
	for prefix, program := range map[string]string{"docker://": "docker", "podman://": "podman", "containers-storage:": "podman"} {
		if name, ok := strings.CutPrefix(ref, prefix); ok {
			return program, name, true
		}
	}
	return "", "", false
}

// OpenLocal gets an image out of docker's or podman's store as an archive, which is kept in an unnamed file in dir.
func OpenLocal(ctx context.Context, program, name, dir string, maxBytes int64) (*Archive, error) {
	if name == "" || strings.HasPrefix(name, "-") {
		return nil, sandbox.Errorf(sandbox.Invalid, "write it as "+program+"://NAME", "%q is not the name of an image", name)
	}
	save := dockerSave
	if program == "podman" {
		save = podmanSave
	}
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	out := &limitedFile{f: f, left: maxBytes}
	if err := save(ctx, name, out); err != nil {
		_ = f.Close()
		if out.err != nil {
			err = out.err // why the program could not go on
		}
		return nil, disk.NoSpace(dir, fmt.Errorf("get image %s from %s: %w", name, program, err))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		_ = f.Close()
		return nil, err
	}
	return openArchive(ctx, f, program+"://"+name, dir, maxBytes)
}

// limitedFile takes up to left bytes.
type limitedFile struct {
	f    *os.File
	left int64
	err  error
}

func (l *limitedFile) Write(p []byte) (int, error) {
	if l.left -= int64(len(p)); l.left < 0 {
		l.err = sandbox.Errorf(sandbox.Invalid, "if the image is to be trusted, allow more with --max-size", "it is larger than allowed (--max-size)")
		return 0, l.err
	}
	n, err := l.f.Write(p)
	l.err = err
	return n, err
}

// dockerSockets are where docker listens: the service, rootless docker, Docker Desktop.
func dockerSockets(getenv func(string) string) []string {
	if host := getenv("DOCKER_HOST"); host != "" {
		path, _ := strings.CutPrefix(host, "unix://")
		return []string{path}
	}
	sockets := []string{"/var/run/docker.sock"}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "docker.sock"))
	}
	if dir := getenv("HOME"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, ".docker/run/docker.sock"))
	}
	return sockets
}

// dockerSave asks docker's service for an archive: GET /images/{name}/get of its API.
func dockerSave(ctx context.Context, name string, out io.Writer) error {
	var why []error
	for _, socket := range dockerSockets(os.Getenv) {
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/images/"+url.PathEscape(name)+"/get", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			why = append(why, err)
			continue
		}
		defer client.CloseIdleConnections()
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			kind := sandbox.Unavailable
			if resp.StatusCode == http.StatusNotFound {
				kind = sandbox.NotFound
			}
			return sandbox.Errorf(kind, "docker images lists what there is", "docker answers %s: %s", resp.Status, bytes.TrimSpace(body))
		}
		_, err = io.Copy(out, resp.Body)
		return err
	}
	return sandbox.Errorf(sandbox.Unavailable, "start docker, or set DOCKER_HOST to its unix socket", "docker does not answer: %w", errors.Join(why...))
}

// podmanSave lets podman write an archive.
func podmanSave(ctx context.Context, name string, out io.Writer) error {
	podman, err := exec.LookPath("podman")
	if err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "apt-get install podman", "podman is not installed")
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, podman, "save", "--format", "oci-archive", "--", name)
	cmd.Stdout, cmd.Stderr = out, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		text := strings.Join(strings.Fields(stderr.String()), " ")
		return sandbox.Errorf(sandbox.Unavailable, "podman images lists what there is", "podman save: %w: %s", err, text[max(0, len(text)-500):])
	}
	return nil
}
