package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func registries(t *testing.T) *Registries {
	return &Registries{
		Cache: Cache{Dir: t.TempDir()}, Keychain: authn.NewMultiKeychain(),
		patience: patience{attempts: 4, first: time.Millisecond, longest: 3 * time.Second, stall: 100 * time.Millisecond},
	}
}

func parseName(t *testing.T, s string) Name {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pull fetches and flattens an image, and returns the contents of its file f.
func pull(t *testing.T, r *Registries, ref string) (string, error) {
	t.Helper()
	img, err := r.Fetch(context.Background(), parseName(t, ref), sandbox.X8664)
	if err != nil {
		return "", err
	}
	flat, err := img.Flatten(context.Background(), t.TempDir(), layer.Limits{}, nil)
	if err != nil {
		return "", err
	}
	defer flat.Close()
	c := tree.Lookup(flat.Root, "f").Contents
	b, err := io.ReadAll(io.NewSectionReader(c.Source, c.Off, c.Size))
	return string(b), err
}

// body is what the test image's file has: enough to be cut into pieces, and not compressible.
var body = func() string {
	b := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return string(b)
}()

func testImage(t *testing.T) v1.Image {
	return imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("f", body, 0o644)))
}

// blobFault answers requests for the layer: serve gets its bytes from the offset asked for.
func blobFault(t *testing.T, img v1.Image, serve func(n int, w http.ResponseWriter, rest []byte)) func(http.ResponseWriter, *http.Request) bool {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := layers[0].Digest()
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, digest.String()) {
			return false
		}
		off := 0
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off); n == 1 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(data)-1, len(data)))
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-off))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		}
		serve(int(requests.Add(1)), w, data[off:])
		return true
	}
}

func TestPull(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	img := testImage(t)
	ref := reg.Push("a/b:1", img)
	r := registries(t)
	got, err := pull(t, r, ref)
	if err != nil || got != body {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	before := reg.Gets("/blobs/")
	if got, err := pull(t, r, ref); err != nil || got != body {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := reg.Gets("/blobs/") - before; n != 1 { // the configuration
		t.Errorf("a layer that is there was downloaded again: %d requests", n)
	}
	digest, _ := img.Digest()
	if got, err := pull(t, r, reg.Host+"/a/b@"+digest.String()); err != nil || got != body {
		t.Errorf("by digest: %d bytes, %v", len(got), err)
	}
}

func TestIndex(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	other := imagetest.Image(t, "arm64", v1.Config{})
	ref := reg.Push("many", imagetest.Index(t, map[string]v1.Image{"arm64": other, "amd64": testImage(t), "s390x": imagetest.Image(t, "s390x", v1.Config{})}))
	if got, err := pull(t, registries(t), ref); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, ref := range []string{reg.Push("index", imagetest.Index(t, map[string]v1.Image{"arm64": other})), reg.Push("one", other)} {
		_, err := pull(t, registries(t), ref)
		var e *sandbox.Error
		if !errors.As(err, &e) || e.Kind != sandbox.Invalid || !strings.Contains(e.Hint, "--arch aarch64") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// What a registry may do and a pull gets over.
func TestPullGoesOn(t *testing.T) {
	img := testImage(t)
	whole := func(w http.ResponseWriter, rest []byte) { _, _ = w.Write(rest) }
	var resumed atomic.Int32
	for name, fault := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"connection that breaks": blobFault(t, img, func(n int, w http.ResponseWriter, rest []byte) {
			if n < 8 { // more often than there are attempts, with something each time
				_, _ = w.Write(rest[:20_000])
				panic(http.ErrAbortHandler)
			}
			if len(rest) > len(body)-100_000 {
				t.Errorf("%d bytes are asked for after 140000 have come", len(rest))
			}
			whole(w, rest)
		}),
		"connection that stands still": blobFault(t, img, func(n int, w http.ResponseWriter, rest []byte) {
			if n == 1 {
				_, _ = w.Write(rest[:1000])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(300 * time.Millisecond) // a slow registry, until long after the client has given up
				return
			}
			resumed.Add(1)
			whole(w, rest)
		}),
		"too many requests": times(3, func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		}),
		"bad gateway": times(3, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }),
	} {
		t.Run(name, func(t *testing.T) {
			reg := imagetest.NewRegistry(t)
			ref := reg.Push("x", img)
			reg.Fault(fault)
			if got, err := pull(t, registries(t), ref); err != nil || got != body {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	if resumed.Load() == 0 {
		t.Error("the download that stood still was not taken up again")
	}
}

// times answers the first n requests.
func times(n int32, answer func(http.ResponseWriter)) func(http.ResponseWriter, *http.Request) bool {
	var count atomic.Int32
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if count.Add(1) > n {
			return false
		}
		answer(w)
		return true
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x", testImage(t))
	reg.Fault(times(1, func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	began := time.Now()
	if _, err := pull(t, registries(t), ref); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("came back after %v, and was asked to wait a second", took)
	}
}

func TestPullFails(t *testing.T) {
	img := testImage(t)
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		kind  sandbox.Kind
		says  string
	}{
		"no such image": {func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		}, sandbox.NotFound, "no such image"},
		"wrong password": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, sandbox.Invalid, "does not let this user read"},
		"forbidden":         {status(http.StatusForbidden), sandbox.Invalid, "does not let this user read"},
		"too many requests": {status(http.StatusTooManyRequests), sandbox.Unavailable, "allows no more downloads"},
		"asked to wait for hours": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "7200")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}, sandbox.Unavailable, "allows no more downloads"},
		"overloaded": {status(http.StatusServiceUnavailable), sandbox.Unavailable, "cannot serve"},
		"layer with other bytes": {blobFault(t, img, func(_ int, w http.ResponseWriter, rest []byte) {
			_, _ = w.Write(bytes.Repeat([]byte{7}, len(rest)))
		}), "", "digest"},
		"layer that always ends early": {blobFault(t, img, func(n int, _ http.ResponseWriter, _ []byte) {
			panic(http.ErrAbortHandler)
		}), "", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := imagetest.NewRegistry(t)
			ref := reg.Push("x", img)
			reg.Fault(c.fault)
			_, err := pull(t, registries(t), ref)
			var e *sandbox.Error
			if err == nil || !strings.Contains(err.Error(), c.says) || c.kind != "" && (!errors.As(err, &e) || e.Kind != c.kind || e.Hint == "") {
				t.Errorf("%v, want %s %q", err, c.kind, c.says)
			}
		})
	}
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x", img)
	reg.Close()
	var e *sandbox.Error
	if _, err := pull(t, registries(t), ref); !errors.As(err, &e) || e.Kind != sandbox.Unavailable || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a registry that is down: %v", err)
	}
}

// A later pull goes on where one ended that was broken off.
func TestPartialDownloadIsKept(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	img := testImage(t)
	ref := reg.Push("x", img)
	r := registries(t)
	reg.Fault(blobFault(t, img, func(n int, w http.ResponseWriter, rest []byte) {
		if n == 1 {
			_, _ = w.Write(rest[:200_000])
		}
		panic(http.ErrAbortHandler)
	}))
	if _, err := pull(t, r, ref); err == nil {
		t.Fatal("half a layer was taken")
	}
	reg.Fault(blobFault(t, img, func(_ int, w http.ResponseWriter, rest []byte) {
		if len(rest) > 110_000 {
			t.Errorf("%d bytes were asked for again", len(rest))
		}
		_, _ = w.Write(rest)
	}))
	if got, err := pull(t, r, ref); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestDamagedCache(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	img := testImage(t)
	ref := reg.Push("x", img)
	r := registries(t)
	if _, err := pull(t, r, ref); err != nil {
		t.Fatal(err)
	}
	layers, _ := img.Layers()
	digest, _ := layers[0].Digest()
	path := r.Cache.path(digest.String())
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 1000)); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t, r, ref); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestPruneCache(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	r := registries(t)
	if _, err := pull(t, r, reg.Push("x", testImage(t))); err != nil {
		t.Fatal(err)
	}
	if freed, err := r.Cache.Prune(); err != nil || freed < int64(len(body)) {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	if freed, err := r.Cache.Prune(); err != nil || freed != 0 {
		t.Errorf("the second time: freed %d bytes, %v", freed, err)
	}
	if freed, err := (Cache{Dir: t.TempDir()}).Prune(); err != nil || freed != 0 {
		t.Errorf("none yet: freed %d bytes, %v", freed, err)
	}
}

type password struct{}

func (password) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "u", Password: "p"}, nil
}

func TestPassword(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x", testImage(t))
	reg.Fault(func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "u" && pass == "p" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	r := registries(t)
	r.Keychain = password{}
	if got, err := pull(t, r, ref); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Passwords come from docker's configuration, which may name a helper that has them.
func TestCredentialHelper(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x", testImage(t))
	reg.Fault(func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "helped" && pass == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = get ] && grep -q " + reg.Host + ` && echo '{"ServerURL":"x","Username":"helped","Secret":"secret"}'` + "\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"credHelpers": {%q: "of-the-test"}}`, reg.Host), 0o600),
		os.WriteFile(filepath.Join(dir, "docker-credential-of-the-test"), []byte(script), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	r := registries(t)
	r.Keychain = authn.DefaultKeychain
	if got, err := pull(t, r, ref); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestMirrors(t *testing.T) {
	mirror, down := imagetest.NewRegistry(t), imagetest.NewRegistry(t)
	mirror.Push("hub/library/thing:1", testImage(t))
	down.Close()
	r := registries(t)
	var said []string
	r.Say = func(line string) { said = append(said, line) }
	var err error
	if r.Mirrors, err = ParseMirrors("docker.io=http://" + down.Host + ", docker.io=" + mirror.Host + "/hub"); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t, r, "thing:1"); err != nil || got != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if len(said) != 1 || !strings.Contains(said[0], down.Host) {
		t.Errorf("%q", said)
	}
	for _, bad := range []string{"docker.io", "=x", "docker.io=a b"} {
		if _, err := ParseMirrors(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestNames(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for s, want := range map[string][2]string{
		"alpine":                        {"alpine:latest", "docker.io/library/alpine:latest"},
		"docker.io/library/python:3.12": {"python:3.12", "docker.io/library/python:3.12"},
		"docker.io/evil.example/x":      {"docker.io/evil.example/x:latest", "docker.io/evil.example/x:latest"},
		"docker.io/library/a/b":         {"library/a/b:latest", "docker.io/library/a/b:latest"},
		"a/b":                           {"a/b:latest", "docker.io/a/b:latest"},
		"ghcr.io/o/n:v1":                {"ghcr.io/o/n:v1", "ghcr.io/o/n:v1"},
		"localhost:5000/x@" + digest:    {"localhost:5000/x@" + digest, "localhost:5000/x@" + digest},
		"alpine:3.20@" + digest:         {"alpine@" + digest, "docker.io/library/alpine@" + digest},
	} {
		n, err := ParseName(s)
		if err != nil || n.Short() != want[0] || n.String() != want[1] {
			t.Errorf("%s: %s, %s, %v", s, n.Short(), n.String(), err)
			continue
		}
		if again, err := ParseName(n.Short()); err != nil || again.String() != n.String() {
			t.Errorf("%s: %v, %v", n.Short(), again, err)
		}
	}
	for _, bad := range []string{"", "A", "a b", "a@b", "a@sha256:12", "a@sha512:" + strings.Repeat("ab", 64), "../a", "-a", "a..b", "http://x/y"} {
		if n, err := ParseName(bad); err == nil {
			t.Errorf("%q is taken for %s", bad, n)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"alpine", "docker.io/library/a:b", "localhost:5000/x@sha256:" + strings.Repeat("ab", 32), "../a", "a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err != nil {
			return
		}
		again, err := ParseName(n.Short())
		if err != nil || again.String() != n.String() || again.Short() != n.Short() {
			t.Errorf("%q is %q, and that %q, %v", s, n.Short(), again.Short(), err)
		}
		if strings.HasPrefix(n.Short(), "/") || strings.HasPrefix(n.Short(), ".") || strings.Contains(n.Short(), "..") {
			t.Errorf("%q is %q, which reads like a path", s, n.Short())
		}
	})
}
