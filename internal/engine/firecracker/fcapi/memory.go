package fcapi

import "context"

// Balloon is the device through which a guest gives memory back.
type Balloon struct {
	AmountMiB             int  `json:"amount_mib"`
	DeflateOnOOM          bool `json:"deflate_on_oom"`
	StatsPollingIntervalS int  `json:"stats_polling_interval_s,omitempty"` // 0 for no statistics
	FreePageHinting       bool `json:"free_page_hinting,omitempty" since:"1.14.4"`
	FreePageReporting     bool `json:"free_page_reporting,omitempty" since:"1.14.4"`
}

// BalloonUpdate is a new target size.
type BalloonUpdate struct {
	AmountMiB int `json:"amount_mib"`
}

// BalloonStatsUpdate is a new interval of statistics. It cannot switch them on or off.
type BalloonStatsUpdate struct {
	StatsPollingIntervalS int `json:"stats_polling_interval_s"`
}

// BalloonStats are the latest statistics. What is nil the guest does not report. Memory is in bytes.
type BalloonStats struct {
	TargetPages        int    `json:"target_pages"` // of 4 KiB
	ActualPages        int    `json:"actual_pages"`
	TargetMiB          int    `json:"target_mib"`
	ActualMiB          int    `json:"actual_mib"`
	SwapIn             *int64 `json:"swap_in"`
	SwapOut            *int64 `json:"swap_out"`
	MajorFaults        *int64 `json:"major_faults"`
	MinorFaults        *int64 `json:"minor_faults"`
	FreeMemory         *int64 `json:"free_memory"`
	TotalMemory        *int64 `json:"total_memory"`
	AvailableMemory    *int64 `json:"available_memory"`
	DiskCaches         *int64 `json:"disk_caches"`
	HugetlbAllocations *int64 `json:"hugetlb_allocations"`
	HugetlbFailures    *int64 `json:"hugetlb_failures"`
	OOMKill            *int64 `json:"oom_kill" since:"1.14.4"`
	AllocStall         *int64 `json:"alloc_stall" since:"1.14.4"`
	AsyncScan          *int64 `json:"async_scan" since:"1.14.4"`
	DirectScan         *int64 `json:"direct_scan" since:"1.14.4"`
	AsyncReclaim       *int64 `json:"async_reclaim" since:"1.14.4"`
	DirectReclaim      *int64 `json:"direct_reclaim" since:"1.14.4"`
}

// Balloon asks for the balloon's configuration.
func (c *Client) Balloon(ctx context.Context) (b Balloon, err error) {
	return b, c.get(ctx, "/balloon", "", &b)
}

// PutBalloon adds or replaces the balloon. Before the start only.
func (c *Client) PutBalloon(ctx context.Context, b Balloon) error {
	return c.put(ctx, "/balloon", "", b)
}

// PatchBalloon changes the balloon's target size.
func (c *Client) PatchBalloon(ctx context.Context, b BalloonUpdate) error {
	return c.patch(ctx, "/balloon", "", b)
}

// BalloonStats asks for the latest statistics.
func (c *Client) BalloonStats(ctx context.Context) (s BalloonStats, err error) {
	return s, c.get(ctx, "/balloon/statistics", "", &s)
}

// PatchBalloonStats changes the interval of statistics.
func (c *Client) PatchBalloonStats(ctx context.Context, s BalloonStatsUpdate) error {
	return c.patch(ctx, "/balloon/statistics", "", s)
}

// BalloonStartCmd starts a run of free page hinting.
type BalloonStartCmd struct {
	AcknowledgeOnStop *bool `json:"acknowledge_on_stop,omitempty"` // when the guest is done; default true
}

// BalloonHintingStatus are the last commands of a run.
type BalloonHintingStatus struct {
	HostCmd  int  `json:"host_cmd"`
	GuestCmd *int `json:"guest_cmd"`
}

// StartBalloonHinting starts a run of free page hinting. Since 1.14.4.
func (c *Client) StartBalloonHinting(ctx context.Context, cmd BalloonStartCmd) error {
	return c.patch(ctx, "/balloon/hinting/start", "1.14.4", cmd)
}

// BalloonHinting asks how far a run is. Since 1.14.4.
func (c *Client) BalloonHinting(ctx context.Context) (s BalloonHintingStatus, err error) {
	return s, c.get(ctx, "/balloon/hinting/status", "1.14.4", &s)
}

// StopBalloonHinting ends a run. Since 1.14.4.
func (c *Client) StopBalloonHinting(ctx context.Context) error {
	return c.patch(ctx, "/balloon/hinting/stop", "1.14.4", nil)
}

// MemoryHotplugConfig is a virtio-mem device.
type MemoryHotplugConfig struct {
	TotalSizeMiB int `json:"total_size_mib,omitempty"`
	SlotSizeMiB  int `json:"slot_size_mib,omitempty"`  // at least 128, the default
	BlockSizeMiB int `json:"block_size_mib,omitempty"` // at least 2, the default
}

// MemoryHotplugSizeUpdate is a new target size. 0 takes all of it away.
type MemoryHotplugSizeUpdate struct {
	RequestedSizeMiB int `json:"requested_size_mib"`
}

// MemoryHotplugStatus says how far the guest is with the requested size.
type MemoryHotplugStatus struct {
	TotalSizeMiB     int `json:"total_size_mib"`
	SlotSizeMiB      int `json:"slot_size_mib"`
	BlockSizeMiB     int `json:"block_size_mib"`
	PluggedSizeMiB   int `json:"plugged_size_mib"`
	RequestedSizeMiB int `json:"requested_size_mib"`
}

// MemoryHotplug asks for the status of the hotpluggable memory. Since 1.14.4.
func (c *Client) MemoryHotplug(ctx context.Context) (s MemoryHotplugStatus, err error) {
	return s, c.get(ctx, "/hotplug/memory", "1.14.4", &s)
}

// PutMemoryHotplug adds hotpluggable memory. Before the start only; since 1.14.4.
func (c *Client) PutMemoryHotplug(ctx context.Context, m MemoryHotplugConfig) error {
	return c.put(ctx, "/hotplug/memory", "1.14.4", m)
}

// PatchMemoryHotplug changes the requested size. Since 1.14.4.
func (c *Client) PatchMemoryHotplug(ctx context.Context, m MemoryHotplugSizeUpdate) error {
	return c.patch(ctx, "/hotplug/memory", "1.14.4", m)
}
