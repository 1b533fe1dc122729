package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Store is a directory of images. It has no state in memory.
type Store struct {
	root string
}

// Open returns the store at root, which must be an absolute path. It is made when something is put into it.
func Open(root string) *Store { return &Store{root: root} }

func (s *Store) blobDir() string { return filepath.Join(s.root, "blobs", "sha256") }

// Resolve finds an image by name and architecture, or by the path of a file. A file is put into the store first (which
// hashes it, and copies it the first time), so that it can change or go away without harm to a sandbox; what it is for is
// not known then, and Image.Arch is empty. Errors are *sandbox.Error with a hint.
func (s *Store) Resolve(ctx context.Context, ref string, arch sandbox.Arch) (sandbox.Image, error) {
	if IsPath(ref) {
		b, err := s.add(ctx, ref, func(blob) error { return nil })
		if err != nil {
			return sandbox.Image{}, err
		}
		return sandbox.Image{Name: ref, Digest: b.digest, FS: b.fs, Path: b.path}, nil
	}
	m, err := s.Get(ref, arch)
	if err != nil {
		return sandbox.Image{}, err
	}
	img, err := s.OpenDigest(ctx, m.Digest)
	if err != nil {
		var e *sandbox.Error
		if errors.As(err, &e) {
			e.Message, e.Hint = fmt.Sprintf("image %q: %s", ref, e.Message), buildHint(ref, arch)
		}
		return sandbox.Image{}, err
	}
	img.Name, img.Arch, img.Config = m.Name, m.Arch, m.Config
	return img, nil
}

// Get returns the manifest of an image: of the name as it is, else of what the name means to docker, so that alpine finds
// alpine:latest, and docker.io/library/alpine:3.20 finds alpine:3.20. When there is none, the error names those that exist.
func (s *Store) Get(name string, arch sandbox.Arch) (Manifest, error) {
	if err := validateArch(arch); err != nil {
		return Manifest{}, err
	}
	names, err := namesOf(name)
	if err != nil {
		return Manifest{}, err
	}
	for _, n := range names {
		m, err := s.readManifest(n, arch)
		if !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	images, _, err := s.List()
	if err != nil {
		return Manifest{}, err
	}
	var others []string
	hint := buildHint(name, arch)
	for _, m := range images {
		if m.Arch == arch {
			others = append(others, m.Name)
		} else if slices.Contains(names, m.Name) {
			hint = fmt.Sprintf("there is one for %s, which --arch %s asks for; %s", m.Arch, m.Arch, hint)
		}
	}
	have := "none is there yet"
	if len(others) > 0 {
		have = "there are " + strings.Join(others, ", ")
	}
	return Manifest{}, sandbox.Errorf(sandbox.NotFound, hint, "there is no image %q for %s; %s", name, arch, have)
}

func buildHint(name string, arch sandbox.Arch) string {
	if slices.Contains(Recipes(), name) {
		return fmt.Sprintf("agentkernel image build %s --arch %s makes it", name, arch)
	}
	return fmt.Sprintf("agentkernel image pull %s gets it from a registry; or give the path of an image file (./FILE), or build one of %s with agentkernel image build", name, strings.Join(Recipes(), ", "))
}

// OpenDigest finds an image by its digest, whether a name stands for it or not. Image.Name and Image.Arch are empty.
func (s *Store) OpenDigest(_ context.Context, digest string) (sandbox.Image, error) {
	digits, err := hexOf(digest)
	if err != nil {
		return sandbox.Image{}, sandbox.Errorf(sandbox.Invalid, "", "find an image: %w", err)
	}
	path := filepath.Join(s.blobDir(), digits)
	f, size, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return sandbox.Image{}, sandbox.Errorf(sandbox.NotFound, "build or import it again", "the image file %s is missing", path)
	}
	if err != nil {
		return sandbox.Image{}, err
	}
	defer f.Close()
	fsType, err := detect(f, size)
	if err != nil {
		return sandbox.Image{}, sandbox.Errorf(sandbox.Failure, "delete the file, and build or import the image again", "the image file %s is damaged: %w", path, err)
	}
	return sandbox.Image{Digest: digest, FS: fsType, Path: path}, nil
}

// Verify reads a whole image and compares it with its digest.
func (s *Store) Verify(ctx context.Context, name string, arch sandbox.Arch) (Manifest, error) {
	m, err := s.Get(name, arch)
	if err != nil {
		return m, err
	}
	img, err := s.OpenDigest(ctx, m.Digest)
	if err != nil {
		return m, err
	}
	got, err := hashFile(ctx, img.Path)
	if errors.Is(err, syscall.EIO) { // what fs-verity answers for a block that has changed, as a broken disk does
		return m, sandbox.Errorf(sandbox.Failure, "delete the file, and build or import the image again", "image %q is damaged: %w", name, err)
	}
	if err != nil {
		return m, fmt.Errorf("verify image %s: %w", name, err)
	}
	if got != m.Digest || img.FS != m.FS {
		return m, sandbox.Errorf(sandbox.Failure, "delete the file, and build or import the image again", "image %q is damaged: %s has the digest %s", name, img.Path, got)
	}
	return m, nil
}

// Import puts a file into the store under a name, which stood for something else before, or for nothing. source is for
// people: where the file came from.
func (s *Store) Import(ctx context.Context, path, name string, arch sandbox.Arch, source string) (Manifest, error) {
	if err := errors.Join(validateName(name), validateArch(arch)); err != nil {
		return Manifest{}, err
	}
	var m Manifest
	_, err := s.add(ctx, path, func(b blob) error {
		m = Manifest{
			Version: manifestVersion, Name: name, Arch: arch, Digest: b.digest, FS: b.fs, Size: b.size,
			Created: time.Now().UTC().Truncate(time.Second), Source: source,
		}
		return s.writeManifest(m)
	})
	return m, err
}

// blob is a file of the store.
type blob struct {
	digest, path, fs string
	size             int64
}

// add puts a copy of a file into the store, and has name give it a name.
func (s *Store) add(ctx context.Context, path string, name func(blob) error) (b blob, err error) {
	in, size, err := openRegular(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, sandbox.Errorf(sandbox.NotFound, "", "there is no image file %s", path)
	}
	if err != nil {
		return b, sandbox.Errorf(sandbox.Invalid, "", "read the image file: %w", err)
	}
	defer in.Close()
	if b.fs, err = detect(in, size); err != nil {
		return b, sandbox.Errorf(sandbox.Invalid, "give an erofs, squashfs or ext4 file system that is complete", "%s cannot be an image: %w", path, err)
	}
	// The same file is likely to come again, with each sandbox that is made from it.
	digest, err := hashReader(ctx, in)
	if err != nil {
		return b, fmt.Errorf("read the image file %s: %w", path, err)
	}
	if there, err := s.again(ctx, digest, b.fs, func(path string) error {
		b.digest, b.path, b.size = digest, path, size
		return name(b)
	}); there || err != nil {
		return b, err
	}
	return s.copyIn(ctx, in, name)
}

// again has name give a name to a file that is in the store already, if it is.
func (s *Store) again(ctx context.Context, digest, fsType string, name func(path string) error) (there bool, err error) {
	unlock, err := s.Hold(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	have, err := s.OpenDigest(ctx, digest)
	if err != nil || have.FS != fsType {
		return false, nil // it is not, or is damaged and replaced
	}
	return true, name(have.Path)
}

// copyIn copies an open file into the store. It is named by the bytes of the copy, whatever happens to the file meanwhile.
func (s *Store) copyIn(ctx context.Context, in *os.File, name func(blob) error) (blob, error) {
	return s.putFile(ctx, func(tmp *os.File) error {
		if err := disk.CopyContents(ctx, tmp, in); err != nil {
			return fmt.Errorf("store the image %s: %w", in.Name(), err)
		}
		return nil
	}, name)
}

// keep gives a temporary file of the store its final name, and has name give it one for people.
func (s *Store) keep(ctx context.Context, tmp *os.File, name func(blob) error) (b blob, err error) {
	info, err := tmp.Stat()
	if err != nil {
		return b, fmt.Errorf("store an image: %w", err)
	}
	b.size = info.Size()
	if b.fs, err = detect(tmp, b.size); err != nil {
		return b, fmt.Errorf("store an image that changed while it was copied: %w", err)
	}
	if b.digest, err = hashReader(ctx, tmp); err != nil {
		return b, fmt.Errorf("store an image: %w", err)
	}
	if err := errors.Join(tmp.Chmod(0o444), tmp.Sync(), tmp.Close()); err != nil {
		return b, disk.NoSpace(s.blobDir(), fmt.Errorf("store an image: %w", err))
	}
	enableVerity(tmp.Name())
	b.path = filepath.Join(s.blobDir(), strings.TrimPrefix(b.digest, "sha256:"))
	unlock, err := s.Hold(ctx)
	if err != nil {
		return b, err
	}
	defer unlock()
	if err := os.Rename(tmp.Name(), b.path); err != nil {
		return b, fmt.Errorf("store an image: %w", err)
	}
	// A name that survives a crash of the host must not stand for a file that does not.
	if err := syncDir(s.blobDir()); err != nil {
		return b, err
	}
	return b, name(b)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("write the image store to the disk: %w", err)
	}
	return nil
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashReader(ctx, f)
}

// hashReader returns the digest of a whole file, wherever its offset is.
func hashReader(ctx context.Context, f *os.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); ; {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
