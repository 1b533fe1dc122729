package oci

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Limits on what describes an image.
const (
	maxManifest = 4 << 20 // bytes, of a manifest or an index: what registries take
	maxConfig   = 8 << 20 // bytes
	maxLayers   = 512     // docker has 127 at most
)

// Image is a container image for one architecture.
type Image struct {
	// Name is what it is called where it comes from, in the short form (ParseName), or empty.
	Name string
	// Source says to people where it comes from.
	Source string
	// Digest is the manifest's. Archives of docker have no manifest, and it is empty then.
	Digest string
	// ConfigDigest is the configuration's: what docker calls the image's id.
	ConfigDigest string
	Config       *v1.ConfigFile
	Layers       []Layer
}

// Layer is one of an image, the lowest first.
type Layer struct {
	Digest string // of the bytes that open gives; empty when it is not known
	DiffID string // of the archive in it, decompressed
	Size   int64  // of the bytes that open gives; -1 when it is not known

	// open returns the layer. report is told how many bytes are there, of those that take time to get.
	open func(ctx context.Context, report func(have int64)) (io.ReadCloser, error)
	// forget is called when what open gave was not the layer; it reports whether another try makes sense.
	forget func() bool
}

// GOARCH is what container images call an architecture.
func GOARCH(arch sandbox.Arch) string {
	if arch == sandbox.AArch64 {
		return "arm64"
	}
	return "amd64"
}

// parseConfig reads the configuration of an image for arch.
func parseConfig(data []byte, arch sandbox.Arch) (*v1.ConfigFile, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	if config.OS != "" && config.OS != "linux" {
		return nil, sandbox.Errorf(sandbox.Invalid, "use an image for Linux", "the image is for %s", config.OS)
	}
	if have := config.Architecture; have != "" && have != GOARCH(arch) {
		return nil, wrongArch(have, arch)
	}
	return config, nil
}

func wrongArch(have string, want sandbox.Arch) error {
	hint := "choose an image for " + GOARCH(want)
	for _, other := range []sandbox.Arch{sandbox.X8664, sandbox.AArch64} {
		if have == GOARCH(other) {
			hint += fmt.Sprintf(", or ask for the other architecture with --arch %s", other)
		}
	}
	return sandbox.Errorf(sandbox.Invalid, hint, "the image is for %s, and not for %s", have, GOARCH(want))
}

// diffIDs returns the digests of an image's archives, of which there are as many as layers.
func diffIDs(config *v1.ConfigFile, layers int) ([]string, error) {
	if layers > maxLayers {
		return nil, fmt.Errorf("the image has %d layers, and %d are read", layers, maxLayers)
	}
	if len(config.RootFS.DiffIDs) != layers {
		return nil, fmt.Errorf("the image has %d layers, and its configuration speaks of %d", layers, len(config.RootFS.DiffIDs))
	}
	var ids []string
	for _, h := range config.RootFS.DiffIDs {
		if err := checkDigest(h.String()); err != nil {
			return nil, err
		}
		ids = append(ids, h.String())
	}
	return ids, nil
}

// checkDigest accepts SHA-256 alone, which everybody uses.
func checkDigest(digest string) error {
	h, err := v1.NewHash(digest)
	if err != nil || h.Algorithm != "sha256" {
		return fmt.Errorf("%.100q is not a SHA-256 digest", digest)
	}
	return nil
}

// Media types of indexes and manifests: the OCI image specification, and docker's image manifest version 2, schema 2.
var (
	indexTypes    = []string{"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
	manifestTypes = []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)

// document is an index or a manifest. Media types are not always sent right, and either says by its fields what it is.
type document struct {
	Manifests []v1.Descriptor `json:"manifests"`
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
}

func parseDocument(data []byte) (d document, err error) {
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("read the image's manifest: %w", err)
	}
	switch {
	case d.Config != nil && d.Manifests == nil:
		if d.Config.MediaType != "" && !d.Config.MediaType.IsConfig() {
			return d, sandbox.Errorf(sandbox.Invalid, "give the reference of a container image", "it is not an image but an artifact of type %s", d.Config.MediaType)
		}
		return d, nil
	case d.Manifests != nil && d.Config == nil:
		return d, nil
	}
	return d, errors.New("read the image's manifest: it is neither a manifest of schema version 2 nor an index")
}

// choose returns the entry of an index that is for arch.
func choose(index []v1.Descriptor, arch sandbox.Arch) (v1.Descriptor, error) {
	var have []string
	for _, d := range index {
		p := d.Platform
		if p == nil { // layouts with one image leave it out; its configuration has the last word
			if len(index) == 1 {
				return d, nil
			}
			continue
		}
		if p.OS == "linux" && p.Architecture == GOARCH(arch) {
			return d, nil
		}
		if p.OS == "linux" && !slices.Contains(have, p.Architecture) {
			have = append(have, p.Architecture)
		}
	}
	if len(have) == 0 {
		return v1.Descriptor{}, sandbox.Errorf(sandbox.Invalid, "use an image for Linux", "the image is not for Linux")
	}
	if slices.Contains(have, GOARCH(sandbox.AArch64)) || slices.Contains(have, GOARCH(sandbox.X8664)) {
		for _, h := range have {
			if h == "amd64" || h == "arm64" {
				return v1.Descriptor{}, wrongArch(h, arch)
			}
		}
	}
	return v1.Descriptor{}, sandbox.Errorf(sandbox.Invalid, "choose another image", "the image is for %v, and not for %s", have, GOARCH(arch))
}

func readBounded(r io.Reader, limit int64, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the %s: %w", what, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("the %s has more than %d bytes", what, limit)
	}
	return data, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
