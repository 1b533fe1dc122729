package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Fetch finds an image for arch in its registry or a mirror of it, and returns what describes it. Its layers are downloaded
// when they are flattened.
func (r *Registries) Fetch(ctx context.Context, n Name, arch sandbox.Arch) (*Image, error) {
	repositories := r.repositories(n)
	for i, p := range repositories {
		img, err := r.fetch(ctx, repositories[i:], n, arch)
		if err == nil {
			return img, nil
		}
		if !p.mirror || ctx.Err() != nil {
			return nil, fmt.Errorf("pull %s: %w", n.Short(), err)
		}
		r.say(fmt.Sprintf("mirror %s cannot be used: %v", p.repo.RegistryStr(), err))
	}
	return nil, errors.New("no registry") // there is always the image's own
}

// fetch is Fetch from the first of these places; layers may come from the others too.
func (r *Registries) fetch(ctx context.Context, from []*repository, n Name, arch sandbox.Arch) (*Image, error) {
	doc, digest, err := resolve(ctx, from[0], n.ref.Identifier(), arch)
	if err != nil {
		return nil, err
	}
	data, err := from[0].small(ctx, *doc.Config)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(data, arch)
	if err != nil {
		return nil, err
	}
	ids, err := diffIDs(config, len(doc.Layers))
	if err != nil {
		return nil, err
	}
	img := &Image{Name: n.Short(), Source: n.String(), Digest: digest, ConfigDigest: doc.Config.Digest.String(), Config: config}
	for i, d := range doc.Layers {
		l, err := r.layer(from, d, ids[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		img.Layers = append(img.Layers, l)
	}
	return img, nil
}

// resolve gets the manifest for arch, through indexes.
func resolve(ctx context.Context, p *repository, id string, arch sandbox.Arch) (document, string, error) {
	for range 4 { // an index of an index is allowed, one without end is not
		data, digest, err := p.manifest(ctx, id)
		if err != nil {
			return document{}, "", err
		}
		doc, err := parseDocument(data)
		if err != nil || doc.Config != nil {
			return doc, digest, err
		}
		d, err := choose(doc.Manifests, arch)
		if err != nil {
			return doc, "", err
		}
		if id = d.Digest.String(); checkDigest(id) != nil {
			return doc, "", checkDigest(id)
		}
	}
	return document{}, "", errors.New("the image's index leads to indexes without end")
}

// layer makes the layer that a manifest describes.
func (r *Registries) layer(from []*repository, d v1.Descriptor, diffID string) (Layer, error) {
	digest := d.Digest.String()
	if err := checkDigest(digest); err != nil {
		return Layer{}, err
	}
	if d.Size < 0 {
		return Layer{}, fmt.Errorf("a size of %d bytes", d.Size)
	}
	if len(d.URLs) > 0 && !d.MediaType.IsDistributable() {
		return Layer{}, sandbox.Errorf(sandbox.Invalid, "use another image", "it is not in the registry but at %s, which is not for Linux images", d.URLs[0])
	}
	l := Layer{Digest: digest, DiffID: diffID, Size: d.Size}
	l.open = func(ctx context.Context, report func(int64)) (io.ReadCloser, error) {
		get := func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
			return blobFrom(ctx, from, digest, offset)
		}
		wait := func(attempt int) error { return sleep(ctx, r.waits().backoff(attempt)) }
		f, err := r.Cache.get(ctx, digest, d.Size, get, wait, report)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	again := true
	l.forget = func() bool {
		try := again
		again = false
		err := r.Cache.forget(digest)
		return try && (err == nil || errors.Is(err, os.ErrNotExist))
	}
	return l, nil
}

// blobFrom opens a blob at the first place that has it.
func blobFrom(ctx context.Context, from []*repository, digest string, offset int64) (body io.ReadCloser, at int64, err error) {
	for _, p := range from {
		if body, at, err = p.blob(ctx, digest, offset); err == nil || ctx.Err() != nil {
			return body, at, err
		}
	}
	return body, at, err
}
