package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/image/erofs"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// BuildOptions of Build.
type BuildOptions struct {
	Arch sandbox.Arch
	// Busybox is the path of a static busybox for Arch. When it is empty, the host's own or Debian's is taken.
	Busybox string
	// CacheDir keeps what was downloaded and compiled. It is absolute.
	CacheDir string
	// Again has compiled what was compiled before, from the newest sources.
	Again bool
	// Progress, when set, is given a line for each step that takes time.
	Progress func(line string)
}

// Build makes the image of a recipe and puts it into the store under the recipe's name. Of a recipe without packages, the same
// busybox and what was compiled once give the same digest. No privileges are needed.
func (s *Store) Build(ctx context.Context, recipe string, o BuildOptions) (Manifest, error) {
	if !slices.Contains(Recipes(), recipe) {
		return Manifest{}, sandbox.Errorf(sandbox.NotFound, "choose one of "+strings.Join(Recipes(), ", "), "there is no recipe for an image %q", recipe)
	}
	if err := validateArch(o.Arch); err != nil {
		return Manifest{}, err
	}
	r, err := readRecipe(recipe)
	if err != nil {
		return Manifest{}, err
	}
	said := o.Progress
	if said == nil {
		said = func(string) {}
	}
	busybox, from, err := findBusybox(ctx, o.Busybox, o.Arch, o.CacheDir, said)
	if err != nil {
		return Manifest{}, err
	}
	origin := r.origin()
	if r.compile.script != nil {
		made, err := r.compile.make(ctx, o, said)
		if err != nil {
			return Manifest{}, fmt.Errorf("build image %s: %w", recipe, err)
		}
		more, err := made.entries(r.entries)
		if err != nil {
			return Manifest{}, err
		}
		r.entries = append(r.entries, more...)
		origin = ", Debian's sources of " + strings.Join(made.sources, ", ") + origin
	}
	var m Manifest
	err = s.bake(ctx, r, busybox, o, said, func(b blob) error {
		m = Manifest{
			Version: manifestVersion, Name: recipe, Arch: o.Arch, Digest: b.digest, FS: b.fs, Size: b.size,
			Created: time.Now().UTC().Truncate(time.Second),
			Source:  fmt.Sprintf("recipe %s with %s (%s, sha256:%x)%s", recipe, busyboxVersion(busybox), from, sha256.Sum256(busybox), origin),
		}
		return s.writeManifest(m)
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("build image %s: %w", recipe, err)
	}
	return m, nil
}

// bake writes the image of a recipe into the store, and has name give it a name.
func (s *Store) bake(ctx context.Context, r recipe, busybox []byte, o BuildOptions, said func(string), name func(blob) error) error {
	applets, err := appletsOf(busybox)
	if err != nil {
		return err
	}
	entries, err := expand(r.entries, applets)
	if err != nil {
		return err
	}
	_, err = s.putFile(ctx, func(f *os.File) error {
		if len(r.packages) == 0 {
			root, err := treeOf(entries, busybox)
			if err != nil {
				return err
			}
			// Compressed, base would be half the size, and every start of a program would pay for it: under emulation one
			// that counts.
			return erofs.Write(ctx, f, root, erofs.Options{BuildTime: buildTime.Unix()})
		}
		d := distribution{recipe: r, entries: entries, busybox: busybox, options: o, said: said}
		return d.write(ctx, f.Name())
	}, name)
	return err
}

var versionRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`BusyBox v[0-9.]+`) })

func busyboxVersion(program []byte) string {
	if v := versionRE().Find(program); v != nil {
		return string(bytes.TrimRight(v, "."))
	}
	return "a busybox of unknown version"
}
