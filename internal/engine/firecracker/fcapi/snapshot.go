package fcapi

import "context"

// SnapshotCreateParams say where a snapshot of a paused microVM goes.
type SnapshotCreateParams struct {
	SnapshotPath string `json:"snapshot_path"` // the state
	MemFilePath  string `json:"mem_file_path"`
	SnapshotType string `json:"snapshot_type,omitempty"` // SnapshotFull or SnapshotDiff
}

// Values of SnapshotCreateParams.SnapshotType.
const (
	SnapshotFull = "Full"
	SnapshotDiff = "Diff"
)

// CreateSnapshot writes a snapshot.
func (c *Client) CreateSnapshot(ctx context.Context, p SnapshotCreateParams) error {
	return c.put(ctx, "/snapshot/create", "", p)
}

// MemoryBackend is where a restored microVM has its memory from.
type MemoryBackend struct {
	BackendType string `json:"backend_type"` // BackendFile or BackendUffd
	BackendPath string `json:"backend_path"` // the memory file, or the socket of the page-fault handler
}

// Values of MemoryBackend.BackendType.
const (
	BackendFile = "File"
	BackendUffd = "Uffd"
)

// NetworkOverride puts another TAP device behind an interface of a snapshot.
type NetworkOverride struct {
	IfaceID     string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// VsockOverride puts another socket behind the vsock device of a snapshot.
type VsockOverride struct {
	UDSPath string `json:"uds_path"`
}

// SnapshotLoadParams say what to restore and how. Huge pages are as in the microVM that the snapshot is of.
type SnapshotLoadParams struct {
	SnapshotPath     string            `json:"snapshot_path"`
	MemBackend       *MemoryBackend    `json:"mem_backend,omitempty"`
	ResumeVM         bool              `json:"resume_vm,omitempty"`
	TrackDirtyPages  bool              `json:"track_dirty_pages,omitempty" since:"1.14.4"`
	NetworkOverrides []NetworkOverride `json:"network_overrides,omitempty" since:"1.12.1"`
	VsockOverride    *VsockOverride    `json:"vsock_override,omitempty" since:"1.16.1"`
	ClockRealtime    bool              `json:"clock_realtime,omitempty" since:"1.14.4"` // x86_64: move the guest's clock on
}

// LoadSnapshot restores a snapshot. Before the start only.
func (c *Client) LoadSnapshot(ctx context.Context, p SnapshotLoadParams) error {
	return c.put(ctx, "/snapshot/load", "", p)
}
