package sandbox

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Limits and defaults of a Spec.
const (
	MaxNameLen       = 64
	MinMemoryMiB     = 64
	DefaultMemoryMiB = 512
	MaxVCPUs         = 32 // NR_CPUS of the guest kernel, and Firecracker's own limit
	DefaultVCPUs     = 1
	MinVsockCID      = 3 // 0-2 are the hypervisor, the loopback and the host: vsock(7)
	MaxVsockCID      = 0xfffffffe
	DefaultDiskMiB   = 10 * 1024
	DefaultImage     = "base"
	MinIdleTimeoutMs = 1000
	MaxIdleTimeoutMs = 365 * 24 * 3600 * 1000
)

// Agents lists the coding agents that a spec may prefer.
var Agents = []string{"claude", "gemini", "codex", "opencode"}

// EngineAuto leaves the choice of the engine to each start.
const EngineAuto = "auto"

// Engines lists what a spec may name as its engine.
var Engines = []string{EngineAuto, "firecracker", "qemu"}

// ValidateEngine returns an *Error of kind Invalid unless name is one of Engines, or empty.
func ValidateEngine(name string) error {
	if name == "" || slices.Contains(Engines, name) {
		return nil
	}
	return Errorf(Invalid, "choose one of "+strings.Join(Engines, ", "), "unknown engine %.40q", name)
}

// What happens to a sandbox that is idle.
const (
	IdleStop    = "stop"
	IdleSuspend = "suspend"
)

// Spec is what a user asks for. It does not change after create.
type Spec struct {
	Name      string `json:"name"`
	Arch      Arch   `json:"arch"`
	Image     string `json:"image"`           // image name or path, as asked for
	Agent     string `json:"agent,omitempty"` // one of Agents, or empty
	VCPUs     int    `json:"vcpus"`
	MemoryMiB int    `json:"memory_mib"`
	DiskMiB   int    `json:"disk_mib"`  // virtual size of the upper disk; it is sparse
	VsockCID  uint32 `json:"vsock_cid"` // 0 = to be assigned
	Project   string `json:"project,omitempty"`
	Engine    string `json:"engine,omitempty"` // one of Engines; empty: the user's default
	// IdleTimeoutMs is how long nothing may happen in the running sandbox before IdleAction; 0: for ever.
	IdleTimeoutMs int64 `json:"idle_timeout_ms,omitempty"`
	// IdleAction is what happens then: IdleStop, also when it is empty, or IdleSuspend.
	IdleAction string `json:"idle_action,omitempty"`
	// Publish are the ports of the host that lead into the sandbox while it runs.
	Publish []Port `json:"publish,omitempty"`
	// Volumes that are mounted in the sandbox.
	Volumes []VolumeMount `json:"volumes,omitempty"`
}

var nameRE = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`) })

// ValidateName returns an *Error of kind Invalid unless name can be a sandbox's name: 1 to 64 lower-case letters,
// digits, '-', '_' and '.', that begins and ends with a letter or digit and has no "..".
func ValidateName(name string) error {
	switch {
	case name == "":
		return Errorf(Invalid, "give it a name such as my-project", "a sandbox's name is empty")
	case len(name) > MaxNameLen:
		return Errorf(Invalid, "shorten it", "sandbox name %q has %d characters, at most %d are allowed", name[:16]+"…", len(name), MaxNameLen)
	case !nameRE().MatchString(name) || strings.Contains(name, ".."):
		return Errorf(Invalid, "use lower-case letters, digits, '-', '_' and '.'; begin and end with a letter or digit", "%q is not a sandbox name", name)
	}
	return nil
}

// Host is what the limits of a Spec are checked against.
type Host struct {
	MemoryMiB int // physical memory of the host
}

// Validate checks that every value can be had on host. The error is an *Error of kind Invalid.
func (s Spec) Validate(host Host) error {
	if err := ValidateName(s.Name); err != nil {
		return err
	}
	if err := ValidateEngine(s.Engine); err != nil {
		return err
	}
	if s.Arch != X8664 && s.Arch != AArch64 {
		return Errorf(Invalid, fmt.Sprintf("choose %s or %s", X8664, AArch64), "unknown architecture %q", s.Arch)
	}
	if s.VCPUs < 1 || s.VCPUs > MaxVCPUs {
		return Errorf(Invalid, fmt.Sprintf("ask for 1 to %d", MaxVCPUs), "vcpus %d cannot be had", s.VCPUs)
	}
	if s.MemoryMiB < MinMemoryMiB {
		return Errorf(Invalid, fmt.Sprintf("ask for at least %d MiB", MinMemoryMiB), "memory of %d MiB is too little for a microVM", s.MemoryMiB)
	}
	if host.MemoryMiB > 0 && s.MemoryMiB > host.MemoryMiB {
		return Errorf(Invalid, fmt.Sprintf("ask for %d to %d MiB", MinMemoryMiB, host.MemoryMiB), "memory of %d MiB is more than this host has (%d MiB)", s.MemoryMiB, host.MemoryMiB)
	}
	if s.DiskMiB < 64 || s.DiskMiB > 16*1024*1024 {
		return Errorf(Invalid, "ask for 64 MiB to 16 TiB", "a disk of %d MiB cannot be had", s.DiskMiB)
	}
	if s.Agent != "" && !slices.Contains(Agents, s.Agent) {
		return Errorf(Invalid, "choose one of "+strings.Join(Agents, ", "), "unknown agent %q", s.Agent)
	}
	if s.VsockCID != 0 && (s.VsockCID < MinVsockCID || s.VsockCID > MaxVsockCID) {
		return Errorf(Invalid, fmt.Sprintf("use %d to %d, or leave it out to have one assigned", MinVsockCID, uint32(MaxVsockCID)), "vsock CID %d cannot be used", s.VsockCID)
	}
	if s.IdleTimeoutMs != 0 && (s.IdleTimeoutMs < MinIdleTimeoutMs || s.IdleTimeoutMs > MaxIdleTimeoutMs) {
		return Errorf(Invalid, "use 1 s to 365 days, or 0 for none", "an idle timeout of %d ms cannot be had", s.IdleTimeoutMs)
	}
	if s.IdleAction != "" && s.IdleAction != IdleStop && s.IdleAction != IdleSuspend {
		return Errorf(Invalid, "choose "+IdleStop+" or "+IdleSuspend, "unknown idle action %.40q", s.IdleAction)
	}
	if err := validatePorts(s.Publish); err != nil {
		return err
	}
	return validateVolumes(s.Volumes)
}
