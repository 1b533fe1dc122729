package cli

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

func cpCommand(e *env) *cobra.Command {
	var c copying
	cmd := &cobra.Command{
		Use: "cp [flags] NAME:PATH DEST|-\n  agentkernel cp [flags] SRC|- NAME:PATH", Short: "Copy files to, from and between running sandboxes",
		Long: "Copy files and directories between this host and running sandboxes, or between two sandboxes, with their modes, times,\n" +
			"links, holes and extended attributes. What is copied belongs to root in a sandbox, and to you on the host.\n\n" +
			"A path in a sandbox is written NAME:PATH, from its root. A file is copied to DEST, or into it when that is a directory;\n" +
			"a directory likewise, or with /. at its end only what is in it. Neither takes the other's place. Symbolic links are\n" +
			"copied as such; one that DEST names is followed. Parents of DEST are not made.\n\n" +
			"With - as source, a tar archive on stdin is unpacked in a directory; with - as DEST, one is written to stdout.\n" +
			"Set-id bits and device nodes of a sandbox are not made on the host, set-id bits only with --archive.",
		Example: "  agentkernel cp notes.txt my-project:/tmp/\n  agentkernel cp my-project:/workspace/. ./result\n" +
			"  agentkernel cp my-project:/etc - | tar tv",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parseEndpoint(args[0]), parseEndpoint(args[1])
			if err := checkEndpoints(from, to); err != nil {
				return err
			}
			if to.pipe && terminal.Is(e.out) {
				return sandbox.Errorf(sandbox.Invalid, "pipe it on, or name a file: > archive.tar", "an archive is not written to a terminal")
			}
			client, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			c.env, c.client, c.meter = e, client, newMeter(e.errOut, c.quiet || e.json)
			err = c.run(cmd.Context(), from, to)
			c.meter.end()
			if err != nil {
				return err
			}
			return c.report(args[0], args[1])
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&c.owner, "archive", "a", false, "keep numeric owners and set-id bits; on the host this takes root")
	fs.BoolVarP(&c.follow, "follow-link", "L", false, "when the source is a symbolic link, copy what it points to")
	fs.BoolVarP(&c.quiet, "quiet", "q", false, "print nothing but errors")
	return cmd
}

// report says what was copied.
func (c *copying) report(from, to string) error {
	for _, w := range c.warnings {
		fmt.Fprintln(c.env.errOut, "agentkernel: warning:", w)
	}
	if c.env.json {
		err := c.env.printJSON(map[string]any{"source": from, "destination": to, "bytes": c.meter.total(), "left_out": c.leftOut, "warnings": c.warnings})
		if err != nil {
			return err
		}
	} else if !c.quiet {
		fmt.Fprintf(c.env.errOut, "Copied %s to %s\n", c.meter.text(), to)
	}
	if c.leftOut > 0 {
		return sandbox.Errorf(sandbox.Failure, "", "%d files were left out or are not whole", c.leftOut)
	}
	return nil
}

// endpoint is one side of a copy.
type endpoint struct {
	sandbox string // "" for the host
	path    string
	pipe    bool // "-": stdin or stdout
}

// parseEndpoint reads NAME:PATH, or a path of the host: one that begins with a dot or a slash, or has no colon.
func parseEndpoint(arg string) endpoint {
	if arg == "-" {
		return endpoint{pipe: true}
	}
	name, rest, ok := strings.Cut(arg, ":")
	if !ok || strings.HasPrefix(arg, ".") || strings.HasPrefix(arg, "/") || sandbox.ValidateName(name) != nil {
		return endpoint{path: arg}
	}
	if !strings.HasPrefix(rest, "/") {
		rest = "/" + rest
	}
	return endpoint{sandbox: name, path: rest}
}

func checkEndpoints(from, to endpoint) error {
	switch {
	case from.sandbox == "" && to.sandbox == "":
		return sandbox.Errorf(sandbox.Invalid, "write the sandbox's side as NAME:PATH", "neither side of the copy is in a sandbox")
	case from.sandbox == "" && !from.pipe && to.pipe, from.path == "" && !from.pipe, to.path == "" && !to.pipe:
		return sandbox.Errorf(sandbox.Invalid, "see agentkernel cp --help", "there is nothing to copy from or to")
	}
	return nil
}

// kindOf is what a copy needs to know of a path.
type kindOf struct {
	exists, directory bool
	path              string // without links
}

// place decides where a copy goes: into which directory, and by which name. As "." it is what is in the source that
// is copied, and not itself. The rules are those of docker cp.
func place(from, to endpoint, source, target kindOf) (dir, as string, err error) {
	content := strings.HasSuffix(from.path, "/.") || from.path == "." || from.path == "/"
	switch {
	case target.exists && target.directory && source.directory && content:
		return target.path, ".", nil
	case target.exists && target.directory:
		return target.path, baseOf(source, from), nil
	case target.exists && source.directory:
		return "", "", sandbox.Errorf(sandbox.Conflict, "choose another destination, or remove the file", "%q is a file, and a directory cannot take its place", to.path)
	case target.exists && !source.directory && strings.HasSuffix(to.path, "/"):
		return "", "", sandbox.Errorf(sandbox.Conflict, "leave the / out to write to the file", "%q is no directory", strings.TrimSuffix(to.path, "/"))
	case target.exists:
		dir, as = path.Split(target.path)
		return path.Clean(dir), as, nil
	case !source.directory && (strings.HasSuffix(to.path, "/") || strings.HasSuffix(to.path, "/.")):
		return "", "", sandbox.Errorf(sandbox.NotFound, "make the directory first", "there is no directory %q", to.path)
	}
	clean := path.Clean(to.path)
	if as = path.Base(clean); as == "." || as == ".." || as == "/" {
		return "", "", sandbox.Errorf(sandbox.NotFound, "", "there is no directory %q", to.path)
	}
	return path.Dir(clean), as, nil
}

// baseOf is the name under which the source goes into a directory.
func baseOf(source kindOf, from endpoint) string {
	base := path.Base(path.Clean(from.path))
	if base == ".." || base == "." || base == "/" {
		base = path.Base(source.path)
	}
	if base == "/" {
		return "."
	}
	return base
}

// lookHere looks at a path of the host.
func lookHere(name string, follow bool) (kindOf, error) {
	look := os.Lstat
	if follow || strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.") {
		look = os.Stat
	}
	fi, err := look(name)
	if err != nil {
		return kindOf{}, err
	}
	real, err := filepath.Abs(name)
	if err == nil && follow {
		real, err = filepath.EvalSymlinks(real)
	}
	return kindOf{true, fi.IsDir(), real}, err
}

// missing makes a path that does not exist no error.
func missing(k kindOf, err error) (kindOf, error) {
	if errors.Is(err, os.ErrNotExist) {
		return kindOf{}, nil
	}
	return k, err
}
