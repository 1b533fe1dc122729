package auto

import (
	"context"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

var _ sandbox.Restorer = (*Engine)(nil)

// restorer is a candidate that restores what it has saved.
type restorer interface {
	Candidate
	sandbox.Restorer
}

// Finish has the engine that saved the state bring it into its final form.
func (e *Engine) Finish(ctx context.Context, spec sandbox.MachineSpec, saved sandbox.SavedState) (sandbox.SavedState, error) {
	r, err := e.restorer(saved)
	if err != nil {
		return sandbox.SavedState{}, err
	}
	return r.Finish(ctx, spec, saved)
}

// Restorable asks the engine that saved the state. That the configuration does not let it run is a reason too.
func (e *Engine) Restorable(ctx context.Context, saved sandbox.SavedState) error {
	r, err := e.restorer(saved)
	if err != nil {
		return err
	}
	return r.Restorable(ctx, saved)
}

// launchFrom restores a saved state with the engine that it is of, whatever engine would be chosen for a boot.
func (e *Engine) launchFrom(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	r, err := e.restorer(*spec.From)
	if err != nil {
		return nil, err
	}
	spec.EngineWhy = "it has saved what this goes on from"
	for _, c := range e.Choose(ctx, spec.Engine, spec.Arch) {
		if c.Chosen && c.Engine.Name() == r.Name() { // so it is with every template
			spec.EngineWhy = c.Why
		}
	}
	return r.Launch(ctx, spec)
}

// restorer is the engine of a saved state.
func (e *Engine) restorer(saved sandbox.SavedState) (restorer, error) {
	for _, c := range e.candidates {
		r, ok := c.(restorer)
		if !ok || c.Name() != saved.Engine {
			continue
		}
		if e.RequireJailer && c.Name() != jailed {
			return nil, sandbox.Errorf(sandbox.Unavailable, "take require_jailer out of the configuration", "the microVM was saved by the engine %s, which has no jailer, and require_jailer is set", saved.Engine)
		}
		return r, nil
	}
	return nil, sandbox.Errorf(sandbox.Unavailable, "", "the microVM was saved by the engine %q, and there is none of that name here that restores", saved.Engine)
}
