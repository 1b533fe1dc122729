package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// convertFlags say what image is to be made of a container image.
type convertFlags struct {
	arch                  func() (sandbox.Arch, error)
	name, format, maxSize string
	compression           int
}

func (f *convertFlags) register(cmd *cobra.Command) {
	f.arch = archFlag(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "name in the store (default the image's own)")
	fs.StringVar(&f.format, "format", image.Erofs, "file system: "+strings.Join(image.Formats, ", "))
	fs.IntVar(&f.compression, "compression", image.DefaultLevel, "of erofs: 0 none, 1 LZ4, 2 to 9 LZ4HC")
	fs.StringVar(&f.maxSize, "max-size", "", "refuse an image that is larger when it is unpacked (default 32G)")
}

func (f *convertFlags) options(e *env, dirs paths.Dirs) (image.PullOptions, error) {
	o, err := e.pullOptions(dirs)
	if err != nil {
		return o, err
	}
	o.Name, o.Format, o.Level = f.name, f.format, f.compression
	if o.Arch, err = f.arch(); err != nil {
		return o, err
	}
	if f.maxSize != "" {
		if o.MaxBytes, err = units.RAMInBytes(f.maxSize); err != nil || o.MaxBytes <= 0 {
			return o, sandbox.Errorf(sandbox.Invalid, "write it as 500M or 20G", "--max-size %q is not a size", f.maxSize)
		}
	}
	return o, nil
}

// pullOptions are those that no flag changes.
func (e *env) pullOptions(dirs paths.Dirs) (image.PullOptions, error) {
	list, set := os.LookupEnv(oci.MirrorsVariable)
	if !set {
		user, err := config.LoadUser(dirs.Config)
		if err != nil {
			return image.PullOptions{}, err
		}
		list = user.Mirrors
	}
	mirrors, err := oci.ParseMirrors(list)
	if err != nil {
		return image.PullOptions{}, err
	}
	p := newPullProgress(e.errOut)
	return image.PullOptions{
		Level: image.DefaultLevel,
		Registries: &oci.Registries{
			Cache: layerCache(dirs), Keychain: authn.DefaultKeychain, Mirrors: mirrors, Say: p.say,
		},
		Tell: p.tell, Say: p.say,
	}, nil
}

// layerCache keeps the layers of container images as they were downloaded.
func layerCache(dirs paths.Dirs) oci.Cache {
	return oci.Cache{Dir: filepath.Join(dirs.Cache(), "layers")}
}

func imagePullCommand(e *env) *cobra.Command {
	var f convertFlags
	var quiet bool
	cmd := &cobra.Command{
		Use: "pull REFERENCE", Short: "Get a container image from a registry", Args: cobra.ExactArgs(1),
		Long: "Get a container image from a registry and make an image of it. A reference is written as for docker. Names and passwords come\n" +
			"from docker's or podman's configuration and their credential helpers (docker login). docker://NAME and podman://NAME take an\n" +
			"image out of docker's or podman's own store on this host. When the image is there already, it is replaced if its name stands for\n" +
			"another one by now.\n\n" +
			"mirrors = \"docker.io=mirror.example.com:5000, …\" under [registry] of the user's configuration, or " + oci.MirrorsVariable + " in its\n" +
			"place, names mirrors of registries, which are tried first.",
		Example: "  agentkernel image pull python:3.12-alpine\n  agentkernel image pull ghcr.io/owner/name@sha256:…\n  agentkernel image pull docker://my-image",
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the digest alone, and no progress")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, dirs, err := imageStore()
		if err != nil {
			return err
		}
		o, err := f.options(e, dirs)
		if err != nil {
			return err
		}
		o.Always = true
		if quiet {
			o.Tell = nil
		}
		m, pulled, err := store.Pull(cmd.Context(), args[0], o)
		if err != nil {
			return err
		}
		if !pulled && !quiet {
			o.Say(m.Name + " is up to date")
		}
		return e.printPulled(m, quiet)
	}
	return cmd
}

// printPulled prints an image that was made of a container image, and says what of it is not used.
func (e *env) printPulled(m image.Manifest, quiet bool) error {
	if quiet && !e.json {
		_, err := fmt.Fprintln(e.out, m.Digest)
		return err
	}
	if !quiet {
		for _, line := range image.Unused(m.Config) {
			fmt.Fprintf(e.errOut, "image: %s: %s\n", m.Name, line)
		}
	}
	return e.printImage(m)
}

// The values of --pull.
const (
	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"
)

// ensureImage pulls the image of a sandbox that is about to be made, if it is not there, and returns the name by which the
// store knows it.
func (e *env) ensureImage(ctx context.Context, ref string, arch sandbox.Arch, policy string) (string, error) {
	switch policy {
	case pullMissing, pullAlways, pullNever:
	default:
		return "", sandbox.Errorf(sandbox.Invalid, "choose missing, always or never", "unknown value of --pull %q", policy)
	}
	if isPath(ref) {
		return ref, nil
	}
	store, dirs, err := imageStore()
	if err != nil {
		return "", err
	}
	name := ref
	if _, _, local := oci.Local(ref); local {
		if name, err = image.NameInStore(ref); err != nil {
			return "", err
		}
	}
	m, err := store.Get(name, arch)
	switch {
	case err == nil && policy != pullAlways:
		return m.Name, nil
	case policy == pullNever, err != nil && !image.Missing(err):
		return "", err
	case !image.Pullable(ref):
		if err == nil {
			err = sandbox.Errorf(sandbox.Invalid, "leave out --pull always, or write "+ref+":latest for the one in a registry", "image %q is not pulled but built here", ref)
		}
		return "", err
	}
	o, optErr := e.pullOptions(dirs)
	if optErr != nil {
		return "", optErr
	}
	o.Arch, o.Always = arch, policy == pullAlways
	if err == nil { // another image, but in the same form
		o.Format, o.Level = m.FS, m.Level
	}
	o.Say(fmt.Sprintf("pulling %s for %s", ref, arch))
	m, _, err = store.Pull(ctx, ref, o)
	return m.Name, err
}
