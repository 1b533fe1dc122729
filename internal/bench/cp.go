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

	units "github.com/docker/go-units"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// CopySpec says what is copied: one file of so many bytes, and a tree of so many files of up to 4 KiB.
type CopySpec struct {
	Bytes int64
	Files int
}

// Copy copies a file and a tree into one running sandbox and out of it again with the command line, and with docker into a
// container and out of it, in turns. What comes back must be what was sent.
func Copy(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "cp", Title: "Copies"}
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	s.Setup = e.setup(sb) + "; one copy each"
	sides := []copySide{{name: "agentkernel cp", program: e.Self, where: sb.Name}}
	for _, rival := range e.Rivals {
		d, ok := rival.(*docker)
		if !ok {
			s.Note("%s has no command for copies", rival.Name())
			continue
		}
		id, err := d.container(ctx)
		if err != nil {
			return s, err
		}
		sides = append(sides, copySide{name: "docker cp", program: "docker", where: id})
	}
	dir, err := os.MkdirTemp("", "agentkernel-bench-")
	if err != nil {
		return s, fmt.Errorf("make what is copied: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for i, what := range []struct {
		name, title string
		make        func(path string) (int64, error)
	}{
		{"file", "a file of %s", func(path string) (int64, error) { return e.Copy.Bytes, randomFile(path, e.Copy.Bytes) }},
		{"tree", fmt.Sprintf("%d files with %%s", e.Copy.Files), func(path string) (int64, error) { return randomTree(path, e.Copy.Files) }},
	} {
		if i == 0 && e.Copy.Bytes == 0 || i == 1 && e.Copy.Files == 0 {
			continue
		}
		src := filepath.Join(dir, what.name)
		size, err := what.make(src)
		if err != nil {
			return s, fmt.Errorf("make what is copied: %w", err)
		}
		if err := copyBothWays(ctx, &s, sides, src, fmt.Sprintf(what.title, units.BytesSize(float64(size))), size); err != nil {
			return s, err
		}
	}
	return s, nil
}

// copySide is a program that copies, and where to.
type copySide struct{ name, program, where string }

// copyBothWays copies src to each side, and then from each.
func copyBothWays(ctx context.Context, s *Section, sides []copySide, src, title string, size int64) error {
	want, err := digest(src)
	if err != nil {
		return err
	}
	inside := "/bench-" + filepath.Base(src) // on the disk of sandbox and container
	for _, direction := range []string{"into", "out of"} {
		var first time.Duration
		for i, side := range sides {
			back := src + "-" + side.where
			args := []string{"cp", src, side.where + ":" + inside}
			if direction == "out of" {
				args = []string{"cp", side.where + ":" + inside, back}
			}
			took, err := timeCommand(ctx, side.program, args...)
			if err != nil {
				return err
			}
			what := title + ", " + direction + ": "
			s.Add(what+side.name, float64(size)/(1<<20)/took.Seconds(), "MiB/s")
			if i == 0 {
				first = took
			} else {
				s.Add(what+"throughput of "+sides[0].name+" / "+side.name, took.Seconds()/first.Seconds(), Ratio)
			}
			if direction == "into" || i > 0 { // what others keep of a file's times is their business
				continue
			}
			if got, err := digest(back); err != nil || got != want {
				return errors.Join(err, fmt.Errorf("%s came back changed from %s", title, side.name))
			}
		}
	}
	return nil
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
