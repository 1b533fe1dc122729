package auto

import (
	"context"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

type restoringFake struct{ *fake }

func (f restoringFake) Finish(_ context.Context, _ sandbox.MachineSpec, saved sandbox.SavedState) (sandbox.SavedState, error) {
	saved.Files = []string{f.name}
	return saved, nil
}

func (f restoringFake) Restorable(context.Context, sandbox.SavedState) error { return nil }

// A saved state goes to the engine that it is of, also when another one would be chosen.
func TestRestore(t *testing.T) {
	slow := restoringFake{&fake{name: "slow", arches: "x86_64"}}
	e, fast, _ := engines("x86_64", "")
	e.candidates[1] = slow
	saved := sandbox.SavedState{Engine: "slow"}
	m, err := e.Launch(t.Context(), sandbox.MachineSpec{Arch: sandbox.X8664, From: &saved})
	if err != nil || m.(fakeMachine).by != "slow" || m.(fakeMachine).why == "" || len(fast.calls) > 0 {
		t.Errorf("%+v, %v, %v", m, err, fast.calls)
	}
	if got, err := e.Finish(t.Context(), sandbox.MachineSpec{}, saved); err != nil || len(got.Files) != 1 || got.Files[0] != "slow" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := e.Restorable(t.Context(), saved); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"fast": `by the engine "fast", and there is none`, "slow": "require_jailer"} {
		e.RequireJailer = true
		err := e.Restorable(t.Context(), sandbox.SavedState{Engine: name})
		if _, launched := e.Launch(t.Context(), sandbox.MachineSpec{From: &sandbox.SavedState{Engine: name}}); err == nil || launched == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, err, launched)
		}
	}
}
