package sandbox

// Image is a root file system as it is in the image store.
type Image struct {
	Name   string       `json:"name"`
	Digest string       `json:"digest"` // "sha256:<64 hex>"
	FS     string       `json:"fs"`     // erofs, squashfs, ext4
	Arch   Arch         `json:"arch"`
	Config *ImageConfig `json:"config,omitempty"` // nil when the image came without any
	Path   string       `json:"-"`
}

// ImageConfig is what a container image says about how programs run in it: the OCI image specification, config.md.
type ImageConfig struct {
	Env        []string `json:"env,omitempty"`         // KEY=VALUE
	WorkingDir string   `json:"working_dir,omitempty"` // absolute, or empty for /
	User       string   `json:"user,omitempty"`        // as for exec: name or uid, with :group or :gid; empty for root
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`

	// What is kept for people: a sandbox has no use for it.
	StopSignal   string   `json:"stop_signal,omitempty"`
	ExposedPorts []string `json:"exposed_ports,omitempty"` // such as 80/tcp
	Volumes      []string `json:"volumes,omitempty"`       // paths
}

// Command is what runs in the image when args are given, or none: as docker run has it, args replace Cmd and follow
// Entrypoint. It may be empty.
func (c *ImageConfig) Command(args []string) []string {
	if c == nil {
		return args
	}
	if len(args) == 0 {
		args = c.Cmd
	}
	return append(append([]string{}, c.Entrypoint...), args...)
}
