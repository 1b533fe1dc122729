package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/config"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

const configFile = "agentkernel.toml"

// createFlags are the flags of create and run.
type createFlags struct {
	engine                                                  string
	image, agent, arch, memory, disk, project, config, pull string
	vcpus                                                   int
	idleTimeout                                             time.Duration
	publish, volumes, buildArgs                             []string
	build                                                   bool
	idleAction, fromSnapshot                                string
	vsockCID                                                uint32
}

func (f *createFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.image, "image", "", "image: a name, a reference such as python:3.12-alpine, or a path (default base)")
	fs.StringVar(&f.pull, "pull", pullMissing, "when to pull the image from its registry: missing, always, never")
	fs.BoolVar(&f.build, "build", false, "build the project's Dockerfile (dockerfile in "+configFile+"), which runs what it says in containers on this host")
	fs.StringArrayVar(&f.buildArgs, "build-arg", nil, "argument of the project's Dockerfile, NAME=VALUE, or NAME to pass on this one's")
	fs.StringVar(&f.agent, "agent", "", "coding agent: "+strings.Join(sandbox.Agents, ", ")+" (recorded)")
	fs.IntVar(&f.vcpus, "vcpus", 0, fmt.Sprintf("number of virtual CPUs, 1 to %d (default %d)", sandbox.MaxVCPUs, sandbox.DefaultVCPUs))
	fs.StringVarP(&f.memory, "memory", "m", "", fmt.Sprintf("memory, such as 512M or 2G (default %dM)", sandbox.DefaultMemoryMiB))
	fs.StringVar(&f.disk, "disk", "", fmt.Sprintf("size of the sandbox's own disk, such as 20G (default %dG)", sandbox.DefaultDiskMiB/1024))
	fs.DurationVar(&f.idleTimeout, "idle-timeout", 0, "stop it when nothing happened in it for so long, such as 30m (default never)")
	fs.StringVar(&f.idleAction, "idle-action", "", "what happens to it then: stop or suspend (default stop)")
	fs.StringVar(&f.fromSnapshot, "from-snapshot", "", "snapshot that its first start goes on from: SANDBOX:TAG or id; it decides about image, memory, disk and all else that is in it")
	fs.Uint32Var(&f.vsockCID, "vsock-cid", 0, "vsock CID (default: assigned)")
	fs.StringVar(&f.project, "project", "", "directory to copy to /workspace; it is never changed")
	fs.StringArrayVarP(&f.publish, "publish", "p", nil, "port of this host that leads into the sandbox while it runs: [[HOST:]PORT:]GUEST (HOST is 127.0.0.1 unless given; PORT 0, or none, is a free one)")
	fs.StringArrayVarP(&f.volumes, "volume", "v", nil, "volume to mount in the sandbox: NAME:/path, or NAME:/path:ro to read only (agentkernel volume create NAME makes one)")
	fs.StringVar(&f.config, "config", "", "configuration file (default "+configFile+" of the project, or of this directory)")
	fs.StringVar(&f.engine, "engine", "", "what runs the microVM: "+strings.Join(sandbox.Engines, ", ")+" (default auto, or the user's configuration)")
	fs.StringVar(&f.arch, "arch", "", "architecture of the guest: x86_64 or aarch64 (default: this host's); another than the host's is emulated. --platform linux/arm64 says the same")
	platformToo(fs)
}

// request merges flags over the configuration file over defaults. name is the argument, and may be empty when the file has
// one.
//
// An image that is not in the store is pulled, and the one of a project's Dockerfile is built.
func (f *createFlags) request(e *env, cmd *cobra.Command, name string) (client.CreateRequest, error) {
	var req client.CreateRequest
	if f.fromSnapshot != "" {
		return f.snapshotRequest(cmd, name)
	}
	file, err := f.load()
	if err != nil {
		return req, err
	}
	spec := file.Spec()
	if name != "" {
		spec.Name = name
	}
	changed := cmd.Flags().Changed
	if changed("image") {
		spec.Image = f.image
	}
	if changed("agent") {
		spec.Agent = f.agent
	}
	if changed("vcpus") {
		spec.VCPUs = f.vcpus
	}
	if changed("memory") {
		if spec.MemoryMiB, err = mebibytes("--memory", f.memory); err != nil {
			return req, err
		}
	}
	if changed("disk") {
		if spec.DiskMiB, err = mebibytes("--disk", f.disk); err != nil {
			return req, err
		}
	}
	if changed("idle-timeout") {
		spec.IdleTimeoutMs = f.idleTimeout.Milliseconds()
	}
	if changed("vsock-cid") {
		spec.VsockCID = f.vsockCID
	}
	if isPath(spec.Image) {
		if spec.Image, err = filepath.Abs(spec.Image); err != nil {
			return req, err
		}
	}
	arch, err := kernelArch(f.arch)
	if err != nil {
		return req, err
	}
	if spec.Image, err = f.ensureImage(e, cmd, file, spec.Image, sandbox.Arch(arch)); err != nil {
		return req, err
	}
	req = client.CreateRequest{
		Name: spec.Name, Image: &spec.Image, Vcpus: &spec.VCPUs, MemoryMib: &spec.MemoryMiB, DiskMib: &spec.DiskMiB,
	}
	if spec.IdleTimeoutMs != 0 {
		req.IdleTimeoutMs = &spec.IdleTimeoutMs
	}
	if f.idleAction != "" {
		req.IdleAction = (*apiv1.CreateRequestIdleAction)(&f.idleAction)
	}
	if f.engine != "" {
		req.Engine = (*apiv1.CreateRequestEngine)(&f.engine)
	}
	if spec.Agent != "" {
		req.Agent = &spec.Agent
	}
	if f.arch != "" {
		req.Arch = (*apiv1.CreateRequestArch)(&arch)
	}
	if spec.VsockCID != 0 || changed("vsock-cid") {
		cid := int64(spec.VsockCID)
		req.VsockCid = &cid
	}
	if req.Publish, err = publishRequest(f.publish); err != nil {
		return req, err
	}
	if req.Volumes, err = volumesRequest(f.volumes); err != nil {
		return req, err
	}
	if f.project != "" {
		dir, err := filepath.Abs(f.project)
		if err != nil {
			return req, err
		}
		req.Project = &dir
	}
	return req, nil
}

// ensureImage has the image of a sandbox that is about to be made in the store, and returns its name there.
func (f *createFlags) ensureImage(e *env, cmd *cobra.Command, file config.File, ref string, arch sandbox.Arch) (string, error) {
	changed := cmd.Flags().Changed
	if file.Dockerfile != "" && !changed("image") {
		if changed("pull") {
			return "", sandbox.Errorf(sandbox.Invalid, "leave it out; --build builds it again", "--pull is for images of registries, and the image of this project is built from %s", file.Dockerfile)
		}
		return e.ensureProjectImage(cmd.Context(), file, f, arch)
	}
	if f.build || f.buildArgs != nil {
		return "", sandbox.Errorf(sandbox.Invalid, "name one as dockerfile under [sandbox] of "+configFile, "there is no Dockerfile to build for this sandbox")
	}
	return e.ensureImage(cmd.Context(), ref, arch, f.pull)
}

// load reads the configuration file: the one that --config names, else the project's, else this directory's, else none.
func (f *createFlags) load() (config.File, error) {
	if f.config != "" {
		return config.Load(f.config)
	}
	path := filepath.Join(f.project, configFile)
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return config.File{}, nil
	}
	return config.Load(path)
}

// isPath reports whether an image is given by its path: it begins with '/' or '.', or has a '/' in it and is a file.
func isPath(ref string) bool {
	if image.IsPath(ref) || !strings.ContainsRune(ref, '/') {
		return image.IsPath(ref)
	}
	info, err := os.Stat(ref)
	return err == nil && info.Mode().IsRegular()
}

// mebibytes parses a size such as 512M or 2G; a bare number is MiB.
func mebibytes(flag, s string) (int, error) {
	bad := func() (int, error) {
		return 0, sandbox.Errorf(sandbox.Invalid, "write it as 512M or 2G", "%s %q is not a size", flag, s)
	}
	if strings.Trim(s, "0123456789") == "" {
		s += "M"
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return bad()
	}
	if n%(1<<20) != 0 {
		return 0, sandbox.Errorf(sandbox.Invalid, "use whole MiB", "%s %q is not a whole number of MiB", flag, s)
	}
	return int(n >> 20), nil
}

func createCommand(e *env) *cobra.Command {
	var f createFlags
	var quiet bool
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a sandbox",
		Long: "Make a sandbox: its record, its own disk, and with --project a copy of a directory at /workspace. Nothing runs yet.\n" +
			"What flags leave open comes from " + configFile + ", of the project or else of this directory.",
		Example: "  agentkernel create my-project --agent claude --project .",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
				if err := sandbox.ValidateName(name); err != nil {
					return err
				}
			}
			req, err := f.request(e, cmd, name)
			if err != nil {
				return err
			}
			sb, err := e.create(cmd.Context(), req)
			if err != nil {
				return err
			}
			switch {
			case e.json:
				return e.printJSON(sb)
			case quiet:
				fmt.Fprintln(e.out, sb.Id)
			default:
				fmt.Fprintln(e.out, sb.Name)
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the id alone")
	return cmd
}

// create makes a sandbox and passes on its warnings.
func (e *env) create(ctx context.Context, req client.CreateRequest) (client.Sandbox, error) {
	c, err := e.connect(ctx)
	if err != nil {
		return client.Sandbox{}, err
	}
	defer c.Close()
	return e.createWith(ctx, c, req)
}

func (e *env) createWith(ctx context.Context, c *client.Client, req client.CreateRequest) (client.Sandbox, error) {
	sb, err := c.Create(ctx, req)
	if err == nil && sb.Warnings != nil {
		for _, w := range *sb.Warnings {
			fmt.Fprintln(e.errOut, "agentkernel: warning:", w)
		}
	}
	return sb, err
}
