package app

import (
	"context"
	"net/http"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/vmmrelease"
)

// Setup installs the release of Firecracker that agentkernel is tested with, for this user: from an archive, or from its
// publisher when from is empty.
func Setup(ctx context.Context, dirs paths.Dirs, from string, progress func(done, total int64)) (vmmrelease.Result, error) {
	return vmmrelease.Install(ctx, vmmrelease.Options{
		Releases: dirs.Releases(), Link: dirs.Firecracker(), Arch: hostArch(), From: from, Client: http.DefaultClient, Progress: progress,
		Check: firecracker.ProgramVersion,
	})
}
