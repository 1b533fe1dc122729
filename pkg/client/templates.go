package client

import (
	"context"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// The types of what starts are made faster by, described in api/openapi.yaml.
type (
	// Template is a saved microVM that starts go on from.
	Template = apiv1.Template
	// Pool is what of microVMs is ready.
	Pool = apiv1.Pool
)

// Templates returns all templates, the last used first.
func (c *Client) Templates(ctx context.Context) (l []Template, err error) {
	resp, err := c.api.ListTemplates(ctx)
	return l, result(resp, err, &l)
}

// RemoveTemplate deletes a template. Sandboxes that came of it go on.
func (c *Client) RemoveTemplate(ctx context.Context, id string) error {
	resp, err := c.api.RemoveTemplate(ctx, id)
	return result(resp, err, nil)
}

// Pool says how many microVMs are ready for sandboxes that are made later.
func (c *Client) Pool(ctx context.Context) (p Pool, err error) {
	resp, err := c.api.GetPool(ctx)
	return p, result(resp, err, &p)
}
