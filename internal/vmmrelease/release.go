// Package vmmrelease installs the release of Firecracker that agentkernel is tested with: the programs firecracker and
// jailer, out of the archive that the Firecracker project publishes.
//
//	<releases>/firecracker-v1.16.1/{firecracker,jailer}   mode 0755
//	<link> → <releases>/firecracker-v1.16.1
//
// The link is put in place at last and in one step, so that a crash at any point leaves the old release or the new one.
// Nothing outside of these two paths is touched.
package vmmrelease

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/agentkernel/agentkernel/internal/download"
	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Version of the release.
const Version = "1.16.1"

// pins are the SHA-256 of the archives.
var pins = map[sandbox.Arch]string{
	sandbox.X8664:   "382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6",
	sandbox.AArch64: "8d0e69f6d6f9a1724551f607f18504052c16c1828ee3d4d7b6e6c73380871e0e",
}

// source is where the archives are published.
const source = "https://github.com/firecracker-microvm/firecracker/releases/download"

// maxArchive bounds an archive, in bytes; those of 2026 have 10 MB.
const maxArchive = 64 << 20

// Options of Install.
type Options struct {
	Releases string // directory of releases; made when it is missing
	Link     string // what is made to point at the release
	Arch     sandbox.Arch
	From     string // path of the archive; empty: download it
	// Client of the download, Source in place of the Firecracker project's own, and Pin in place of the known SHA-256 of the
	// archive: for tests.
	Client *http.Client
	Source string
	Pin    string
	// Progress, when set, is told of the download, in bytes; total is 0 when it is not known.
	Progress func(done, total int64)
	// Check asks an installed program for its version, and returns it. It is called before anything is put in place.
	Check func(ctx context.Context, path string) (version string, err error)
}

// Result says what there is now.
type Result struct {
	Version     string `json:"version"`
	Firecracker string `json:"firecracker"` // path of the program
	Jailer      string `json:"jailer"`
	Installed   bool   `json:"installed"` // by this call; else it was there
	SHA256      string `json:"sha256"`    // of the archive
}

// Install makes sure that the release is there. It may be called by several processes at once, and again after it was
// interrupted, when it takes a download up where it ended.
func Install(ctx context.Context, o Options) (Result, error) {
	pin, ok := pins[o.Arch]
	if !ok {
		return Result{}, sandbox.Errorf(sandbox.Invalid, "", "there is no Firecracker for %q", o.Arch)
	}
	if o.Pin != "" {
		pin = o.Pin
	}
	if err := os.MkdirAll(o.Releases, 0o700); err != nil {
		return Result{}, fmt.Errorf("make the directory of releases: %w", err)
	}
	unlock, err := filelock.Lock(ctx, filepath.Join(o.Releases, ".lock"), nil)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	dir := filepath.Join(o.Releases, "firecracker-v"+Version)
	r := Result{Version: Version, Firecracker: filepath.Join(o.Link, "firecracker"), Jailer: filepath.Join(o.Link, "jailer"), SHA256: pin}
	if there(ctx, dir, o.Check) {
		linked, err := link(dir, o.Link)
		r.Installed = linked
		return r, err
	}
	archive, err := o.archive(ctx, pin)
	if err != nil {
		return Result{}, err
	}
	if err := install(ctx, archive, dir, o); err != nil {
		return Result{}, err
	}
	if _, err := link(dir, o.Link); err != nil {
		return Result{}, err
	}
	if o.From == "" {
		if err := os.Remove(archive); err != nil {
			return Result{}, fmt.Errorf("remove the archive: %w", err)
		}
	}
	r.Installed = true
	return r, nil
}

// there reports whether both programs are in dir and are what they should be.
func there(ctx context.Context, dir string, check func(context.Context, string) (string, error)) bool {
	for _, name := range programs {
		if v, err := check(ctx, filepath.Join(dir, name)); err != nil || v != Version {
			return false
		}
	}
	return true
}

// archive returns the path of an archive with the right hash.
func (o *Options) archive(ctx context.Context, pin string) (string, error) {
	name := fmt.Sprintf("firecracker-v%s-%s.tgz", Version, o.Arch)
	hint := fmt.Sprintf("download %s elsewhere, and give it with --from", name)
	if o.From != "" {
		sum, err := hash(ctx, o.From)
		if errors.Is(err, fs.ErrNotExist) {
			return "", sandbox.Errorf(sandbox.NotFound, hint, "there is no file %s", o.From)
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", o.From, err)
		}
		if sum != pin {
			return "", sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("it must be %s/v%s/%s", source, Version, name),
				"%s is not the release that agentkernel is tested with: its SHA-256 is %s, not %s", o.From, sum, pin)
		}
		return o.From, nil
	}
	from := o.Source
	if from == "" {
		from = source
	}
	url := fmt.Sprintf("%s/v%s/%s", from, Version, name)
	part := filepath.Join(o.Releases, name+".part")
	progress := o.Progress
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := download.File(ctx, o.Client, url, part, maxArchive, progress); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", sandbox.Errorf(sandbox.Unavailable, hint, "%w", err)
	}
	sum, err := hash(ctx, part)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", part, err)
	}
	if sum != pin {
		err := sandbox.Errorf(sandbox.Failure, "try again; "+hint, "%s was not accepted, and is deleted: its SHA-256 is %s, not %s", url, sum, pin)
		return "", errors.Join(err, os.Remove(part)) // resuming would only add to what is wrong
	}
	return part, nil
}

func hash(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxArchive+1)); err != nil {
		return "", err
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// link makes path point at dir, and reports whether it did not before. A directory that a user has made there keeps its
// contents under another name.
func link(dir, path string) (changed bool, err error) {
	if at, err := os.Readlink(path); err == nil && at == dir {
		return false, nil
	}
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		if err := os.Rename(path, path+".old"); err != nil {
			return false, sandbox.Errorf(sandbox.Conflict, "move it away", "%s is in the way: %w", path, err)
		}
	}
	if err := renameio.Symlink(dir, path); err != nil {
		return false, fmt.Errorf("put the release in place: %w", err)
	}
	return true, nil
}
