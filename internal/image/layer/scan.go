package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Layer is a layer that was read. Its files' contents are there until Close.
type Layer struct {
	// DiffID is the digest of the archive, decompressed: "sha256:<64 hex>".
	DiffID string
	// Size is how many bytes the archive has, decompressed.
	Size int64
	// Dropped counts extended attributes that no image can have.
	Dropped int

	changes []change
	spool   *spool
}

// Close frees what Scan kept on the host's disk. Trees that the layer was merged into can no longer be read.
func (l *Layer) Close() error {
	if l == nil || l.spool == nil {
		return nil
	}
	return l.spool.f.Close()
}

// change is one entry of a layer's archive.
type change struct {
	kind kind
	dir  string // directory, relative to the root, clean; "" is the root
	name string // last component; empty for the root itself
	node *tree.Node
	link string // of a hard link: the path of its target, relative to the root, clean
}

type kind uint8

const (
	put      kind = iota // node
	hardLink             // another name for what is at link
	whiteout             // delete name of the layers below
	opaque               // delete all that the layers below have in dir
)

// Scan reads a layer. The contents of its files go to an unnamed file in dir. With a diffID, which is not empty, the
// archive must have it. An error names the entry of the archive.
func Scan(ctx context.Context, r io.Reader, dir string, budget *Budget, diffID string) (_ *Layer, err error) {
	archive, done, err := decompress(contextReader{ctx, r})
	if err != nil {
		return nil, damaged(err)
	}
	defer done()
	sp, err := newSpool(dir)
	if err != nil {
		return nil, err
	}
	l := &Layer{spool: sp}
	defer func() {
		if err != nil {
			_ = l.Close()
		}
	}()
	digest := sha256.New()
	counted := &counter{r: io.TeeReader(meter{fragile{archive}, budget, &budget.archive}, digest)}
	t := tar.NewReader(counted)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, damaged(err)
		}
		if err := l.entry(h, t, budget); err != nil {
			return nil, fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
	// What follows the end of the archive counts for its digest.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return nil, fmt.Errorf("read what follows the archive: %w", err)
	}
	if err := sp.flush(); err != nil {
		return nil, err
	}
	l.Size = counted.n
	l.DiffID = "sha256:" + hex.EncodeToString(digest.Sum(nil))
	if diffID != "" && l.DiffID != diffID {
		return nil, &DigestError{Want: diffID, Got: l.DiffID}
	}
	return l, nil
}

// damaged says of an error of reading a layer that it is the layer's, unless it is about a limit, a wait that was called off
// or the host's disk.
func damaged(err error) error {
	var told *sandbox.Error
	if errors.As(err, &told) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// fragile turns the errors of a decompressor into ErrDamaged.
type fragile struct{ io.Reader }

func (f fragile) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = damaged(err)
	}
	return n, err
}

// DigestError says that bytes are not those that a digest stands for.
type DigestError struct{ Want, Got string }

func (e *DigestError) Error() string {
	return fmt.Sprintf("its digest is %s, and should be %s", e.Got, e.Want)
}

// The names that stand for deletions, as AUFS has them: layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh." // AUFS's own files
	opaqueName     = ".wh..wh..opq"
)

func (l *Layer) entry(h *tar.Header, body io.Reader, budget *Budget) error {
	names := int64(len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		names += int64(len(k) + len(v))
	}
	if err := budget.spendEntry(names); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	full, err := inside(h.Name)
	if err != nil {
		return err
	}
	c := change{name: full}
	if i := strings.LastIndexByte(full, '/'); i >= 0 {
		c.dir, c.name = full[:i], full[i+1:]
	}
	switch {
	case c.name == opaqueName:
		c.kind, c.name = opaque, ""
	case strings.HasPrefix(c.name, metaPrefix):
		return nil
	case strings.HasPrefix(c.name, whiteoutPrefix):
		c.kind, c.name = whiteout, strings.TrimPrefix(c.name, whiteoutPrefix)
		if c.name == "" || c.name == "." || c.name == ".." {
			return errors.New("a whiteout of nothing")
		}
	case h.Typeflag == tar.TypeLink:
		c.kind = hardLink
		if c.link, err = inside(h.Linkname); err != nil {
			return fmt.Errorf("its target: %w", err)
		}
	default:
		if c.node, err = l.node(h, body, budget); err != nil {
			return err
		}
	}
	if c.name == "" && (c.kind == hardLink || c.kind == put && !c.node.IsDir()) {
		return errors.New("the root is no directory")
	}
	l.changes = append(l.changes, c)
	return nil
}

// inside returns a path of an archive relative to the root of the image: clean, without a leading slash, "" for the root.
// One that leads out of the image is an error.
func inside(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("a NUL byte in a path")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	switch {
	case len(clean) > tree.MaxPath:
		return "", fmt.Errorf("a path of %d bytes, and %d are possible", len(clean), tree.MaxPath)
	case clean == ".":
		return "", nil
	case clean == "..", strings.HasPrefix(clean, "../"):
		return "", fmt.Errorf("the path %.200q leads out of the image", name)
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > tree.MaxName {
			return "", fmt.Errorf("a name of %d bytes, and %d are possible", len(part), tree.MaxName)
		}
	}
	return clean, nil
}

func (l *Layer) node(h *tar.Header, body io.Reader, budget *Budget) (*tree.Node, error) {
	n := &tree.Node{Mode: uint32(h.Mode & 0o7777)}
	for _, id := range []struct {
		from int
		to   *uint32
	}{{h.Uid, &n.UID}, {h.Gid, &n.GID}} {
		if id.from < 0 || int64(id.from) >= math.MaxUint32 { // the greatest stands for none: chown(2)
			return nil, fmt.Errorf("user or group id %d", id.from)
		}
		*id.to = uint32(id.from)
	}
	n.Mtime = tree.Time{Sec: h.ModTime.Unix(), Nsec: uint32(h.ModTime.Nanosecond())}
	if err := l.xattrs(n, h.PAXRecords); err != nil {
		return nil, err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		n.Mode |= tree.TypeDir
	case tar.TypeSymlink:
		n.Mode |= tree.TypeSymlink
		n.Target = h.Linkname
		if n.Target == "" || len(n.Target) > tree.MaxPath || strings.IndexByte(n.Target, 0) >= 0 {
			return nil, fmt.Errorf("a symbolic link to %.200q", n.Target)
		}
	case tar.TypeFifo:
		n.Mode |= tree.TypeFIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= tree.TypeChar
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&^tree.TypeMask | tree.TypeBlock
		}
		// The kernel's limits: MINORBITS of linux/kdev_t.h.
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, fmt.Errorf("device number %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		n.Mode |= tree.TypeRegular
		if h.Size < 0 {
			return nil, fmt.Errorf("a size of %d", h.Size)
		}
		if h.Size == 0 {
			break
		}
		// A sparse file's holes are not in the archive, and take room all the same.
		var err error
		if n.Contents, err = l.spool.add(meter{body, budget, &budget.contents}, h.Size); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("an entry of type %q, which no file system has", h.Typeflag)
	}
	return n, nil
}

func (l *Layer) xattrs(n *tree.Node, records map[string]string) error {
	for k, v := range records {
		name, ok := strings.CutPrefix(k, tree.XattrRecord)
		if !ok {
			continue
		}
		if !tree.XattrSupported(name) {
			l.Dropped++
			continue
		}
		if len(v) > tree.MaxXattrValue {
			return fmt.Errorf("the extended attribute %s has %d bytes, and %d are possible", name, len(v), tree.MaxXattrValue)
		}
		if n.Xattrs == nil {
			n.Xattrs = make(map[string]string)
		}
		n.Xattrs[name] = v
	}
	return nil
}

// contextReader fails when ctx has ended.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
