package cli

import (
	"github.com/spf13/cobra"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// decidedBySnapshot are the flags that have no say about a sandbox that goes on from a snapshot.
var decidedBySnapshot = []string{"image", "pull", "agent", "vcpus", "memory", "disk", "project", "volume", "config", "build", "build-arg", "engine", "arch"}

// snapshotRequest is request for --from-snapshot. No configuration file is read.
func (f *createFlags) snapshotRequest(cmd *cobra.Command, name string) (client.CreateRequest, error) {
	for _, flag := range decidedBySnapshot {
		if cmd.Flags().Changed(flag) {
			return client.CreateRequest{}, sandbox.Errorf(sandbox.Invalid, "leave it out", "--%s cannot be given with --from-snapshot, which decides about it", flag)
		}
	}
	req := client.CreateRequest{Name: name, FromSnapshot: &f.fromSnapshot}
	if name == "" {
		return req, sandbox.Errorf(sandbox.Invalid, "agentkernel create NAME --from-snapshot "+f.fromSnapshot, "a sandbox's name is missing")
	}
	if cmd.Flags().Changed("idle-timeout") {
		ms := f.idleTimeout.Milliseconds()
		req.IdleTimeoutMs = &ms
	}
	if f.idleAction != "" {
		req.IdleAction = (*apiv1.CreateRequestIdleAction)(&f.idleAction)
	}
	if cmd.Flags().Changed("vsock-cid") {
		cid := int64(f.vsockCID)
		req.VsockCid = &cid
	}
	var err error
	req.Publish, err = publishRequest(f.publish)
	return req, err
}
