package client

import (
	"context"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
)

// The types of volumes, described in api/openapi.yaml.
type (
	// Volume is a file system that outlives sandboxes.
	Volume = apiv1.Volume
	// VolumeList is all volumes, and what of them could not be read.
	VolumeList = apiv1.VolumeList
	// VolumeMount is a volume in a sandbox.
	VolumeMount = apiv1.VolumeMount
	// VolumeUser is a sandbox that names a volume.
	VolumeUser = apiv1.VolumeUser
)

// CreateVolume makes an empty volume; sizeMiB is its virtual size in MiB, 0 for the daemon's default.
func (c *Client) CreateVolume(ctx context.Context, name string, sizeMiB int) (v Volume, err error) {
	req := apiv1.CreateVolumeRequest{Name: name}
	if sizeMiB != 0 {
		req.SizeMib = &sizeMiB
	}
	resp, err := c.api.CreateVolume(ctx, req)
	return v, result(resp, err, &v)
}

// Volumes returns all volumes by name.
func (c *Client) Volumes(ctx context.Context) (l VolumeList, err error) {
	resp, err := c.api.ListVolumes(ctx)
	return l, result(resp, err, &l)
}

// Volume returns one volume.
func (c *Client) Volume(ctx context.Context, name string) (v Volume, err error) {
	resp, err := c.api.GetVolume(ctx, name)
	return v, result(resp, err, &v)
}

// RemoveVolume deletes a volume that no sandbox names.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	resp, err := c.api.RemoveVolume(ctx, name)
	return result(resp, err, nil)
}
