package oci

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// savedImage is what docker save makes of the test's image.
func savedImage(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "saved.tar")
	tag, err := name.NewTag("team/app:1")
	if err == nil {
		err = tarball.WriteToFile(file, tag, testImage(t))
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDockersStore(t *testing.T) {
	saved := savedImage(t)
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/images/team/app:1/get" {
			http.Error(w, `{"message":"no such image"}`, http.StatusNotFound)
			return
		}
		http.ServeFile(w, r, saved)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	testLocal(t, "docker", sandbox.NotFound)
	t.Setenv("DOCKER_HOST", "unix://"+socket+"x")
	if _, err := OpenLocal(context.Background(), "docker", "x", t.TempDir(), 1<<20); err == nil || !strings.Contains(err.Error(), "docker does not answer") {
		t.Errorf("no docker: %v", err)
	}
}

func TestPodmansStore(t *testing.T) {
	saved := savedImage(t)
	bin := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'save --format oci-archive -- team/app:1' ] || { echo image not known >&2; exit 125; }\nexec cat %s\n", saved)
	if err := os.WriteFile(filepath.Join(bin, "podman"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", bin+":"+path)
	testLocal(t, "podman", sandbox.Unavailable)
	t.Setenv("PATH", t.TempDir())
	if _, err := OpenLocal(context.Background(), "podman", "x", t.TempDir(), 1<<20); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("no podman: %v", err)
	}
}

func testLocal(t *testing.T, program string, missing sandbox.Kind) {
	t.Helper()
	ctx := context.Background()
	a, err := OpenLocal(ctx, program, "team/app:1", t.TempDir(), 10<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	images, err := a.Images(sandbox.X8664)
	if err != nil || len(images) != 1 || images[0].Name != "team/app:1" || len(images[0].Layers) != 1 {
		t.Errorf("%+v, %v", images, err)
	}
	var e *sandbox.Error
	if _, err := OpenLocal(ctx, program, "none", t.TempDir(), 10<<20); !errors.As(err, &e) || e.Kind != missing || e.Hint == "" {
		t.Errorf("no such image: %v", err)
	}
	if _, err := OpenLocal(ctx, program, "team/app:1", t.TempDir(), 1000); err == nil || !strings.Contains(err.Error(), "--max-size") {
		t.Errorf("an image that is too large: %v", err)
	}
	if _, err := OpenLocal(ctx, program, "-x", t.TempDir(), 1000); err == nil {
		t.Error("an option was taken for a name")
	}
}
