package manager

import (
	"slices"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// withImage fills in what a command leaves open from the configuration of the sandbox's image, as docker exec does: the
// environment, user and working directory. A sandbox with a project has its commands begin there all the same.
func withImage(spec guestrpc.ExecSpec, rec sandbox.Record) guestrpc.ExecSpec {
	c := rec.Image.Config
	if c == nil {
		return spec
	}
	spec.Env = slices.Concat(c.Env, spec.Env) // the last of two with one name counts
	if spec.User == "" {
		spec.User = c.User
	}
	if spec.Cwd == "" && rec.Spec.Project == "" {
		if spec.Cwd = c.WorkingDir; spec.Cwd == "" {
			spec.Cwd = "/"
		}
	}
	return spec
}
