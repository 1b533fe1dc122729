package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Digest is the SHA-256 of a file, in hex, or "" when there is no such file. It reads a file once, as Check does.
func (c *Checker) Digest(ctx context.Context, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find out what a microVM was booted with: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("find out what a microVM was booted with: %w", err)
	}
	now := stampOf(info)
	c.mu.Lock()
	have, ok := c.digests[path]
	c.mu.Unlock()
	if ok && have.stamp == now {
		return have.sum, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, readerOf(ctx, f)); err != nil {
		return "", fmt.Errorf("find out what a microVM was booted with: %w", err)
	}
	have = seen{now, hex.EncodeToString(h.Sum(nil))}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.digests == nil {
		c.digests = map[string]seen{}
	}
	c.digests[path] = have
	return have.sum, nil
}

// reader ends with a context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func readerOf(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
