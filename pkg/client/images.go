package client

import (
	"context"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// ImageUseList tells who needs which image, and what could not be read and may need one as well.
type ImageUseList = apiv1.ImageUseList

// ImageUses tells who needs which image.
func (c *Client) ImageUses(ctx context.Context) (l ImageUseList, err error) {
	resp, err := c.api.ListImageUses(ctx)
	return l, result(resp, err, &l)
}
