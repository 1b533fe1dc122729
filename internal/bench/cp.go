package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// CopySpec says what is copied: one file of so many bytes, and a tree of so many files of up to 4 KiB.
type CopySpec struct {
	Bytes int64
	Files int
}

// CopyRow is one copy, in one direction.
type CopyRow struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`
	Files   int     `json:"files"`
	Seconds float64 `json:"seconds"`
	Docker  float64 `json:"docker_seconds,omitempty"`
	Ratio   float64 `json:"throughput_ratio_to_docker,omitempty"` // 1: as fast as docker cp
}

// Copy copies a file and a tree into one running sandbox and out of it again with the command line (self is its program),
// and with docker into a container and out of it, in turns. What comes back must be what was sent.
func Copy(ctx context.Context, c *client.Client, self string, spec CopySpec, withDocker bool, req client.CreateRequest) (rows []CopyRow, err error) {
	if _, err := c.Create(ctx, req); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Remove(context.WithoutCancel(ctx), req.Name, true)) }()
	if _, err := c.Start(ctx, req.Name, client.StartOptions{}); err != nil {
		return nil, err
	}
	container := ""
	if withDocker {
		id, cleanup, err := startContainer(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, cleanup()) }()
		container = id
	}
	dir, err := os.MkdirTemp("", "agentkernel-bench-")
	if err != nil {
		return nil, fmt.Errorf("make what is copied: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// Where the copies live in sandbox and container: on the disk of each.
	const inside = "/bench-"
	for _, what := range []struct {
		name  string
		files int
		make  func(path string) (int64, error)
	}{
		{"file", 1, func(path string) (int64, error) { return spec.Bytes, randomFile(path, spec.Bytes) }},
		{"tree", spec.Files, func(path string) (int64, error) { return randomTree(path, spec.Files) }},
	} {
		if what.files == 0 || what.name == "file" && spec.Bytes == 0 {
			continue
		}
		src := filepath.Join(dir, what.name)
		size, err := what.make(src)
		if err != nil {
			return nil, fmt.Errorf("make what is copied: %w", err)
		}
		want, err := digest(src)
		if err != nil {
			return nil, err
		}
		in := CopyRow{Name: what.name + ", into", Bytes: size, Files: what.files}
		out := CopyRow{Name: what.name + ", out of", Bytes: size, Files: what.files}
		back := func(name string) string { return filepath.Join(dir, what.name+"-"+name) }
		for _, step := range []struct {
			row  *CopyRow
			args func(side string) []string
		}{
			{&in, func(side string) []string { return []string{"cp", src, side + ":" + inside + what.name} }},
			{&out, func(side string) []string { return []string{"cp", side + ":" + inside + what.name, back(side)} }},
		} {
			took, err := timeCommand(ctx, self, step.args(req.Name)...)
			if err != nil {
				return nil, err
			}
			step.row.Seconds = took.Seconds()
			if !withDocker {
				continue
			}
			if took, err = timeCommand(ctx, "docker", step.args(container)...); err != nil {
				return nil, err
			}
			step.row.Docker = took.Seconds()
			step.row.Ratio = step.row.Docker / step.row.Seconds
		}
		got, err := digest(back(req.Name))
		if err != nil {
			return nil, err
		}
		if got != want {
			return nil, fmt.Errorf("the %s came back changed", what.name)
		}
		rows = append(rows, in, out)
	}
	return rows, nil
}

// randomFile writes a file that no disk compresses.
func randomFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), size)
	return errors.Join(err, f.Close())
}

// randomTree makes files of 0 to 4095 bytes, a hundred in a directory, and returns how many bytes they have.
func randomTree(path string, files int) (int64, error) {
	total := int64(0)
	source := rand.NewChaCha8([32]byte{2})
	data := make([]byte, 4096)
	for i := range files {
		dir := filepath.Join(path, fmt.Sprint(i/5000), fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return 0, err
			}
		}
		content := data[:i*7919%4096]
		_, _ = source.Read(content) // never fails
		name := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return 0, err
		}
		if err := os.Chtimes(name, time.Time{}, time.Unix(1_700_000_000+int64(i), 123_456_789)); err != nil {
			return 0, err
		}
		total += int64(len(content))
	}
	return total, nil
}

// digest is a checksum of all content, names, modes and times of files below a path.
func digest(root string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %v", rel, fi.Mode())
		if !fi.Mode().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(sum, " %d %d\n", fi.Size(), fi.ModTime().UnixNano())
		_, err = io.Copy(sum, f)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("check what was copied: %w", err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}
