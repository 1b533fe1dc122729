package client

import "context"

// Pause halts the vCPUs of a running sandbox; its memory stays in the VMM.
func (c *Client) Pause(ctx context.Context, name string) (s Sandbox, err error) {
	resp, err := c.api.PauseSandbox(ctx, name)
	return s, result(resp, err, &s)
}

// Unpause lets the vCPUs of a paused sandbox go on.
func (c *Client) Unpause(ctx context.Context, name string) (s Sandbox, err error) {
	resp, err := c.api.UnpauseSandbox(ctx, name)
	return s, result(resp, err, &s)
}
