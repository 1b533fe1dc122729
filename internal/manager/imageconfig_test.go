package manager

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestWithImage(t *testing.T) {
	full := &sandbox.ImageConfig{Env: []string{"A=1", "B=2"}, WorkingDir: "/srv", User: "app", Entrypoint: []string{"not used by exec"}}
	for name, c := range map[string]struct {
		config  *sandbox.ImageConfig
		project string
		spec    guestrpc.ExecSpec
		want    guestrpc.ExecSpec
	}{
		"no configuration":    {nil, "", guestrpc.ExecSpec{Env: []string{"A=0"}}, guestrpc.ExecSpec{Env: []string{"A=0"}}},
		"empty configuration": {&sandbox.ImageConfig{}, "", guestrpc.ExecSpec{}, guestrpc.ExecSpec{Cwd: "/"}},
		"all from the image":  {full, "", guestrpc.ExecSpec{}, guestrpc.ExecSpec{Env: []string{"A=1", "B=2"}, Cwd: "/srv", User: "app"}},
		"all of its own": {
			full, "", guestrpc.ExecSpec{Env: []string{"A=0"}, Cwd: "/x", User: "root"},
			guestrpc.ExecSpec{Env: []string{"A=1", "B=2", "A=0"}, Cwd: "/x", User: "root"},
		},
		"project": {full, "/home/me/project", guestrpc.ExecSpec{}, guestrpc.ExecSpec{Env: []string{"A=1", "B=2"}, User: "app"}},
	} {
		rec := sandbox.Record{Spec: sandbox.Spec{Project: c.project}, Image: sandbox.Image{Config: c.config}}
		if got := withImage(c.spec, rec); !cmp.Equal(got, c.want) {
			t.Errorf("%s: %s", name, cmp.Diff(c.want, got))
		}
	}
}
