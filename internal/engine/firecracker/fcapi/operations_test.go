package fcapi

import (
	"context"
	"encoding/json"
)

// operation is one endpoint of the specification and the client's method for it. A body or an answer is given as JSON, so
// that a test can make it from the specification.
type operation struct {
	endpoint string // method and path, as in the specification
	body     any    // pointer to the type of the body; nil for none
	call     func(ctx context.Context, c *Client, body any) (answer any, err error)
}

func sends[B any](endpoint string, method func(*Client, context.Context, B) error) operation {
	return operation{endpoint, new(B), func(ctx context.Context, c *Client, body any) (any, error) {
		return nil, method(c, ctx, *body.(*B))
	}}
}

func asks[A any](endpoint string, method func(*Client, context.Context) (A, error)) operation {
	return operation{endpoint, nil, func(ctx context.Context, c *Client, _ any) (any, error) { return method(c, ctx) }}
}

// operations are all that the client can do.
func operations() []operation {
	return []operation{
		asks("GET /", (*Client).InstanceInfo),
		asks("GET /version", (*Client).Version),
		asks("GET /vm/config", (*Client).Config),
		asks("GET /machine-config", (*Client).MachineConfig),
		asks("GET /balloon", (*Client).Balloon),
		asks("GET /balloon/statistics", (*Client).BalloonStats),
		asks("GET /balloon/hinting/status", (*Client).BalloonHinting),
		asks("GET /hotplug/memory", (*Client).MemoryHotplug),
		asks("GET /mmds", (*Client).MMDS),
		sends("PUT /actions", func(c *Client, ctx context.Context, a InstanceActionInfo) error { return c.Action(ctx, a.ActionType) }),
		sends("PATCH /vm", func(c *Client, ctx context.Context, v VM) error {
			if v.State == VMResumed {
				return c.Resume(ctx)
			}
			return c.Pause(ctx)
		}),
		sends("PUT /boot-source", (*Client).PutBootSource),
		sends("PUT /machine-config", (*Client).PutMachineConfig),
		sends("PATCH /machine-config", (*Client).PatchMachineConfig),
		sends("PUT /cpu-config", (*Client).PutCPUConfig),
		sends("PUT /logger", (*Client).PutLogger),
		sends("PUT /metrics", (*Client).PutMetrics),
		sends("PUT /mmds/config", (*Client).PutMMDSConfig),
		sends[json.RawMessage]("PUT /mmds", (*Client).PutMMDS),
		sends[json.RawMessage]("PATCH /mmds", (*Client).PatchMMDS),
		sends("PUT /drives/{drive_id}", (*Client).PutDrive),
		sends("PATCH /drives/{drive_id}", (*Client).PatchDrive),
		sends("PUT /pmem/{id}", (*Client).PutPmem),
		sends("PATCH /pmem/{id}", (*Client).PatchPmem),
		sends("PUT /vsock", (*Client).PutVsock),
		sends("PUT /entropy", (*Client).PutEntropy),
		sends("PUT /serial", (*Client).PutSerial),
		sends("PUT /network-interfaces/{iface_id}", (*Client).PutNetworkInterface),
		sends("PATCH /network-interfaces/{iface_id}", (*Client).PatchNetworkInterface),
		sends("PUT /balloon", (*Client).PutBalloon),
		sends("PATCH /balloon", (*Client).PatchBalloon),
		sends("PATCH /balloon/statistics", (*Client).PatchBalloonStats),
		sends("PATCH /balloon/hinting/start", (*Client).StartBalloonHinting),
		{"PATCH /balloon/hinting/stop", nil, func(ctx context.Context, c *Client, _ any) (any, error) {
			return nil, c.StopBalloonHinting(ctx)
		}},
		sends("PUT /hotplug/memory", (*Client).PutMemoryHotplug),
		sends("PATCH /hotplug/memory", (*Client).PatchMemoryHotplug),
		sends("PUT /snapshot/create", (*Client).CreateSnapshot),
		sends("PUT /snapshot/load", (*Client).LoadSnapshot),
	}
}
