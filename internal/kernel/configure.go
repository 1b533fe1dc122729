package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// prepare makes a source tree that is patched and configured as the recipe
// says, or fails naming what differs.
func (b *builder) prepare(ctx context.Context, r *runner, tc toolchain, rec recipe, src source) error {
	b.report(Event{Phase: PhaseUnpack, Detail: filepath.Base(src.Path)})
	abs, err := filepath.Abs(src.Path)
	if err != nil {
		return fmt.Errorf("find kernel source: %w", err)
	}
	if err := r.run(ctx, nil, nil, "tar", "--extract", "--no-same-owner", "--strip-components=1", "--force-local", "--file", abs); err != nil {
		return err
	}

	b.report(Event{Phase: PhaseConfigure})
	for _, p := range rec.Patches {
		if err := r.run(ctx, strings.NewReader(string(p.Text)), nil, "patch", "-p1", "--forward", "--batch"); err != nil {
			return fmt.Errorf("%s does not apply to kernel %s: %w", p.Name, src.Version, err)
		}
	}
	if err := r.make(ctx, tc, rec.Arch, nil, "tinyconfig"); err != nil {
		return err
	}
	path := filepath.Join(r.dir, ".config")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("append to .config: %w", err)
	}
	if err := errors.Join(writeSymbols(f, rec.Symbols), f.Close()); err != nil {
		return err
	}
	if err := r.make(ctx, tc, rec.Arch, nil, "olddefconfig"); err != nil {
		return err
	}
	return checkTree(r.dir, rec.Symbols)
}

// checkTree compares a configured tree's .config with what was wanted.
func checkTree(tree string, wanted []symbol) error {
	f, err := os.Open(filepath.Join(tree, ".config"))
	if err != nil {
		return fmt.Errorf("read .config: %w", err)
	}
	defer f.Close()
	config, err := parseConfig(f)
	if err != nil {
		return err
	}
	names, err := kconfigNames(os.DirFS(tree))
	if err != nil {
		return err
	}
	return checkSymbols(wanted, config, func(name string) bool { return names[name] })
}

// checkRelease makes sure, before the long part, that `uname -r` will be what
// the files are named after.
func checkRelease(ctx context.Context, r *runner, tc toolchain, k Kernel) error {
	const name = "include/config/kernel.release"
	if err := r.make(ctx, tc, k.Arch, nil, name); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		return fmt.Errorf("read the release's name: %w", err)
	}
	release := strings.TrimSpace(string(text))
	if release != k.Release() {
		return fmt.Errorf("the source would build release %q instead of %q: it carries a local version of its own", release, k.Release())
	}
	return nil
}

// make runs the kernel's make for an architecture.
func (r *runner) make(ctx context.Context, tc toolchain, arch Arch, onLine func(string), args ...string) error {
	args = append([]string{"ARCH=" + arch.makeArch(), "CROSS_COMPILE=" + tc.Cross}, args...)
	return r.run(ctx, nil, onLine, "make", args...)
}

// enoughRoom checks that a directory's file system has so many bytes free.
func enoughRoom(dir string, want uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("building a kernel needs %d MiB in %s, of which %d MiB are free", want>>20, dir, free>>20)
	}
	return nil
}
