package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Archive is a file or directory with images: what docker save and podman save write, or an OCI image layout.
type Archive struct {
	files  files
	source string
}

// OpenArchive opens the archive at path, or the one on stdin when path is "-". An archive that cannot be read in any order
// is kept in an unnamed file in dir, up to maxBytes.
func OpenArchive(ctx context.Context, p string, stdin io.Reader, dir string, maxBytes int64) (*Archive, error) {
	if p == "-" {
		f, err := spoolStream(stdin, dir, maxBytes)
		if err != nil {
			return nil, err
		}
		return openArchive(ctx, f, "stdin", dir, maxBytes)
	}
	info, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, sandbox.Errorf(sandbox.NotFound, "give what docker save wrote, or an OCI layout", "there is no file or directory %s", p)
	case err != nil:
		return nil, fmt.Errorf("open an archive of images: %w", err)
	case info.IsDir():
		root, err := os.OpenRoot(p)
		if err != nil {
			return nil, fmt.Errorf("open an image layout: %w", err)
		}
		return &Archive{dirFiles{root}, p}, nil
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, fmt.Errorf("open an archive of images: %w", err)
	}
	if !info.Mode().IsRegular() { // a pipe
		defer f.Close()
		spooled, err := spoolStream(f, dir, maxBytes)
		if err != nil {
			return nil, err
		}
		f = spooled
	}
	return openArchive(ctx, f, p, dir, maxBytes)
}

// openArchive takes f over.
func openArchive(ctx context.Context, f *os.File, source, dir string, maxBytes int64) (*Archive, error) {
	t, err := openTar(ctx, f, dir, maxBytes)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Invalid, "give what docker save wrote, or an OCI layout", "%s cannot be loaded: %w", source, err)
	}
	return &Archive{t, source}, nil
}

// Close closes the archive. Its images can no longer be read then.
func (a *Archive) Close() error { return a.files.Close() }

// Images returns the images for arch.
func (a *Archive) Images(arch sandbox.Arch) ([]*Image, error) {
	images, err := a.images(arch)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", a.source, err)
	}
	if len(images) == 0 {
		return nil, sandbox.Errorf(sandbox.NotFound, "", "there is no image in %s", a.source)
	}
	return images, nil
}

func (a *Archive) images(arch sandbox.Arch) ([]*Image, error) {
	// Docker's newer archives are layouts too, in which names are harder to find.
	data, err := readFile(a.files, "manifest.json", maxManifest)
	if err == nil {
		return a.docker(data, arch)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	data, err = readFile(a.files, "index.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sandbox.Errorf(sandbox.Invalid, "give what docker save wrote, or an OCI layout", "it has neither manifest.json nor index.json")
	}
	if err != nil {
		return nil, err
	}
	return a.layout(data, arch)
}

// docker reads the manifest of an archive of docker: github.com/moby/docker-image-spec, "Combined Image JSON + Filesystem
// Changeset Format".
func (a *Archive) docker(data []byte, arch sandbox.Arch) ([]*Image, error) {
	var entries []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w", err)
	}
	var images []*Image
	for _, e := range entries {
		raw, err := readFile(a.files, e.Config, maxConfig)
		if err != nil {
			return nil, err
		}
		config, err := parseConfig(raw, arch)
		if err != nil {
			return nil, err
		}
		ids, err := diffIDs(config, len(e.Layers))
		if err != nil {
			return nil, err
		}
		img := &Image{Source: a.source, ConfigDigest: digestOf(raw), Config: config}
		if len(e.RepoTags) > 0 {
			img.Name = shortName(e.RepoTags[0])
		}
		for i, name := range e.Layers {
			img.Layers = append(img.Layers, a.layer(name, Layer{DiffID: ids[i], Size: -1}))
		}
		images = append(images, img)
	}
	return images, nil
}

// Annotations with the name of an image in a layout.
const (
	annotationRef  = "org.opencontainers.image.ref.name" // OCI image specification, annotations.md; a tag alone, or a whole name
	annotationName = "io.containerd.image.name"
)

// layout reads the index of an OCI image layout: image-layout.md.
func (a *Archive) layout(data []byte, arch sandbox.Arch) ([]*Image, error) {
	index, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	var images []*Image
	var mismatch error
	for _, d := range index.Manifests {
		if d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != GOARCH(arch)) {
			if mismatch == nil && d.Platform.OS == "linux" {
				mismatch = wrongArch(d.Platform.Architecture, arch)
			}
			continue
		}
		img, err := a.manifest(d, arch)
		if err != nil {
			return nil, err
		}
		if img.Name = shortName(d.Annotations[annotationName]); img.Name == "" {
			img.Name = shortName(d.Annotations[annotationRef])
		}
		images = append(images, img)
	}
	if len(images) == 0 && mismatch != nil {
		return nil, mismatch
	}
	return images, nil
}

func blobPath(digest v1.Hash) string { return path.Join("blobs", digest.Algorithm, digest.Hex) }

func (a *Archive) manifest(d v1.Descriptor, arch sandbox.Arch) (*Image, error) {
	for range 4 {
		data, err := a.blob(d, maxManifest)
		if err != nil {
			return nil, err
		}
		doc, err := parseDocument(data)
		if err != nil {
			return nil, err
		}
		if doc.Config == nil {
			if d, err = choose(doc.Manifests, arch); err != nil {
				return nil, err
			}
			continue
		}
		raw, err := a.blob(*doc.Config, maxConfig)
		if err != nil {
			return nil, err
		}
		config, err := parseConfig(raw, arch)
		if err != nil {
			return nil, err
		}
		ids, err := diffIDs(config, len(doc.Layers))
		if err != nil {
			return nil, err
		}
		img := &Image{Source: a.source, Digest: d.Digest.String(), ConfigDigest: doc.Config.Digest.String(), Config: config}
		for i, l := range doc.Layers {
			if err := checkDigest(l.Digest.String()); err != nil {
				return nil, err
			}
			img.Layers = append(img.Layers, a.layer(blobPath(l.Digest), Layer{Digest: l.Digest.String(), DiffID: ids[i], Size: l.Size}))
		}
		return img, nil
	}
	return nil, errors.New("the index leads to indexes without end")
}

// blob reads a small blob of a layout.
func (a *Archive) blob(d v1.Descriptor, limit int64) ([]byte, error) {
	if err := checkDigest(d.Digest.String()); err != nil {
		return nil, err
	}
	data, err := readFile(a.files, blobPath(d.Digest), limit)
	if err != nil {
		return nil, err
	}
	return data, checkBytes(data, d.Digest.String())
}

// layer makes a layer of the archive. That its bytes are right is told by the digest of what is in it.
func (a *Archive) layer(name string, l Layer) Layer {
	l.open = func(context.Context, func(int64)) (io.ReadCloser, error) {
		r, size, err := a.files.open(name)
		if err == nil && l.Size >= 0 && size != l.Size {
			err = errors.Join(fmt.Errorf("it is truncated: it should have %d bytes and has %d", l.Size, size), r.Close())
		}
		if err != nil {
			return nil, err
		}
		return r, nil
	}
	l.forget = func() bool { return false }
	return l
}

// shortName is the short form of a name that an archive gives, or empty when it is none.
func shortName(s string) string {
	if s == "" || !strings.ContainsAny(s, ":/@") && strings.Trim(s, "0123456789.") == "" {
		return "" // a bare version
	}
	n, err := ParseName(s)
	if err != nil {
		return ""
	}
	return n.Short()
}
