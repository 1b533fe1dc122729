// Package imagetest makes container images for tests, and a registry in the test's process that serves them and can be made
// to fail.
package imagetest

import (
	"archive/tar"
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Entry is one entry of a layer.
type Entry struct {
	tar.Header
	Body string
}

// File is a regular file.
func File(name, body string, mode int64) Entry {
	return Entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(body)), ModTime: when}, body}
}

// Dir is a directory.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode, ModTime: when}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777, ModTime: when}}
}

// HardLink is another name of a file with this mode: docker sets the target's to what the link's entry says, which others
// leave alone.
func HardLink(name, target string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: mode, ModTime: when}}
}

var when = time.Unix(1_700_000_000, 123_000_000)

// Archive returns entries as a tar archive.
func Archive(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Layer returns entries as a layer, compressed with gzip.
func Layer(t testing.TB, entries ...Entry) v1.Layer {
	t.Helper()
	data := Archive(t, entries...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithCompressedCaching)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Image makes an image for an architecture (amd64 or arm64).
func Image(t testing.TB, arch string, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{Architecture: arch, OS: "linux", RootFS: v1.RootFS{Type: "layers"}, Config: config, Created: v1.Time{Time: when.UTC()}})
	if err == nil {
		img, err = mutate.AppendLayers(img, layers...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Index makes an index of images by architecture.
func Index(t testing.TB, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for arch, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index
}

// Registry is a registry in this process.
type Registry struct {
	// Host is its name in references.
	Host string

	t      testing.TB
	server *httptest.Server

	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request) bool
	gets  []string
}

// NewRegistry starts a registry, which ends with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{t: t}
	inner := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)))
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		fault := r.fault
		if req.Method == http.MethodGet {
			r.gets = append(r.gets, req.URL.Path)
		}
		r.mu.Unlock()
		if fault != nil && fault(w, req) {
			return
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			rec := httptest.NewRecorder()
			plain := req.Clone(req.Context())
			plain.Header.Del("Range")
			inner.ServeHTTP(rec, plain)
			if rec.Code == http.StatusOK {
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(rec.Body.Bytes())) // with ranges
				return
			}
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(r.server.Close)
	r.Host = strings.TrimPrefix(r.server.URL, "http://")
	return r
}

// Close ends the registry before the test does.
func (r *Registry) Close() { r.server.Close() }

// Fault sets what happens to requests first: it reports whether it has answered. nil sets nothing.
func (r *Registry) Fault(f func(w http.ResponseWriter, req *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Gets returns how many times a path with part in it has been asked for.
func (r *Registry) Gets(part string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, p := range r.gets {
		if strings.Contains(p, part) {
			n++
		}
	}
	return n
}

// Push puts an image or an index into the registry and returns its reference.
func (r *Registry) Push(repo string, what any) string {
	r.t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + repo)
	if err == nil {
		switch what := what.(type) {
		case v1.Image:
			err = remote.Write(ref, what)
		case v1.ImageIndex:
			err = remote.WriteIndex(ref, what)
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return ref.String()
}
