package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/image/layer"
)

// Cache is a directory of blobs, each under the hash of its bytes:
//
//	sha256/<64 hex>           whole and checked
//	sha256/<64 hex>.partial   a download that was not finished, and goes on
//	sha256/<64 hex>.lock      held by who downloads it
//
// Any number of processes may use it, and everything in it may be deleted at any time.
type Cache struct {
	Dir string
}

func (c Cache) path(digest string) string {
	return filepath.Join(c.Dir, "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// forget deletes a blob.
func (c Cache) forget(digest string) error { return os.Remove(c.path(digest)) }

// Prune deletes every layer that nobody downloads right now, and what is left of downloads, and returns how many bytes of the
// host's disk that gave back. Who reads one keeps it until it is closed.
func (c Cache) Prune() (freed int64, err error) {
	dir := filepath.Join(c.Dir, "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("prune the cache of layers: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".lock") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		n, err := c.delete(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("prune the cache of layers: %w", err)
		}
		freed += n
	}
	return freed, nil
}

func (c Cache) delete(path string) (freed int64, err error) {
	unlock, free, err := filelock.Try(strings.TrimSuffix(path, ".partial") + ".lock")
	if err != nil || !free {
		return 0, err
	}
	defer unlock()
	if freed, err = disk.AllocatedBytes(path); err != nil {
		return 0, err
	}
	return freed, os.Remove(path)
}

// download gets the bytes of a blob from an offset on. It may begin further at the front, and says where.
type download func(ctx context.Context, offset int64) (body io.ReadCloser, from int64, err error)

// maxAttempts bounds downloads of a blob that get nowhere. Those that bring at least a byte do not count.
const maxAttempts = 5

// get returns a blob, from the cache when it is there. Two that want the same one download it once. report is told how
// many bytes are there; wait is called between attempts.
func (c Cache) get(ctx context.Context, digest string, size int64, from download, wait func(attempt int) error, report func(int64)) (*os.File, error) {
	path := c.path(digest)
	if f, err := os.Open(path); err == nil {
		report(size)
		return f, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, disk.NoSpace(c.Dir, fmt.Errorf("make the cache of layers: %w", err))
	}
	unlock, err := filelock.Lock(ctx, path+".lock", nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if f, err := os.Open(path); err == nil { // somebody else has just got it
		report(size)
		return f, nil
	}
	f, err := os.OpenFile(path+".partial", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, disk.NoSpace(c.Dir, fmt.Errorf("keep a layer: %w", err))
	}
	defer f.Close()
	p := &partial{f: f, size: size, hash: sha256.New(), report: report}
	if err := p.resume(); err != nil {
		return nil, fmt.Errorf("go on with a download: %w", err)
	}
	if err := p.fill(ctx, from, wait); err != nil {
		return nil, disk.NoSpace(c.Dir, err)
	}
	if got := "sha256:" + hex.EncodeToString(p.hash.Sum(nil)); got != digest {
		if err := os.Remove(f.Name()); err != nil {
			return nil, fmt.Errorf("delete a download that is not what it should be: %w", err)
		}
		return nil, &layer.DigestError{Want: digest, Got: got}
	}
	if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
		return nil, disk.NoSpace(c.Dir, fmt.Errorf("keep a layer: %w", err))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, fmt.Errorf("keep a layer: %w", err)
	}
	return os.Open(path)
}

// partial is a download under way.
type partial struct {
	f          *os.File
	have, size int64
	hash       hash.Hash
	report     func(int64)
}

// resume takes up what an earlier download has left.
func (p *partial) resume() error {
	n, err := io.Copy(p.hash, p.f)
	if err != nil {
		return err
	}
	if n > p.size {
		return p.restart(0)
	}
	p.have = n
	p.report(n)
	return nil
}

// restart forgets all from offset on, which is 0 or where we are.
func (p *partial) restart(offset int64) error {
	if offset == p.have {
		return nil
	}
	if offset != 0 {
		return fmt.Errorf("the registry sent bytes from %d on, and not from %d", offset, p.have)
	}
	p.hash.Reset()
	p.have = 0
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// fill downloads what is missing.
func (p *partial) fill(ctx context.Context, from download, wait func(int) error) error {
	for attempt := 1; p.have < p.size; attempt++ {
		before := p.have
		err := p.once(ctx, from)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var local *fs.PathError
		if errors.As(err, &local) || !temporary(err) {
			return err // the host's disk, or a registry that will not change its mind
		}
		if p.have > before {
			attempt = 1
		}
		if attempt >= maxAttempts {
			return err
		}
		if err := wait(attempt); err != nil {
			return err
		}
	}
	return nil
}

func (p *partial) once(ctx context.Context, from download) error {
	body, offset, err := from(ctx, p.have)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := p.restart(offset); err != nil {
		return err
	}
	_, err = io.Copy(io.MultiWriter(p.f, p.hash, progress{p}), io.LimitReader(body, p.size-p.have+1))
	if err != nil {
		return err
	}
	switch {
	case p.have > p.size:
		return permanent{fmt.Errorf("the registry sent more than the %d bytes that the layer has", p.size)}
	case p.have < p.size:
		return fmt.Errorf("the registry ended after %d of %d bytes: %w", p.have, p.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// progress counts what has been written.
type progress struct{ p *partial }

func (w progress) Write(b []byte) (int, error) {
	w.p.have += int64(len(b))
	w.p.report(w.p.have)
	return len(b), nil
}

// permanent is an error that another attempt does not help.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func temporary(err error) bool {
	var p permanent
	return !errors.As(err, &p)
}
