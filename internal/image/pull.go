package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// PullOptions of Pull and Load.
type PullOptions struct {
	Arch   sandbox.Arch
	Name   string // in the store; empty for the image's own
	Format string // as PutOptions has it
	Level  int
	// BuildKey and Source as PutOptions has them; for Load. Without Source, that is what the image was read from.
	BuildKey, Source string
	// MaxBytes bounds an image, unpacked; 0 for the default.
	MaxBytes int64
	// Always asks the registry whether the name stands for another image by now, although there is one in the store.
	Always     bool
	Registries *oci.Registries
	// Tell, when set, is told how far layers are, by one goroutine at a time.
	Tell func(oci.Event)
	// Say, when set, is told what a user may wonder about.
	Say func(line string)
}

func (o *PullOptions) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(fmt.Sprintf(format, args...))
	}
}

func (o *PullOptions) limits() layer.Limits { return layer.Limits{Bytes: o.MaxBytes} }

func (o *PullOptions) maxBytes() int64 {
	if o.MaxBytes > 0 {
		return o.MaxBytes
	}
	return layer.DefaultLimits.Bytes
}

// Pull gets a container image from its registry, or out of the store of docker or podman (docker://NAME, podman://NAME),
// makes an image of it and puts it into the store. When the image is there already it does nothing, which pulled tells. Of
// several that pull the same image at once, in one process or in many, one does, and the others wait for it.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (m Manifest, pulled bool, err error) {
	program, localName, local := oci.Local(ref)
	if local {
		ref = localName
	}
	n, err := oci.ParseName(ref)
	if err != nil {
		return m, false, err
	}
	if o.Name == "" {
		o.Name = n.Short()
	}
	put := PutOptions{Name: o.Name, Arch: o.Arch, Format: o.Format, Level: o.Level}
	if err := put.check(); err != nil {
		return m, false, err
	}
	unlock, err := s.lockName(ctx, o.Name, o.Arch, func() { o.say("waiting for another process that pulls %s", o.Name) })
	if err != nil {
		return m, false, err
	}
	defer unlock()
	have, haveErr := s.readManifest(o.Name, o.Arch)
	if haveErr == nil {
		_, haveErr = s.OpenDigest(ctx, have.Digest)
	}
	there := haveErr == nil && have.FS == put.Format && have.Level == put.Level
	if there && !o.Always && !local {
		return have, false, nil
	}
	var img *oci.Image
	if local {
		dir, err := s.spoolDir()
		if err != nil {
			return m, false, err
		}
		archive, err := oci.OpenLocal(ctx, program, localName, dir, o.maxBytes())
		if err != nil {
			return m, false, err
		}
		defer archive.Close()
		images, err := archive.Images(o.Arch)
		if err != nil {
			return m, false, err
		}
		img = images[0]
	} else if img, err = o.Registries.Fetch(ctx, n, o.Arch); err != nil {
		return m, false, err
	}
	if there && have.Origin != nil && have.Origin.ConfigDigest == img.ConfigDigest && (local || have.Origin.Digest == img.Digest) {
		return have, false, nil
	}
	m, err = s.putImage(ctx, img, o, put)
	return m, err == nil, err
}

// Load puts the images of an archive into the store, under their own names or the one in o.
func (s *Store) Load(ctx context.Context, path string, stdin io.Reader, o PullOptions) ([]Manifest, error) {
	dir, err := s.spoolDir()
	if err != nil {
		return nil, err
	}
	archive, err := oci.OpenArchive(ctx, path, stdin, dir, o.maxBytes())
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	images, err := archive.Images(o.Arch)
	if err != nil {
		return nil, err
	}
	if o.Name != "" && len(images) > 1 {
		return nil, sandbox.Errorf(sandbox.Invalid, "leave out --name", "%s has %d images, and one name was given", path, len(images))
	}
	var list []Manifest
	for _, img := range images {
		name := o.Name
		if name == "" {
			name = img.Name
		}
		if name == "" {
			return list, sandbox.Errorf(sandbox.Invalid, "name it with --name", "the image in %s has no name", path)
		}
		put := PutOptions{Name: name, Arch: o.Arch, Format: o.Format, Level: o.Level, BuildKey: o.BuildKey}
		if err := put.check(); err != nil {
			return list, err
		}
		m, err := s.putImage(ctx, img, o, put)
		if err != nil {
			return list, fmt.Errorf("load image %s: %w", name, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// putImage flattens a container image and puts it into the store, unless the same one is there under another name.
func (s *Store) putImage(ctx context.Context, img *oci.Image, o PullOptions, put PutOptions) (Manifest, error) {
	put.Source, put.Config = cmp.Or(o.Source, img.Source), configOf(img.Config)
	if data, err := json.Marshal(put.Config); err != nil || len(data) > maxConfig {
		return Manifest{}, sandbox.Errorf(sandbox.Invalid, "use an image with a shorter environment and command", "the configuration of %s has %d bytes, and %d are possible", put.Name, len(data), maxConfig)
	}
	put.Origin = originOf(img)
	if m, ok, err := s.alias(ctx, img, put); ok || err != nil {
		return m, err
	}
	dir, err := s.spoolDir()
	if err != nil {
		return Manifest{}, err
	}
	if o.Tell != nil {
		defer o.Tell(oci.Event{Phase: oci.Done})
	}
	flat, err := img.Flatten(ctx, dir, o.limits(), o.Tell)
	if err != nil {
		return Manifest{}, fmt.Errorf("unpack %s: %w", put.Name, err)
	}
	defer flat.Close()
	for i, size := range flat.Sizes {
		put.Origin.Layers[i].Size = size
	}
	for _, w := range flat.Warnings {
		o.say("%s", w)
	}
	if err := makeWorkingDir(flat.Root, put.Config.WorkingDir); err != nil {
		return Manifest{}, err
	}
	if o.Tell != nil {
		o.Tell(oci.Event{Phase: oci.Writing})
	}
	if img.Config != nil {
		put.BuildTime = img.Config.Created.Time
	}
	if put.BuildTime.IsZero() {
		put.BuildTime = buildTime
	}
	return s.PutTree(ctx, flat.Root, put)
}

// alias gives an image of the store that was made from the same container image another name, if there is one.
func (s *Store) alias(ctx context.Context, img *oci.Image, put PutOptions) (m Manifest, ok bool, err error) {
	unlock, err := s.Hold(ctx)
	if err != nil {
		return m, false, err
	}
	defer unlock()
	same, ok := s.same(ctx, img, put)
	if !ok {
		return m, false, nil
	}
	m = same
	m.Name, m.Source, m.Config, m.Origin, m.BuildKey = put.Name, put.Source, put.Config, put.Origin, put.BuildKey
	m.Origin.Layers = same.Origin.Layers
	return m, true, s.writeManifest(m)
}

// same finds an image of the store that was made from the same container image.
func (s *Store) same(ctx context.Context, img *oci.Image, put PutOptions) (Manifest, bool) {
	images, _, err := s.List()
	if err != nil {
		return Manifest{}, false
	}
	i := slices.IndexFunc(images, func(m Manifest) bool {
		return m.Arch == put.Arch && m.FS == put.Format && m.Level == put.Level && m.Origin != nil && m.Origin.ConfigDigest == img.ConfigDigest && len(m.Origin.Layers) == len(img.Layers)
	})
	if i < 0 {
		return Manifest{}, false
	}
	if _, err := s.OpenDigest(ctx, images[i].Digest); err != nil {
		return Manifest{}, false
	}
	return images[i], true
}

// ByBuildKey finds an image that was built from what a key stands for, and gives it a name as well.
func (s *Store) ByBuildKey(ctx context.Context, key, name string, arch sandbox.Arch) (m Manifest, ok bool, err error) {
	unlock, err := s.Hold(ctx)
	if err != nil {
		return m, false, err
	}
	defer unlock()
	images, _, err := s.List()
	if err != nil {
		return m, false, err
	}
	for _, m := range images {
		if m.BuildKey != key || m.Arch != arch {
			continue
		}
		if _, err := s.OpenDigest(ctx, m.Digest); err != nil {
			continue
		}
		if m.Name == name {
			return m, true, nil
		}
		m.Name = name
		return m, true, s.writeManifest(m)
	}
	return m, false, nil
}

// lockName takes the lock of a name.
func (s *Store) lockName(ctx context.Context, name string, arch sandbox.Arch, waiting func()) (unlock func(), err error) {
	dir := filepath.Join(s.root, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the image store: %w", err)
	}
	sum := sha256.Sum256([]byte(string(arch) + " " + name))
	return filelock.Lock(ctx, filepath.Join(dir, fmt.Sprintf("%x.lock", sum[:16])), waiting)
}

// Pullable reports whether an image that is not in the store can be pulled by this name: a reference, which a recipe's name
// is not, so that nothing from the network takes the place of what this program builds.
func Pullable(ref string) bool {
	if IsPath(ref) || slices.Contains(Recipes(), ref) {
		return false
	}
	if _, _, local := oci.Local(ref); local {
		return true
	}
	_, err := oci.ParseName(ref)
	return err == nil
}

// Missing reports whether err says that there is no such image in the store.
func Missing(err error) bool {
	var e *sandbox.Error
	return errors.As(err, &e) && e.Kind == sandbox.NotFound
}

// NameInStore is what an image is called in the store that was pulled by this reference.
func NameInStore(ref string) (string, error) {
	if _, name, local := oci.Local(ref); local {
		ref = name
	}
	n, err := oci.ParseName(ref)
	return n.Short(), err
}
