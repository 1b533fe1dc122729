package image

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// manifestVersion is what this build writes, and the newest that it reads. Version 1 had neither Config nor Origin.
const manifestVersion = 2

// maxManifest is how long a manifest may be, in bytes. An image's configuration is most of it.
const maxManifest = 1 << 20

// maxConfig bounds what a container image says about how programs run in it, in bytes: the record of every sandbox has it.
const maxConfig = 256 << 10

// Manifest says what a name stands for.
type Manifest struct {
	Version int          `json:"version"`
	Name    string       `json:"name"`
	Arch    sandbox.Arch `json:"arch"`
	Digest  string       `json:"digest"`          // "sha256:<64 hex>"
	FS      string       `json:"fs"`              // Erofs, Squashfs or Ext4
	Level   int          `json:"level,omitempty"` // PutOptions.Level of an Erofs that PutTree wrote
	Size    int64        `json:"size"`            // bytes
	Created time.Time    `json:"created"`
	Source  string       `json:"source"` // for people: what it was made from
	// Config is how programs run in the image, when it says so.
	Config *sandbox.ImageConfig `json:"config,omitempty"`
	// Origin is the container image that it was made from, if it was.
	Origin *Origin `json:"origin,omitempty"`
	// BuildKey is PutOptions.BuildKey.
	BuildKey string `json:"build_key,omitempty"`
}

// Origin is a container image that an image of the store was made from.
type Origin struct {
	Reference    string        `json:"reference,omitempty"` // with nothing left out: docker.io/library/python:3.12
	Digest       string        `json:"digest,omitempty"`    // of the manifest; empty for an archive of docker
	ConfigDigest string        `json:"config_digest"`
	Layers       []OriginLayer `json:"layers"` // the lowest first
	History      []Step        `json:"history,omitempty"`
}

// OriginLayer is a layer of a container image.
type OriginLayer struct {
	Digest string `json:"digest,omitempty"` // as it was downloaded
	DiffID string `json:"diff_id"`          // unpacked
	Size   int64  `json:"size"`             // unpacked, in bytes
}

// Step is what once made a layer, or changed the configuration alone.
type Step struct {
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"` // at most 4096 bytes
	Comment string    `json:"comment,omitempty"`
	Empty   bool      `json:"empty,omitempty"` // it made no layer
}

func validateArch(arch sandbox.Arch) error {
	if arch != sandbox.X8664 && arch != sandbox.AArch64 {
		return sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("choose %s or %s", sandbox.X8664, sandbox.AArch64), "unknown architecture %q", arch)
	}
	return nil
}

// hexOf returns the 64 hex digits of a digest.
func hexOf(digest string) (string, error) {
	digits, ok := strings.CutPrefix(digest, "sha256:")
	if b, err := hex.DecodeString(digits); !ok || err != nil || len(b) != 32 || digits != strings.ToLower(digits) {
		return "", fmt.Errorf("%.80q is not a digest", digest)
	}
	return digits, nil
}

// check is for a manifest that was read from where one with this name and architecture should be.
func (m Manifest) check(name string, arch sandbox.Arch) error {
	if m.Version > manifestVersion {
		return fmt.Errorf("it has version %d, and this build reads up to %d", m.Version, manifestVersion)
	}
	if m.Version < 1 {
		return errors.New("it has no version")
	}
	if m.Name != name || m.Arch != arch {
		return fmt.Errorf("it is about image %q for %q", m.Name, m.Arch)
	}
	if m.FS != Erofs && m.FS != Squashfs && m.FS != Ext4 {
		return fmt.Errorf("unknown file system %q", m.FS)
	}
	if m.Size <= 0 {
		return fmt.Errorf("size %d", m.Size)
	}
	_, err := hexOf(m.Digest)
	return err
}

func (s *Store) manifestPath(name string, arch sandbox.Arch) string {
	return filepath.Join(s.root, "manifests", string(arch), fileOfName(name)+".json")
}

// readManifest returns an error that is fs.ErrNotExist when there is none, and one that names the file when it cannot be
// used.
func (s *Store) readManifest(name string, arch sandbox.Arch) (Manifest, error) {
	path := s.manifestPath(name, arch)
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("read an image's manifest: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read an image's manifest: %w", err)
	}
	var m Manifest
	if len(data) > maxManifest {
		err = fmt.Errorf("it has more than %d bytes", maxManifest)
	} else if err = json.Unmarshal(data, &m); err == nil {
		err = m.check(name, arch)
	}
	if err != nil {
		return Manifest{}, sandbox.Errorf(sandbox.Failure, "build or import the image again, or delete the file", "the manifest %s cannot be used and is left as it is: %w", path, err)
	}
	return m, nil
}

func (s *Store) writeManifest(m Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write the manifest of image %s: %w", m.Name, err)
	}
	if len(data) > maxManifest {
		return sandbox.Errorf(sandbox.Invalid, "use an image with a shorter configuration", "what image %q says about itself has %d bytes, and %d are kept", m.Name, len(data), maxManifest)
	}
	path := s.manifestPath(m.Name, m.Arch)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the manifest of image %s: %w", m.Name, err)
	}
	if err := renameio.WriteFile(path, append(data, '\n'), 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return disk.NoSpace(filepath.Dir(path), fmt.Errorf("write the manifest of image %s: %w", m.Name, err))
	}
	return nil
}

// List returns the images of all architectures by name, and a line for each manifest that cannot be used.
func (s *Store) List() (images []Manifest, problems []string, err error) {
	for _, arch := range []sandbox.Arch{sandbox.AArch64, sandbox.X8664} {
		entries, err := os.ReadDir(filepath.Join(s.root, "manifests", string(arch)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list images: %w", err)
		}
		for _, e := range entries {
			file, ok := strings.CutSuffix(e.Name(), ".json")
			name := nameOfFile(file)
			if !ok || validateName(name) != nil || fileOfName(name) != file {
				continue // temporary files
			}
			m, err := s.readManifest(name, arch)
			if err != nil {
				problems = append(problems, err.Error())
				continue
			}
			images = append(images, m)
		}
	}
	return images, problems, nil
}
