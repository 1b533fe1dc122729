package vmmrelease

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// programs are what is taken out of an archive.
var programs = []string{"firecracker", "jailer"}

// maxProgram bounds one of them, in bytes; those of 2026 have 4 MB.
const maxProgram = 64 << 20

// unfinished is the pattern of the names of directories that are being filled.
const unfinished = ".new-*"

var machines = map[sandbox.Arch]elf.Machine{sandbox.X8664: elf.EM_X86_64, sandbox.AArch64: elf.EM_AARCH64}

// install makes dir from an archive, in one step.
func install(ctx context.Context, archive, dir string, o Options) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), unfinished)) // by a crash: whoever unpacks holds the lock
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what an interrupted setup has left: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), unfinished)
	if err != nil {
		return fmt.Errorf("make room for the release: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := unpack(archive, tmp, o.Arch); err != nil {
		return fmt.Errorf("unpack the release: %w", err)
	}
	for _, name := range programs {
		path := filepath.Join(tmp, name)
		if err := checkProgram(path, o.Arch); err != nil {
			return fmt.Errorf("%s of the release: %w", name, err)
		}
		version, err := o.Check(ctx, path)
		if err != nil {
			return fmt.Errorf("%s of the release does not run: %w", name, err)
		}
		if version != Version {
			return fmt.Errorf("%s of the release says that its version is %s, not %s", name, version, Version)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // the jailer's users must be able to run them
		return fmt.Errorf("put the release in place: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil { // one that is not right
		return fmt.Errorf("remove what is left of the release: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("put the release in place: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// unpack takes the programs out of an archive and nothing else. Where they are in it is fixed, and names the release.
func unpack(archive, dir string, arch sandbox.Arch) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	left := slices.Clone(programs)
	for r := tar.NewReader(z); len(left) > 0; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("there is no %s in it", left[0])
		}
		if err != nil {
			return err
		}
		i := slices.IndexFunc(left, func(name string) bool {
			return h.Name == fmt.Sprintf("release-v%s-%s/%s-v%s-%s", Version, arch, name, Version, arch)
		})
		if i < 0 {
			continue
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxProgram {
			return fmt.Errorf("%s is no file of at most %d MiB", h.Name, maxProgram>>20)
		}
		if err := writeProgram(filepath.Join(dir, left[i]), r); err != nil {
			return err
		}
		left = slices.Delete(left, i, i+1)
	}
	return nil
}

func writeProgram(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close())
}

// checkProgram looks at a program before it is run.
func checkProgram(path string, arch sandbox.Arch) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Machine != machines[arch] {
		return fmt.Errorf("it is a program for %s, not for %s", f.Machine, arch)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
