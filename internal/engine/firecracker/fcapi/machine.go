package fcapi

import (
	"context"
	"encoding/json"
)

// BootSource is what the guest boots from.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"`
	InitrdPath      string `json:"initrd_path,omitempty"`
	BootArgs        string `json:"boot_args,omitempty"` // Firecracker adds its devices to them
}

// PutBootSource sets the boot source. Before the start only.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.put(ctx, "/boot-source", "", b)
}

// MachineConfig is the shape of the machine.
type MachineConfig struct {
	VCPUCount       int    `json:"vcpu_count"` // 1-32
	MemSizeMiB      int    `json:"mem_size_mib"`
	SMT             bool   `json:"smt,omitempty"`
	TrackDirtyPages bool   `json:"track_dirty_pages,omitempty"`
	CPUTemplate     string `json:"cpu_template,omitempty"` // C3, T2, T2S, T2CL, T2A, V1N1 or None
	HugePages       string `json:"huge_pages,omitempty"`   // None or 2M
}

// MachineConfigUpdate is a MachineConfig of which what is nil or empty stays.
type MachineConfigUpdate struct {
	VCPUCount       *int   `json:"vcpu_count,omitempty"`
	MemSizeMiB      *int   `json:"mem_size_mib,omitempty"`
	SMT             *bool  `json:"smt,omitempty"`
	TrackDirtyPages *bool  `json:"track_dirty_pages,omitempty"`
	CPUTemplate     string `json:"cpu_template,omitempty"`
	HugePages       string `json:"huge_pages,omitempty"`
}

// MachineConfig asks for the shape of the machine.
func (c *Client) MachineConfig(ctx context.Context) (m MachineConfig, err error) {
	return m, c.get(ctx, "/machine-config", "", &m)
}

// PutMachineConfig sets the shape of the machine. Before the start only.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.put(ctx, "/machine-config", "", m)
}

// PatchMachineConfig changes parts of the shape of the machine. Before the start only.
func (c *Client) PatchMachineConfig(ctx context.Context, m MachineConfigUpdate) error {
	return c.patch(ctx, "/machine-config", "", m)
}

// CPUConfig changes what the CPU announces to the guest. The bitmaps are strings of 0, 1 and x (unchanged) after "0b".
type CPUConfig struct {
	KVMCapabilities []string              `json:"kvm_capabilities,omitempty" since:"1.12.1"` // numbers; with ! to take one away
	CPUIDModifiers  []CPUIDLeafModifier   `json:"cpuid_modifiers,omitempty"`                 // x86_64
	MSRModifiers    []RegisterModifier    `json:"msr_modifiers,omitempty"`                   // x86_64
	RegModifiers    []RegisterModifier    `json:"reg_modifiers,omitempty"`                   // aarch64
	VCPUFeatures    []VCPUFeatureModifier `json:"vcpu_features,omitempty" since:"1.12.1"`    // aarch64
}

// CPUIDLeafModifier changes one leaf of CPUID.
type CPUIDLeafModifier struct {
	Leaf      string                  `json:"leaf"`
	Subleaf   string                  `json:"subleaf"`
	Flags     int32                   `json:"flags"` // of KVM, for this leaf
	Modifiers []CPUIDRegisterModifier `json:"modifiers"`
}

// CPUIDRegisterModifier changes one register of a leaf of CPUID.
type CPUIDRegisterModifier struct {
	Register string `json:"register"` // eax, ebx, ecx or edx
	Bitmap   string `json:"bitmap"`
}

// RegisterModifier changes a model-specific register (x86_64) or a register (aarch64).
type RegisterModifier struct {
	Addr   string `json:"addr"` // a number as hexadecimal, binary or decimal text
	Bitmap string `json:"bitmap"`
}

// VCPUFeatureModifier changes one word of the features of a vCPU, struct kvm_vcpu_init of Linux.
type VCPUFeatureModifier struct {
	Index  int32  `json:"index"`
	Bitmap string `json:"bitmap"`
}

// PutCPUConfig sets what the CPU announces. Before the start only.
func (c *Client) PutCPUConfig(ctx context.Context, config CPUConfig) error {
	return c.put(ctx, "/cpu-config", "", config)
}

// Logger says where Firecracker's own log goes.
type Logger struct {
	LogPath       string `json:"log_path,omitempty"` // a file or a FIFO that exists
	Level         string `json:"level,omitempty"`    // Error, Warning, Info, Debug, Trace or Off
	ShowLevel     bool   `json:"show_level,omitempty"`
	ShowLogOrigin bool   `json:"show_log_origin,omitempty"`
	Module        string `json:"module,omitempty"` // only this module's
}

// PutLogger sets up the log. Once.
func (c *Client) PutLogger(ctx context.Context, l Logger) error { return c.put(ctx, "/logger", "", l) }

// Metrics says where metrics go, as lines of JSON.
type Metrics struct {
	MetricsPath string `json:"metrics_path"` // a file or a FIFO that exists
}

// PutMetrics sets up the metrics. Once.
func (c *Client) PutMetrics(ctx context.Context, m Metrics) error {
	return c.put(ctx, "/metrics", "", m)
}

// MMDSConfig configures the metadata service that a guest with a network interface can ask.
type MMDSConfig struct {
	NetworkInterfaces []string `json:"network_interfaces"`     // ids of those that reach the service
	Version           string   `json:"version,omitempty"`      // V1 or V2
	IPv4Address       string   `json:"ipv4_address,omitempty"` // link-local
	IMDSCompat        bool     `json:"imds_compat,omitempty" since:"1.14.4"`
}

// PutMMDSConfig configures the metadata service. Before the start only.
func (c *Client) PutMMDSConfig(ctx context.Context, m MMDSConfig) error {
	return c.put(ctx, "/mmds/config", "", m)
}

// MMDS asks for the metadata: a JSON object.
func (c *Client) MMDS(ctx context.Context) (data json.RawMessage, err error) {
	return data, c.get(ctx, "/mmds", "", &data)
}

// PutMMDS replaces the metadata by a JSON object.
func (c *Client) PutMMDS(ctx context.Context, data json.RawMessage) error {
	return c.put(ctx, "/mmds", "", data)
}

// PatchMMDS merges a JSON object into the metadata: RFC 7396.
func (c *Client) PatchMMDS(ctx context.Context, data json.RawMessage) error {
	return c.patch(ctx, "/mmds", "", data)
}
