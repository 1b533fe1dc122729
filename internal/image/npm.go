package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// npmPackage is a package of the npm registry, known by the hash of its tarball.
type npmPackage struct {
	name, version string
	sha512        string // base64, as in a lock file's "integrity"
}

// maxNPM bounds a tarball and what is in it, in bytes.
const maxNPM = 64 << 20

// put adds the package's files at /usr/lib/node_modules, but for those that are dropped, and its programs to /usr/bin.
func (n npmPackage) put(ctx context.Context, w *treeWriter, cacheDir string, dropped func(string) bool) error {
	data, err := n.tarball(ctx, cacheDir)
	if err != nil {
		return fmt.Errorf("get %s %s from the npm registry: %w", n.name, n.version, err)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", n.name, err)
	}
	root := "/usr/lib/node_modules/" + n.name
	for r := tar.NewReader(io.LimitReader(z, 4*maxNPM)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", n.name, err)
		}
		_, rest, _ := strings.Cut(path.Clean("/" + h.Name)[1:], "/") // all of it is in one directory: package/
		if h.Typeflag != tar.TypeReg || rest == "" {
			continue
		}
		p := path.Join(root, rest)
		if dropped(p) {
			continue
		}
		if err := w.parents(p); err != nil {
			return err
		}
		mode := int64(0o644)
		if h.Mode&0o100 != 0 {
			mode = 0o755
		}
		if err := w.put(p, tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: h.Size}, r); err != nil {
			return err
		}
		// npm's own programs are called bin/<program>-cli.js
		if program, ok := strings.CutSuffix(strings.TrimPrefix(rest, "bin/"), "-cli.js"); ok && !strings.Contains(program, "/") {
			link := tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "../lib/node_modules/" + n.name + "/" + rest}
			if err := w.put("/usr/bin/"+program, link, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// parents writes the directories above p that are not there yet.
func (w *treeWriter) parents(p string) error {
	dir := path.Dir(p)
	if dir == "/" || w.seen[dir] {
		return nil
	}
	if err := w.parents(dir); err != nil {
		return err
	}
	return w.put(dir, tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, nil)
}

// tarball returns the package's tarball, from the cache when it is there.
func (n npmPackage) tarball(ctx context.Context, cacheDir string) ([]byte, error) {
	want, err := base64.StdEncoding.DecodeString(n.sha512)
	if err != nil || len(want) != sha512.Size {
		return nil, fmt.Errorf("%q is not a SHA-512 in base64", n.sha512)
	}
	right := func(data []byte) bool {
		sum := sha512.Sum512(data)
		return bytes.Equal(sum[:], want)
	}
	file := filepath.Join(cacheDir, "npm-"+hex.EncodeToString(want[:16])+".tgz")
	data, err := os.ReadFile(file)
	if err == nil && right(data) {
		return data, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if data, err = download(ctx, fmt.Sprintf("https://registry.npmjs.org/%s/-/%s-%s.tgz", n.name, n.name, n.version)); err != nil {
		return nil, err
	}
	if !right(data) {
		return nil, errors.New("its tarball does not have the hash that the recipe gives")
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return nil, err
	}
	return data, renameio.WriteFile(file, data, 0o600)
}

func download(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxNPM+1))
	if err == nil && len(data) > maxNPM {
		err = fmt.Errorf("%s has more than %d MiB", url, maxNPM>>20)
	}
	return data, err
}
