package fcapi

import "context"

// InstanceInfo describes a Firecracker process.
type InstanceInfo struct {
	AppName    string `json:"app_name"`
	ID         string `json:"id"`    // as given by --id
	State      string `json:"state"` // StateNotStarted, StateRunning or StatePaused
	VMMVersion string `json:"vmm_version"`
}

// Values of InstanceInfo.State.
const (
	StateNotStarted = "Not started"
	StateRunning    = "Running"
	StatePaused     = "Paused"
)

// InstanceInfo asks what the process is and does.
func (c *Client) InstanceInfo(ctx context.Context) (info InstanceInfo, err error) {
	return info, c.get(ctx, "/", "", &info)
}

// FirecrackerVersion is the answer of GET /version.
type FirecrackerVersion struct {
	Version string `json:"firecracker_version"` // e.g. 1.16.1
}

// Version asks for the version by the endpoint that has nothing else. Running says it without asking.
func (c *Client) Version(ctx context.Context) (v FirecrackerVersion, err error) {
	return v, c.get(ctx, "/version", "", &v)
}

// ActionType is an action of PUT /actions.
type ActionType string

// The actions.
const (
	FlushMetrics   ActionType = "FlushMetrics"
	InstanceStart  ActionType = "InstanceStart"
	SendCtrlAltDel ActionType = "SendCtrlAltDel" // x86_64 only
)

// InstanceActionInfo is an action with its name.
type InstanceActionInfo struct {
	ActionType ActionType `json:"action_type"`
}

// Action does one action and returns when it is done.
func (c *Client) Action(ctx context.Context, action ActionType) error {
	return c.put(ctx, "/actions", "", InstanceActionInfo{action})
}

// VM is the state that a microVM is to be in.
type VM struct {
	State string `json:"state"` // VMPaused or VMResumed
}

// Values of VM.State.
const (
	VMPaused  = "Paused"
	VMResumed = "Resumed"
)

// Pause halts the vCPUs.
func (c *Client) Pause(ctx context.Context) error { return c.patch(ctx, "/vm", "", VM{VMPaused}) }

// Resume lets the vCPUs go on.
func (c *Client) Resume(ctx context.Context) error { return c.patch(ctx, "/vm", "", VM{VMResumed}) }

// Config is a whole configuration: the answer of GET /vm/config, and with its fields up to Entropy what Firecracker reads
// from --config-file (there cpu-config is the path of a file, which is why CPUConfig must be empty then).
type Config struct {
	Balloon           *Balloon             `json:"balloon,omitempty"`
	Drives            []Drive              `json:"drives"`
	BootSource        *BootSource          `json:"boot-source,omitempty"`
	CPUConfig         *CPUConfig           `json:"cpu-config,omitempty"`
	Logger            *Logger              `json:"logger,omitempty"`
	MachineConfig     *MachineConfig       `json:"machine-config,omitempty"`
	Metrics           *Metrics             `json:"metrics,omitempty"`
	MemoryHotplug     *MemoryHotplugConfig `json:"memory-hotplug,omitempty" since:"1.14.4"`
	MMDSConfig        *MMDSConfig          `json:"mmds-config,omitempty"`
	NetworkInterfaces []NetworkInterface   `json:"network-interfaces,omitempty"`
	Pmem              []Pmem               `json:"pmem,omitempty" since:"1.14.4"`
	Vsock             *Vsock               `json:"vsock,omitempty"`
	Entropy           *EntropyDevice       `json:"entropy,omitempty"`
}

// Config asks for the whole configuration.
func (c *Client) Config(ctx context.Context) (config Config, err error) {
	return config, c.get(ctx, "/vm/config", "", &config)
}
