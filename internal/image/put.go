package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/image/erofs"
	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// PutOptions say what an image is to be.
type PutOptions struct {
	Name   string
	Arch   sandbox.Arch
	Format string // Erofs, Squashfs or Ext4; empty for Erofs
	// Level of compression of Erofs: erofs.Options.
	Level  int
	Source string               // for people: what it was made from
	Config *sandbox.ImageConfig // may be nil
	Origin *Origin              // may be nil
	// BuildKey stands for all that the image was built from, so that the same need not be built again (ByBuildKey); may be empty.
	BuildKey string
	// BuildTime is written into the file system: the same tree gives the same bytes only with the same time.
	BuildTime time.Time
}

// DefaultLevel of compression: LZ4HC in half the time of the highest level, and 3 % larger.
const DefaultLevel = 3

// Formats lists the file systems that PutTree writes.
var Formats = []string{Erofs, Ext4, Squashfs}

func (o *PutOptions) check() error {
	if o.Format == "" {
		o.Format = Erofs
	}
	if !slices.Contains(Formats, o.Format) {
		return sandbox.Errorf(sandbox.Invalid, "choose one of "+strings.Join(Formats, ", "), "unknown format %q", o.Format)
	}
	if o.Level < 0 || o.Level > 9 {
		return sandbox.Errorf(sandbox.Invalid, "choose 0 to 9", "unknown level of compression %d", o.Level)
	}
	if o.Format != Erofs {
		o.Level = 0
	}
	if err := validateArch(o.Arch); err != nil {
		return err
	}
	return validateName(o.Name)
}

// PutTree makes an image of a tree and puts it into the store under a name, which stood for something else before, or for
// nothing. Nothing of the tree is written to the host but the image.
func (s *Store) PutTree(ctx context.Context, root *tree.Node, o PutOptions) (Manifest, error) {
	if err := o.check(); err != nil {
		return Manifest{}, err
	}
	var m Manifest
	write := func(f *os.File) error {
		switch o.Format {
		case Squashfs:
			return writeSquashfs(ctx, f, root)
		case Ext4:
			return writeExt4(ctx, f, root)
		}
		return erofs.Write(ctx, f, root, erofs.Options{Level: o.Level, BuildTime: o.BuildTime.Unix()})
	}
	_, err := s.putFile(ctx, write, func(b blob) error {
		m = Manifest{
			Version: manifestVersion, Name: o.Name, Arch: o.Arch, Digest: b.digest, FS: b.fs, Size: b.size,
			Created: time.Now().UTC().Truncate(time.Second), Source: o.Source, Config: o.Config, Origin: o.Origin, Level: o.Level, BuildKey: o.BuildKey,
		}
		return s.writeManifest(m)
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("write the image %s: %w", o.Name, err)
	}
	return m, nil
}

// PutTar makes an image of a tar archive, compressed or not, and puts it into the store: PutTree of what is in it. A limit
// of 0 is the default one.
func (s *Store) PutTar(ctx context.Context, r io.Reader, limits layer.Limits, o PutOptions) (Manifest, error) {
	dir, err := s.spoolDir()
	if err != nil {
		return Manifest{}, err
	}
	l, err := layer.Scan(ctx, r, dir, layer.NewBudget(limits), "")
	if err != nil {
		return Manifest{}, fmt.Errorf("read the archive of image %s: %w", o.Name, err)
	}
	defer l.Close()
	root := tree.New(tree.Time{Sec: o.BuildTime.Unix()})
	if err := l.Merge(root, 0); err != nil {
		return Manifest{}, fmt.Errorf("read the archive of image %s: %w", o.Name, err)
	}
	return s.PutTree(ctx, root, o)
}

// spoolDir is where unnamed files are kept while an image is made: on the same disk as the image, which is known to be made
// for such sizes.
func (s *Store) spoolDir() (string, error) {
	dir := s.blobDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the image store: %w", err)
	}
	return dir, nil
}

// putFile puts a file that write makes into the store. Nothing removes it before name has returned, which gives it a name.
func (s *Store) putFile(ctx context.Context, write func(*os.File) error, name func(blob) error) (b blob, err error) {
	dir, err := s.spoolDir()
	if err != nil {
		return b, err
	}
	tmp, err := os.CreateTemp(dir, ".blob-*")
	if err != nil {
		return b, disk.NoSpace(dir, err)
	}
	defer func() {
		_ = tmp.Close()
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := write(tmp); err != nil {
		return b, disk.NoSpace(dir, err)
	}
	return s.keep(ctx, tmp, name)
}
