package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// compilation is what a recipe has compiled from Debian's sources. Unlike what comes in packages, it is made for its purpose, and is
// a fraction of their size.
type compilation struct {
	sources []suitePackages // source packages
	unpack  []suitePackages // binary packages that the script needs
	script  []byte          // for sh; build.sh of the recipe base says what it is given
}

// suitePackages are packages of a release of Debian.
type suitePackages struct {
	suite string
	names []string
}

// compiled is the result, kept on this host.
type compiled struct {
	root    string   // directory with the file system
	sources []string // for people: "git 1:2.47.3-0+deb13u1"
}

// The directory of a result: what the script has made, and the names of the sources.
const (
	compiledRoot    = "root"
	compiledSources = "sources"
)

func (c *compilation) suites() []string {
	var suites []string
	for _, s := range append(append([]suitePackages{}, c.sources...), c.unpack...) {
		if !slices.Contains(suites, s.suite) {
			suites = append(suites, s.suite)
		}
	}
	return suites
}

// key stands for everything that is known before anything is downloaded. New versions of the sources do not change it.
func (c *compilation) key(arch sandbox.Arch, compiler string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %s %q %v %v %q", arch, compiler, c.sources, c.unpack, c.script))
	return hex.EncodeToString(sum[:12])
}

// make compiles, unless it was done before with the same script and compiler (again has it done all the same).
func (c *compilation) make(ctx context.Context, o BuildOptions, said func(string)) (r compiled, err error) {
	cc := toolchain(o.Arch)
	version, err := cc.version(ctx)
	if err != nil {
		return r, err
	}
	key := c.key(o.Arch, version)
	if err := os.MkdirAll(o.CacheDir, 0o700); err != nil {
		return r, fmt.Errorf("make the cache: %w", err)
	}
	unlock, err := filelock.Lock(ctx, filepath.Join(o.CacheDir, "built-"+key+".lock"), func() { said("waiting for another process that compiles the same") })
	if err != nil {
		return r, err
	}
	defer unlock()
	dir := filepath.Join(o.CacheDir, "built-"+key)
	if !o.Again {
		if r, err := readCompiled(dir); err == nil {
			return r, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	work, err := os.MkdirTemp(o.CacheDir, ".build-*")
	if err != nil {
		return r, fmt.Errorf("make room to compile in: %w", err)
	}
	defer os.RemoveAll(work)
	names, err := c.download(ctx, work, o.Arch, said)
	if errors.Is(err, syscall.ENOSPC) {
		return r, disk.NoSpace(o.CacheDir, err)
	}
	if err != nil {
		return r, sandbox.Errorf(sandbox.Unavailable, "apt-get install build-essential debian-archive-keyring, and let Debian's archive be reached", "get what the image is compiled from: %w", err)
	}
	result := filepath.Join(work, "result")
	if err := c.compile(ctx, cc, work, filepath.Join(result, compiledRoot), said); err != nil {
		return r, disk.NoSpace(o.CacheDir, err)
	}
	if err := os.WriteFile(filepath.Join(result, compiledSources), []byte(strings.Join(names, "\n")), 0o600); err != nil {
		return r, disk.NoSpace(o.CacheDir, fmt.Errorf("keep what was compiled: %w", err))
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(result, dir)); err != nil {
		return r, fmt.Errorf("keep what was compiled: %w", err)
	}
	return readCompiled(dir)
}

func readCompiled(dir string) (r compiled, err error) {
	text, err := os.ReadFile(filepath.Join(dir, compiledSources))
	if err != nil {
		return r, fmt.Errorf("read what was compiled before: %w", err)
	}
	return compiled{root: filepath.Join(dir, compiledRoot), sources: strings.Split(string(text), "\n")}, nil
}

// download gets sources and packages into work/src, each in a directory of its own name, and returns the sources' versions.
func (c *compilation) download(ctx context.Context, work string, arch sandbox.Arch, said func(string)) (versions []string, err error) {
	aptDir, src := filepath.Join(work, "apt"), filepath.Join(work, "src")
	if err := os.MkdirAll(src, 0o700); err != nil {
		return nil, err
	}
	a, err := newApt(aptDir, arch, c.suites()...)
	if err != nil {
		return nil, err
	}
	said("downloading sources from Debian (about 60 MB, once)")
	if err := a.run(ctx, aptDir, "update"); err != nil {
		return nil, err
	}
	for _, s := range c.unpack {
		for _, name := range s.names {
			if err := a.unpack(ctx, name+"/"+s.suite, filepath.Join(src, name)); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range c.sources {
		for _, name := range s.names {
			dir, err := os.MkdirTemp(aptDir, "source-*")
			if err != nil {
				return nil, err
			}
			if err := a.run(ctx, dir, "source", "--download-only", name+"/"+s.suite); err != nil {
				return nil, err
			}
			dsc, err := filepath.Glob(filepath.Join(dir, "*.dsc"))
			if err != nil || len(dsc) != 1 {
				return nil, fmt.Errorf("the source package %s has %d descriptions", name, len(dsc))
			}
			if err := run(ctx, dir, "dpkg-source", "--no-check", "--extract", dsc[0], filepath.Join(src, name)); err != nil {
				return nil, err
			}
			_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(dsc[0]), ".dsc"), "_")
			versions = append(versions, name+" "+version)
		}
	}
	return versions, nil
}

// compile runs the script.
func (c *compilation) compile(ctx context.Context, cc compiler, work, out string, said func(string)) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make room to compile in: %w", err)
	}
	cmd := exec.CommandContext(ctx, "sh", "-s")
	cmd.Stdin = bytes.NewReader(c.script)
	cmd.Dir = work
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + work, "LC_ALL=C", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", buildTime.Unix()),
		"SRC=" + filepath.Join(work, "src"), "OUT=" + out, "CC=" + cc.program(), "CROSS=" + cc.prefix, "TRIPLET=" + cc.triplet, fmt.Sprintf("JOBS=%d", runtime.NumCPU()),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	output := &steps{said: said}
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return failed("compile", err, string(output.last))
	}
	return nil
}

// steps passes on the lines "step NAME" of what a script says, and keeps the last words of all.
type steps struct {
	said func(string)
	last []byte
}

func (s *steps) Write(p []byte) (int, error) {
	for sc := bufio.NewScanner(bytes.NewReader(p)); sc.Scan(); {
		if name, ok := strings.CutPrefix(sc.Text(), "step "); ok {
			s.said("compiling " + name)
		}
	}
	s.last = append(s.last, p...)
	s.last = s.last[max(0, len(s.last)-1000):]
	return len(p), nil
}

// compiler is a C compiler for an architecture.
type compiler struct{ prefix, triplet string }

// toolchain is this host's own compiler, or Debian's for another architecture.
func toolchain(arch sandbox.Arch) compiler {
	triplet := string(arch) + "-linux-gnu"
	if runtime.GOOS == "linux" && arches[arch].goarch == runtime.GOARCH {
		return compiler{"", triplet}
	}
	return compiler{triplet + "-", triplet}
}

func (c compiler) program() string { return c.prefix + "gcc" }

func (c compiler) version(ctx context.Context) (string, error) {
	hint := "apt-get install build-essential"
	if c.prefix != "" {
		hint = "apt-get install gcc-" + strings.ReplaceAll(c.triplet, "_", "-")
	}
	out, err := exec.CommandContext(ctx, c.program(), "-dumpfullversion", "-dumpmachine").Output()
	if err != nil {
		return "", sandbox.Errorf(sandbox.Unavailable, hint, "the image is compiled, and %s does not run: %w", c.program(), err)
	}
	return string(out), nil
}

// entries are the files of the result, but for directories that the recipe has.
func (r compiled) entries(have []entry) ([]entry, error) {
	root, err := os.OpenRoot(r.root)
	if err != nil {
		return nil, fmt.Errorf("read what was compiled: %w", err)
	}
	defer root.Close()
	files := os.DirFS(r.root)
	var list []entry
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e := entry{path: path.Join("/", p), source: p, files: files}
		switch {
		case d.IsDir():
			if p == "." || slices.ContainsFunc(have, func(h entry) bool { return h.path == e.path }) {
				return nil
			}
			e.kind, e.mode = "dir", 0o755
		case d.Type()&fs.ModeSymlink != 0:
			e.kind = "link"
			if e.source, err = root.Readlink(p); err != nil {
				return err
			}
		default:
			info, err := d.Info()
			if err != nil {
				return err
			}
			e.kind, e.mode = "file", 0o644
			if info.Mode()&0o100 != 0 {
				e.mode = 0o755
			}
		}
		list = append(list, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what was compiled: %w", err)
	}
	return list, nil
}
