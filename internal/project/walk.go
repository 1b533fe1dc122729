package project

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// What ext4, the writer of it, and the guest can hold.
const (
	maxPath    = 4095 - len("/workspace/") // PATH_MAX with its NUL: what has a longer path could not be opened
	maxFile    = 40 << 30                  // bytes; tar2ext4 writes wrong extents above 42.5 GiB
	maxSubdirs = 64_990                    // of one directory: each is a link to it, and ext4 has 65,000
	maxLinks   = 64_990
	maxEntries = 2_000_000 // the writer of ext4 keeps some 900 bytes of each in memory until it is done
)

// walker writes a tree to a tar stream, sorted by name; or with no stream only looks at it.
type walker struct {
	ctx      context.Context
	top      *os.Root
	out      *tar.Writer // nil to look only: then no file is opened but those with ignore rules
	report   *Report
	progress func(Report)
	links    map[inode]*linked // files with more than one name
	buf      []byte
	entries  int
	reported int64 // Bytes at the last progress

	look   hash.Hash // of all that is packed: see
	line   []byte
	newest time.Time // the last change of any of it
}

func newWalker(ctx context.Context, top *os.Root, out io.Writer, report *Report, progress func(Report)) *walker {
	w := &walker{ctx: ctx, top: top, report: report, progress: progress, links: map[inode]*linked{}, look: sha256.New()}
	if out != nil {
		w.out, w.buf = tar.NewWriter(out), make([]byte, 256<<10)
	}
	_, _ = io.WriteString(w.look, lookVersion)
	return w
}

type inode struct{ dev, ino uint64 }

type linked struct {
	path  string
	count int
}

// scope is what holds for the entries of a directory.
type scope struct {
	repo  *repo
	rules *rules
	// all is set inside .git: nothing is ignored there. only is set inside an ignored directory: nothing but what is
	// tracked is packed.
	all, only bool
}

// walk packs the whole tree.
func (w *walker) walk() error {
	info, err := w.top.Stat(".")
	if err != nil {
		return err
	}
	if err := w.header("./", info, tar.TypeDir, ""); err != nil {
		return err
	}
	return w.dir(w.top, ".", scope{repo: &repo{}})
}

// dir packs what is in a directory; its own entry has been written.
func (w *walker) dir(d *os.Root, at string, s scope) error {
	names, err := list(d)
	if err != nil {
		if at == "." {
			return fmt.Errorf("list %s: %w", d.Name(), cause(err))
		}
		w.report.Unreadable.add(at)
		return nil
	}
	if _, found := slices.BinarySearch(names, ".git"); found && !s.all {
		if r, exclude, ok := openRepo(w.top, d, at, w.note); ok {
			s = scope{repo: r, rules: exclude}
		}
	}
	if _, found := slices.BinarySearch(names, ".gitignore"); found && !s.all && !s.only {
		s.rules = w.withIgnoreFile(d, at, s)
	}
	subdirs := 0
	for _, name := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(d, at, name, s, &subdirs); err != nil {
			return err
		}
	}
	return nil
}

// list returns the names in a directory, sorted by bytes.
func list(d *os.Root) ([]string, error) {
	f, err := d.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// withIgnoreFile adds the .gitignore of a directory to the rules. Like git, it takes no symbolic link for one.
func (w *walker) withIgnoreFile(d *os.Root, at string, s scope) *rules {
	if info, err := d.Lstat(".gitignore"); err != nil || !info.Mode().IsRegular() {
		return s.rules
	}
	data, err := readFile(d, ".gitignore", maxIgnoreFile)
	if err != nil {
		w.note(fmt.Sprintf("the ignore rules in %q were not used: %v", join(at, ".gitignore"), cause(err)))
		return s.rules
	}
	base := ""
	if at != "." {
		base = s.repo.rel(at + "/")
	}
	return s.rules.with(base, string(data))
}

// entry packs one entry of a directory. subdirs counts the directories so far.
func (w *walker) entry(d *os.Root, at, name string, s scope, subdirs *int) error {
	path := join(at, name)
	info, err := d.Lstat(name)
	if err != nil {
		w.skip(path, err)
		return nil
	}
	isDir := info.IsDir()
	if len(path) > maxPath || path == lostFound && !isDir {
		w.report.Unfit.add(path)
		return nil
	}
	switch {
	case s.all:
	case name == ".git":
		s.all, s.only = true, false
	case s.only || s.rules.ignored(s.repo.rel(path), isDir):
		rel := s.repo.rel(path)
		switch {
		case s.repo.tracked.file(rel): // also a submodule, whose rules follow when it is entered
		case isDir && s.repo.tracked.below(rel):
			s.only = true
		default:
			w.report.Ignored++
			return nil
		}
	}
	if w.entries++; w.entries > maxEntries {
		return sandbox.Errorf(sandbox.Invalid, "leave some out with a .gitignore", "the project has more than %d files and directories", maxEntries)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if *subdirs++; *subdirs > maxSubdirs {
			w.report.Unfit.add(path)
			return nil
		}
		return w.subdir(d, path, name, info, s)
	case fs.ModeSymlink:
		return w.symlink(d, path, name, info)
	case 0:
		return w.file(d, path, name, info)
	}
	w.report.Special++
	return nil
}

func (w *walker) subdir(d *os.Root, path, name string, info fs.FileInfo, s scope) error {
	sub, err := d.OpenRoot(name)
	if err != nil {
		w.skip(path, err)
		if !errors.Is(err, fs.ErrPermission) {
			return nil
		}
		w.report.Dirs++ // its name and permissions are known, if nothing else
		return w.header(path+"/", info, tar.TypeDir, "")
	}
	defer sub.Close()
	// A symbolic link to another directory of the tree may have taken its place since.
	if now, err := sub.Stat("."); err != nil || !os.SameFile(info, now) {
		w.report.Changed.add(path)
		return nil
	}
	w.report.Dirs++
	if err := w.header(path+"/", info, tar.TypeDir, ""); err != nil {
		return err
	}
	return w.dir(sub, path, s)
}

func (w *walker) symlink(d *os.Root, path, name string, info fs.FileInfo) error {
	target, err := d.Readlink(name)
	if err != nil {
		w.skip(path, err)
		return nil
	}
	if w.packedBefore(info) {
		return w.hardLink(path, info)
	}
	w.report.Symlinks++
	w.remember(path, info)
	return w.header(path, info, tar.TypeSymlink, target)
}

func (w *walker) file(d *os.Root, path, name string, info fs.FileInfo) error {
	if info.Size() > maxFile {
		w.report.Unfit.add(path)
		return nil
	}
	if w.packedBefore(info) {
		return w.hardLink(path, info)
	}
	if w.out == nil {
		w.report.Files++
		w.report.Bytes += info.Size()
		w.remember(path, info)
		return w.header(path, info, tar.TypeReg, "")
	}
	f, err := d.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		w.skip(path, err)
		return nil
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil || !os.SameFile(info, now) || now.Size() > maxFile {
		w.report.Changed.add(path) // another file has taken its place
		return nil
	}
	w.report.Files++
	w.report.Bytes += now.Size()
	w.remember(path, now)
	if err := w.header(path, now, tar.TypeReg, ""); err != nil {
		return err
	}
	if err := w.contents(f, path, now); err != nil {
		return err
	}
	w.tell()
	return nil
}

// contents writes as many bytes as the header said, whatever becomes of the file meanwhile.
func (w *walker) contents(f *os.File, path string, info fs.FileInfo) error {
	left := info.Size()
	for left > 0 {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		n, err := f.Read(w.buf[:min(int64(len(w.buf)), left)])
		if _, err := w.out.Write(w.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %q: %w", path, cause(err))
		}
	}
	if left > 0 {
		clear(w.buf)
	}
	for shrunk := left; shrunk > 0; {
		n, err := w.out.Write(w.buf[:min(int64(len(w.buf)), shrunk)])
		if err != nil {
			return err
		}
		shrunk -= int64(n)
	}
	now, err := f.Stat()
	if left > 0 || err != nil || now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		w.report.Changed.add(path)
	}
	return nil
}

// header writes an entry of the tar stream. Times and permissions are all that is taken over of info.
func (w *walker) header(path string, info fs.FileInfo, kind byte, target string) error {
	w.see(path, info, kind, target)
	if w.out == nil {
		return nil
	}
	when := info.ModTime()
	if when.Unix() < 0 {
		when = time.Unix(0, 0) // tar2ext4 gets the years before 1970 wrong
	}
	h := &tar.Header{
		Typeflag: kind, Name: path, Linkname: target, Format: tar.FormatPAX, Mode: int64(info.Mode().Perm()),
		ModTime: when, AccessTime: when, ChangeTime: when,
	}
	for bit, mode := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if info.Mode()&mode != 0 {
			h.Mode |= bit
		}
	}
	if kind == tar.TypeReg {
		h.Size = info.Size()
	}
	if err := w.out.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %q: %w", path, err)
	}
	return nil
}

// remember keeps the path of a file that has more names.
func (w *walker) remember(path string, info fs.FileInfo) {
	if id, links := identity(info); links > 1 {
		w.links[id] = &linked{path: path, count: 1}
	}
}

// packedBefore reports whether a file has been packed under another name that can take one more.
func (w *walker) packedBefore(info fs.FileInfo) bool {
	id, links := identity(info)
	l := w.links[id]
	return links > 1 && l != nil && l.count < maxLinks
}

func (w *walker) hardLink(path string, info fs.FileInfo) error {
	id, _ := identity(info)
	l := w.links[id]
	l.count++
	w.report.HardLinks++
	return w.header(path, info, tar.TypeLink, l.path)
}

func identity(info fs.FileInfo) (inode, uint64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, 1
	}
	return inode{uint64(st.Dev), uint64(st.Ino)}, uint64(st.Nlink)
}

// skip notes why something could not be opened.
func (w *walker) skip(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		w.report.Changed.add(path) // it was in the list a moment ago
		return
	}
	w.report.Unreadable.add(path)
}

func (w *walker) note(line string) {
	if len(w.report.Notes) < maxExamples {
		w.report.Notes = append(w.report.Notes, line)
	}
}

// tell reports progress, not for every file.
func (w *walker) tell() {
	if w.progress != nil && (w.report.Files%256 == 0 || w.report.Bytes-w.reported >= 16<<20) {
		w.reported = w.report.Bytes
		w.progress(*w.report)
	}
}

func join(at, name string) string {
	if at == "." {
		return name
	}
	return strings.Join([]string{at, name}, "/")
}
