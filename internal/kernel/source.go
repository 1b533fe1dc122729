package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/agentkernel/agentkernel/internal/download"
)

// DefaultMirror is where releases come from. A mirror need not be trusted:
// what it serves is checked against a developer's signature.
const DefaultMirror = "https://cdn.kernel.org/pub/linux/kernel"

const (
	originRelease     = "kernel.org"
	signatureMaxBytes = 64 << 10
)

// source is a tarball that may be built: verified, or given by the user.
type source struct {
	Path    string
	Version string
	SHA256  string // of the file at Path
	Origin  string
}

// localSource takes a tarball from the host, such as Debian's linux-source
// package, and reads its version from the Makefile in it.
func localSource(ctx context.Context, path, wantSHA256 string) (source, error) {
	sum, err := fileSHA256(ctx, path)
	if err != nil {
		return source{}, fmt.Errorf("read kernel source: %w", err)
	}
	if wantSHA256 != "" && sum != strings.ToLower(wantSHA256) {
		return source{}, fmt.Errorf("kernel source %s has SHA-256 %s instead of %s", path, sum, wantSHA256)
	}
	makefile, err := tarMember(ctx, path, "*/Makefile")
	if err != nil {
		return source{}, err
	}
	version, err := versionFromMakefile(makefile)
	if err != nil {
		return source{}, fmt.Errorf("read kernel source %s: %w", path, err)
	}
	return source{Path: path, Version: version, SHA256: sum, Origin: filepath.Base(path)}, nil
}

// tarMember gives the first member of a tarball, in whatever compression, that
// matches a pattern in which * stops at a slash.
func tarMember(ctx context.Context, path, pattern string) ([]byte, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel source: %w", err)
	}
	cmd := exec.CommandContext(ctx, "tar", "--extract", "--to-stdout", "--occurrence=1", "--wildcards",
		"--no-wildcards-match-slash", "--force-local", "--file", abs, "--", pattern)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("find %s in %s: %w: %s", pattern, path, err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}

// releaseSource fetches releases of kernel.org into a store.
type releaseSource struct {
	store  *Store
	client *http.Client
	mirror string
	keys   openpgp.KeyRing
	report func(Event)
}

// tarballPath is where a verified release is kept.
func (r *releaseSource) tarballPath(version string) string {
	return filepath.Join(r.store.root, sourcesDir, "linux-"+version+".tar.xz")
}

// get gives the tarball of a release. It is downloaded if it is not in the
// store, and is put there only when it is what it should be: signed by a
// developer, or, where the caller gives one, of that SHA-256.
func (r *releaseSource) get(ctx context.Context, version, wantSHA256 string) (source, error) {
	unlock, err := r.store.lock(ctx, "source-"+version, func() {
		r.report(Event{Phase: PhaseWait, Detail: "another process downloads linux-" + version})
	})
	if err != nil {
		return source{}, err
	}
	defer unlock()
	path := r.tarballPath(version)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := r.fetch(ctx, version, wantSHA256, path); err != nil {
			return source{}, err
		}
	} else if err != nil {
		return source{}, fmt.Errorf("look for kernel source: %w", err)
	}
	sum, err := fileSHA256(ctx, path)
	if err != nil {
		return source{}, fmt.Errorf("read kernel source: %w", err)
	}
	if wantSHA256 != "" && sum != strings.ToLower(wantSHA256) {
		return source{}, fmt.Errorf("kernel source %s has SHA-256 %s instead of %s", path, sum, wantSHA256)
	}
	return source{Path: path, Version: version, SHA256: sum, Origin: originRelease}, nil
}

// tarballMaxBytes bounds what a mirror can make us store; releases are about 140 MB.
const tarballMaxBytes = 512 << 20

func (r *releaseSource) fetch(ctx context.Context, version, wantSHA256, path string) error {
	major, _, _ := strings.Cut(version, ".")
	base := fmt.Sprintf("%s/v%s.x/linux-%s", strings.TrimSuffix(r.mirror, "/"), major, version)
	part := path + ".part"

	// The signature first: it is small, and says at once whether there is such
	// a release.
	var signature []byte
	if wantSHA256 == "" {
		var err error
		if signature, err = download.Small(ctx, r.client, base+".tar.sign", signatureMaxBytes); err != nil {
			return fetchError(version, err)
		}
	}
	url := base + ".tar.xz"
	err := download.File(ctx, r.client, url, part, tarballMaxBytes, func(done, total int64) {
		r.report(Event{Phase: PhaseDownload, Done: done, Total: total, Detail: url})
	})
	if err != nil {
		return fetchError(version, err)
	}

	r.report(Event{Phase: PhaseVerify, Detail: filepath.Base(path)})
	if wantSHA256 == "" {
		err = verifySignature(ctx, r.keys, part, signature)
	} else {
		var sum string
		if sum, err = fileSHA256(ctx, part); err == nil && sum != strings.ToLower(wantSHA256) {
			err = fmt.Errorf("%s has SHA-256 %s instead of %s", url, sum, wantSHA256)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("verify kernel %s: %w", version, context.Cause(ctx))
		}
		// Resuming would only add to what is wrong.
		return errors.Join(fmt.Errorf("kernel %s was not accepted, and its download is deleted: %w", version, err), os.Remove(part))
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("keep kernel source: %w", err)
	}
	return nil
}

// fetchError says what a host without kernel.org can do.
func fetchError(version string, err error) error {
	return fmt.Errorf("kernel %s: %w\na source tarball on this host can be built instead, such as /usr/src/linux-source-6.1.tar.xz of Debian's package linux-source-6.1", version, err)
}

// fileSHA256 is the hex digest of a regular file.
func fileSHA256(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	h := sha256.New()
	if _, err := io.Copy(h, &contextReader{ctx, f}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// contextReader ends a long read when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
