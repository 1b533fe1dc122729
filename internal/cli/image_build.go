package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/image/dockerfile"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// buildFlags are those of image build.
type buildFlags struct {
	convert       convertFlags
	recipe        string
	busybox       string
	again         bool
	file, builder string
	args          []string
}

func imageBuildCommand(e *env) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use: "build RECIPE | build -t NAME [-f FILE] DIR", Short: "Build an image from a recipe or a Dockerfile", Args: cobra.MaximumNArgs(1),
		Long: "Build an image from a recipe that comes with agentkernel: " + strings.Join(image.Recipes(), ", ") + ". What is in base (busybox, git, curl,\n" +
			"certificates) is in all. Its git and curl are compiled from Debian's sources, in some minutes, once: --no-cache compiles the newest\n" +
			"sources again. The rest of the others is made from Debian's packages, by mmdebstrap and mksquashfs.\n\n" +
			"With -t, build the Dockerfile of a directory, by the first of " + strings.Join(dockerfile.Builders, ", ") + " that works on this host.\n" +
			"What a Dockerfile runs, it runs there, in containers on this host: build none that you would not run with docker.",
		Example: "  agentkernel image build python\n  agentkernel image build -t my-image --build-arg VERSION=2 .",
	}
	f.convert.register(cmd)
	fs := cmd.Flags()
	fs.Lookup("name").Hidden = true
	fs.StringVarP(&f.convert.name, "tag", "t", "", "name of the image to be built from a Dockerfile")
	fs.StringVar(&f.recipe, "recipe", "", "the recipe, in place of the argument")
	fs.StringVar(&f.busybox, "busybox", "", "static busybox of that architecture (default Debian's package busybox-static)")
	fs.BoolVar(&f.again, "no-cache", false, "compile again what a recipe has compiled, from the newest sources")
	fs.StringVarP(&f.file, "file", "f", "", "Dockerfile (default the one in DIR)")
	fs.StringArrayVar(&f.args, "build-arg", nil, "argument of the Dockerfile, NAME=VALUE, or NAME to pass on this one's")
	fs.StringVar(&f.builder, "builder", "", "what builds a Dockerfile: "+strings.Join(dockerfile.Builders, ", "))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.convert.name != "" {
			if f.again {
				return sandbox.Errorf(sandbox.Invalid, "leave it out", "--no-cache is for recipes")
			}
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return e.buildDockerfile(cmd.Context(), &f, dir)
		}
		recipe := f.recipe
		if len(args) == 1 && recipe == "" {
			recipe = args[0]
		}
		switch {
		case recipe == "" || len(args) == 1 && f.recipe != "":
			return sandbox.Errorf(sandbox.Invalid, "give one of "+strings.Join(image.Recipes(), ", ")+", or -t NAME and the directory of a Dockerfile", "image build needs one thing to build")
		case isPath(recipe) || f.file != "" || f.args != nil:
			return sandbox.Errorf(sandbox.Invalid, "add -t NAME", "an image that is built from a Dockerfile needs a name")
		}
		return e.buildRecipe(cmd.Context(), &f, recipe)
	}
	return cmd
}

func (e *env) buildRecipe(ctx context.Context, f *buildFlags, recipe string) error {
	store, dirs, err := imageStore()
	if err != nil {
		return err
	}
	o := image.BuildOptions{Busybox: f.busybox, Again: f.again, CacheDir: filepath.Join(dirs.Cache(), "image"), Progress: func(line string) { fmt.Fprintln(e.errOut, "image:", line) }}
	if o.Arch, err = f.convert.arch(); err != nil {
		return err
	}
	m, err := store.Build(ctx, recipe, o)
	if err != nil {
		return err
	}
	return e.printImage(m)
}

func (e *env) buildDockerfile(ctx context.Context, f *buildFlags, dir string) error {
	store, dirs, err := imageStore()
	if err != nil {
		return err
	}
	pull, err := f.convert.options(e, dirs)
	if err != nil {
		return err
	}
	o := dockerfile.Options{Dockerfile: f.file, Arch: oci.GOARCH(pull.Arch), Output: e.errOut}
	if o.Context, err = filepath.Abs(dir); err != nil {
		return err
	}
	if o.Dockerfile == "" {
		o.Dockerfile = filepath.Join(o.Context, "Dockerfile")
	} else if o.Dockerfile, err = filepath.Abs(o.Dockerfile); err != nil {
		return err
	}
	for _, path := range []string{o.Context, o.Dockerfile} {
		if _, err := os.Stat(path); err != nil {
			return sandbox.Errorf(sandbox.NotFound, "give the directory of a Dockerfile, or the file with -f", "build %s: %w", pull.Name, err)
		}
	}
	if o.Args, err = dockerfile.Arguments(f.args, os.LookupEnv); err != nil {
		return err
	}
	b, err := dockerfile.Find(ctx, f.builder)
	if err != nil {
		return err
	}
	list, err := e.buildWith(ctx, store, b, o, o.Dockerfile, pull)
	if err != nil {
		return err
	}
	for _, m := range list {
		if err := e.printPulled(m, false); err != nil {
			return err
		}
	}
	return nil
}

// buildWith has a builder build an image, and puts it into the store. what is the Dockerfile as the user knows it.
func (e *env) buildWith(ctx context.Context, store *image.Store, b dockerfile.Builder, o dockerfile.Options, what string, pull image.PullOptions) ([]image.Manifest, error) {
	fmt.Fprintf(e.errOut, "image: building %s with %s\n", what, b.Name)
	var err error
	if o.Dir, err = os.MkdirTemp("", "agentkernel-build-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(o.Dir)
	archive, err := b.Build(ctx, o)
	if err != nil {
		return nil, err
	}
	pull.Source = fmt.Sprintf("%s with %s", what, b.Name)
	return store.Load(ctx, archive, nil, pull)
}
