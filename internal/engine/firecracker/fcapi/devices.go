package fcapi

import (
	"context"
	"net/url"
)

// RateLimiter bounds what a device does.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"` // tokens are bytes
	Ops       *TokenBucket `json:"ops,omitempty"`       // tokens are operations
}

// TokenBucket refills Size tokens in RefillTime. Both zero switch a limit off.
type TokenBucket struct {
	Size         int64 `json:"size"`
	RefillTime   int64 `json:"refill_time"` // ms
	OneTimeBurst int64 `json:"one_time_burst,omitempty"`
}

// Drive is a virtio-blk disk.
type Drive struct {
	DriveID      string       `json:"drive_id"`
	IsRootDevice bool         `json:"is_root_device"`
	IsReadOnly   bool         `json:"is_read_only,omitempty"`
	PathOnHost   string       `json:"path_on_host,omitempty"`
	PartUUID     string       `json:"partuuid,omitempty"`
	CacheType    string       `json:"cache_type,omitempty"` // Unsafe (the guest's flushes do nothing) or Writeback
	IOEngine     string       `json:"io_engine,omitempty"`  // Sync or Async (io_uring)
	RateLimiter  *RateLimiter `json:"rate_limiter,omitempty"`
	Socket       string       `json:"socket,omitempty"` // of a vhost-user-blk backend, instead of a path
}

// Values of Drive.CacheType and Drive.IOEngine.
const (
	CacheUnsafe    = "Unsafe"
	CacheWriteback = "Writeback"
	IOEngineSync   = "Sync"
	IOEngineAsync  = "Async"
)

// PartialDrive changes a drive of a running microVM.
type PartialDrive struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  string       `json:"path_on_host,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// PutDrive adds or replaces a drive. Before the start only.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.put(ctx, "/drives/"+url.PathEscape(d.DriveID), "", d)
}

// PatchDrive changes a drive. After the start only.
func (c *Client) PatchDrive(ctx context.Context, d PartialDrive) error {
	return c.patch(ctx, "/drives/"+url.PathEscape(d.DriveID), "", d)
}

// Pmem is a virtio-pmem device: a file mapped into the guest's memory.
type Pmem struct {
	ID          string       `json:"id"`
	PathOnHost  string       `json:"path_on_host"`
	RootDevice  bool         `json:"root_device,omitempty"`
	ReadOnly    bool         `json:"read_only,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty" since:"1.16.1"`
}

// PartialPmem changes a pmem device of a running microVM.
type PartialPmem struct {
	ID          string       `json:"id"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// PutPmem adds or replaces a pmem device. Before the start only; since 1.14.4.
func (c *Client) PutPmem(ctx context.Context, p Pmem) error {
	return c.put(ctx, "/pmem/"+url.PathEscape(p.ID), "1.14.4", p)
}

// PatchPmem changes a pmem device. After the start only; since 1.16.1.
func (c *Client) PatchPmem(ctx context.Context, p PartialPmem) error {
	return c.patch(ctx, "/pmem/"+url.PathEscape(p.ID), "1.16.1", p)
}

// Vsock is the device through which host and guest connect to each other: package hybridvsock.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"` // at least 3
	UDSPath  string `json:"uds_path"`
}

// PutVsock adds the vsock device. Before the start only.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error { return c.put(ctx, "/vsock", "", v) }

// EntropyDevice is a virtio-rng device.
type EntropyDevice struct {
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// PutEntropy adds the entropy device. Before the start only.
func (c *Client) PutEntropy(ctx context.Context, e EntropyDevice) error {
	return c.put(ctx, "/entropy", "", e)
}

// SerialDevice says where the guest's serial console goes; without it, to Firecracker's stdout.
type SerialDevice struct {
	SerialOutPath string       `json:"serial_out_path,omitempty"`
	RateLimiter   *TokenBucket `json:"rate_limiter,omitempty" since:"1.16.1"` // what exceeds it is lost
}

// PutSerial configures the serial console. Before the start only; since 1.14.4.
func (c *Client) PutSerial(ctx context.Context, s SerialDevice) error {
	return c.put(ctx, "/serial", "1.14.4", s)
}

// NetworkInterface is a virtio-net device on a TAP device of the host.
type NetworkInterface struct {
	IfaceID       string       `json:"iface_id"`
	HostDevName   string       `json:"host_dev_name"`
	GuestMAC      string       `json:"guest_mac,omitempty"`
	MTU           int          `json:"mtu,omitempty" since:"1.16.1"` // 68-65535
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// PartialNetworkInterface changes the limits of a network interface.
type PartialNetworkInterface struct {
	IfaceID       string       `json:"iface_id"`
	RxRateLimiter *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxRateLimiter *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// PutNetworkInterface adds or replaces a network interface. Before the start only.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.put(ctx, "/network-interfaces/"+url.PathEscape(n.IfaceID), "", n)
}

// PatchNetworkInterface changes the limits of a network interface. After the start only.
func (c *Client) PatchNetworkInterface(ctx context.Context, n PartialNetworkInterface) error {
	return c.patch(ctx, "/network-interfaces/"+url.PathEscape(n.IfaceID), "", n)
}
