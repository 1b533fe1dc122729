package image

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// configOf takes over what sandboxes use of a container image's configuration. Entries of the environment that are not
// KEY=VALUE, which no program could see, are left out.
func configOf(file *v1.ConfigFile) *sandbox.ImageConfig {
	c := &sandbox.ImageConfig{}
	if file == nil {
		return c
	}
	from := file.Config
	for _, e := range from.Env {
		if i := strings.IndexByte(e, '='); i > 0 && !strings.Contains(e, "\x00") {
			c.Env = append(c.Env, e)
		}
	}
	if from.WorkingDir != "" {
		c.WorkingDir = path.Clean("/" + from.WorkingDir) // docker takes a relative one as below the root
	}
	c.User, c.Entrypoint, c.Cmd, c.StopSignal = from.User, from.Entrypoint, from.Cmd, from.StopSignal
	c.ExposedPorts = slices.Sorted(maps.Keys(from.ExposedPorts))
	c.Volumes = slices.Sorted(maps.Keys(from.Volumes))
	return c
}

// Unused says which parts of a configuration sandboxes have no use for.
func Unused(c *sandbox.ImageConfig) []string {
	if c == nil {
		return nil
	}
	var lines []string
	if len(c.Volumes) > 0 {
		lines = append(lines, fmt.Sprintf("its volumes (%s) are ordinary directories in a sandbox", strings.Join(c.Volumes, ", ")))
	}
	if c.StopSignal != "" && c.StopSignal != "SIGTERM" && c.StopSignal != "15" {
		lines = append(lines, fmt.Sprintf("its stop signal %s is not used: what runs when a sandbox stops gets SIGTERM", c.StopSignal))
	}
	if len(c.ExposedPorts) > 0 {
		lines = append(lines, fmt.Sprintf("its exposed ports (%s) are not reachable by that", strings.Join(c.ExposedPorts, ", ")))
	}
	return lines
}

// maxStep is how many bytes are kept of what made a layer.
const maxStep = 4096

func originOf(img *oci.Image) *Origin {
	o := &Origin{Digest: img.Digest, ConfigDigest: img.ConfigDigest}
	if img.Digest != "" {
		o.Reference = img.Source
	}
	for _, l := range img.Layers {
		o.Layers = append(o.Layers, OriginLayer{Digest: l.Digest, DiffID: l.DiffID})
	}
	if img.Config == nil {
		return o
	}
	for _, h := range img.Config.History {
		o.History = append(o.History, Step{
			Created: h.Created.Time, By: h.CreatedBy[:min(len(h.CreatedBy), maxStep)], Comment: h.Comment[:min(len(h.Comment), maxStep)], Empty: h.EmptyLayer,
		})
	}
	return o
}

// makeWorkingDir makes the directory that commands begin in, when an image lacks it, as docker does for a container.
func makeWorkingDir(root *tree.Node, dir string) error {
	walk := tree.Walker{Root: root, Missing: func(parent *tree.Node, name string) *tree.Node {
		if parent.Child(name) != nil {
			return nil // a file, which stays
		}
		n := tree.NewDir(root.Mtime)
		parent.Set(name, n, 0)
		return n
	}}
	if _, err := walk.Dir(dir); err != nil {
		return fmt.Errorf("make the image's working directory %s: %w", dir, err)
	}
	return nil
}
