package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// mirror is where packages come from; apt checks the release's signature with the host's keyring.
const mirror = "http://deb.debian.org/debian"

// distribution makes a file system from the packages of a recipe. Packages are unpacked and nothing of them is run, so it
// takes neither privileges nor a processor of the image's architecture; what their scripts would do, the recipe does.
type distribution struct {
	recipe  recipe
	entries []entry // expanded, sorted by path
	busybox []byte
	options BuildOptions
	said    func(string)
}

// origin says for people where the packages come from.
func (r *recipe) origin() string {
	if len(r.packages) == 0 {
		return ""
	}
	s := fmt.Sprintf(", Debian %s: %s", r.suite, strings.Join(r.packages, " "))
	for _, n := range r.npm {
		s += fmt.Sprintf(", npm: %s@%s", n.name, n.version)
	}
	return s
}

// write makes the file at path a squashfs.
func (d *distribution) write(ctx context.Context, path string) error {
	for _, tool := range []string{"mmdebstrap", "mksquashfs"} {
		if _, err := exec.LookPath(tool); err != nil {
			return sandbox.Errorf(sandbox.Unavailable, "apt-get install mmdebstrap squashfs-tools (Debian, Ubuntu), or pull a container image with agentkernel image pull",
				"this recipe is made from Debian's packages, and there is no %s on this host", tool)
		}
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	d.said(fmt.Sprintf("unpacking Debian %s: %s", d.recipe.suite, strings.Join(d.recipe.packages, " ")))
	packages := command(running, "mmdebstrap", "--quiet", "--variant=extract", "--format=tar", "--aptopt=APT::Install-Recommends \"false\"",
		"--architectures="+arches[d.options.Arch].debian, "--include="+strings.Join(d.recipe.packages, ","), d.recipe.suite, "-", mirror)
	// The largest blocks that squashfs has, and zstd, which the guest kernel reads: small images matter more here than
	// what the first read of a file costs.
	image := command(running, "mksquashfs", append([]string{
		"-", path, "-tar", "-noappend", "-quiet", "-no-progress", "-reproducible", "-comp", "zstd", "-Xcompression-level", "19", "-b", "1M",
	}, squashfsRoot(0o755, 0, 0)...)...)
	from, err := packages.StdoutPipe()
	if err != nil {
		return err
	}
	to, err := image.StdinPipe()
	if err != nil {
		return err
	}
	if err := packages.Start(); err != nil {
		return fmt.Errorf("start mmdebstrap: %w", err)
	}
	if err := image.Start(); err != nil {
		cancel()
		return errors.Join(fmt.Errorf("start mksquashfs: %w", err), packages.Wait())
	}
	err = d.tree(ctx, from, to)
	if err == nil {
		d.said("compressing")
		err = to.Close()
	}
	if err != nil {
		cancel()
	}
	packagesErr, imageErr := packages.Wait(), image.Wait()
	if err == nil {
		err = cmp.Or(packagesErr, imageErr)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	// A program that fails breaks the pipes of the others, and is the one that says why.
	err = fmt.Errorf("%w%s%s", err, packages.said(), image.said())
	switch {
	case saidFull(image.words.String()):
		return disk.NoSpace(filepath.Dir(path), fmt.Errorf("%w (%w)", err, syscall.ENOSPC))
	case saidFull(packages.words.String()): // it unpacks them there
		return disk.NoSpace(os.TempDir(), fmt.Errorf("%w (%w)", err, syscall.ENOSPC))
	}
	return err
}

// tree reads the packages' files as a tar stream, and writes what the image has as another one.
func (d *distribution) tree(ctx context.Context, from io.Reader, to io.Writer) error {
	w := treeWriter{Writer: tar.NewWriter(to), seen: map[string]bool{}}
	changed := make([]bool, len(d.recipe.unneed))
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the packages' files: %w", err)
		}
		p := path.Clean("/" + h.Name)
		if p == "/" || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || d.recipe.dropped(p) {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			if target := path.Clean("/" + h.Linkname); !w.seen[target] {
				return fmt.Errorf("the recipe drops %s, which %s is a hard link to", target, p)
			}
		}
		var data io.Reader = r
		if h.Typeflag == tar.TypeReg && matches(d.recipe.strip, p) {
			stripped, err := d.strip(ctx, r)
			if err != nil {
				return fmt.Errorf("strip %s: %w", p, err)
			}
			h.Size, data = int64(len(stripped)), bytes.NewReader(stripped)
		}
		for i, u := range d.recipe.unneed {
			if h.Typeflag != tar.TypeReg || !matches(u.patterns, p) {
				continue
			}
			file, err := io.ReadAll(data)
			if err != nil {
				return fmt.Errorf("read %s: %w", p, err)
			}
			done, err := unneed(file, u.library)
			if err != nil {
				return fmt.Errorf("load %s without %s: %w", p, u.library, err)
			}
			changed[i] = changed[i] || done
			data = bytes.NewReader(file)
		}
		if err := w.put(p, *h, data); err != nil {
			return err
		}
	}
	if i := slices.Index(changed, false); i >= 0 {
		u := d.recipe.unneed[i]
		return fmt.Errorf("nothing that %s matches needs %s, so the recipe is out of date", strings.Join(u.patterns, " "), u.library)
	}
	for _, n := range d.recipe.npm {
		d.said(fmt.Sprintf("adding %s %s from the npm registry", n.name, n.version))
		if err := n.put(ctx, &w, d.options.CacheDir, d.recipe.dropped); err != nil {
			return err
		}
	}
	for _, e := range d.entries {
		if w.seen[e.path] {
			continue
		}
		if err := w.entry(e, d.busybox); err != nil {
			return err
		}
	}
	return w.Close()
}

// strip takes out of a program or an archive of objects what only debuggers read. strip(1) of the image's architecture does it.
func (d *distribution) strip(ctx context.Context, from io.Reader) ([]byte, error) {
	f, err := os.CreateTemp("", "agentkernel-strip-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := run(ctx, "", toolchain(d.options.Arch).prefix+"strip", "--strip-debug", "--enable-deterministic-archives", f.Name()); err != nil {
		return nil, err
	}
	return os.ReadFile(f.Name())
}

// treeWriter writes files with times that are always the same, and remembers their paths.
type treeWriter struct {
	*tar.Writer
	seen map[string]bool
}

// put writes a file with the type, mode, owner, size and link of h. p is a clean absolute path.
func (w *treeWriter) put(p string, h tar.Header, data io.Reader) error {
	w.seen[p] = true
	h = tar.Header{
		Name: strings.TrimPrefix(p, "/"), Typeflag: h.Typeflag, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size, Linkname: h.Linkname,
		ModTime: buildTime, Format: tar.FormatPAX,
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := w.WriteHeader(&h); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	if _, err := io.Copy(w.Writer, io.LimitReader(data, h.Size)); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return nil
}

func (w *treeWriter) entry(e entry, busybox []byte) error {
	h := tar.Header{Mode: int64(e.mode.Perm()), Uid: e.uid, Gid: e.gid}
	if e.mode&os.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	var data []byte
	switch e.kind {
	case "dir":
		h.Typeflag = tar.TypeDir
	case "link":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.source, 0o777
	default:
		var err error
		if data, err = e.contents(busybox); err != nil {
			return err
		}
		h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
	}
	return w.put(e.path, h, bytes.NewReader(data))
}

// tool is a program that runs beside this one, in a process group of its own, and whose last words are kept.
type tool struct {
	*exec.Cmd
	words bytes.Buffer
}

func command(ctx context.Context, name string, args ...string) *tool {
	t := &tool{Cmd: exec.CommandContext(ctx, name, args...)}
	t.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LC_") }),
		"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", buildTime.Unix()))
	t.Stderr = &t.words
	t.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}                  // so that Ctrl-C reaches it from here alone
	t.Cancel = func() error { return t.Process.Signal(syscall.SIGTERM) } // mmdebstrap cleans up then
	t.WaitDelay = 10 * time.Second
	return t
}

// said is what the program said, for the end of an error.
func (t *tool) said() string {
	text := strings.Join(strings.Fields(t.words.String()), " ")
	if text == "" {
		return ""
	}
	return "; " + t.Args[0] + ": " + text[max(0, len(text)-500):]
}
