// Package auto is the engine that chooses among engines: the first that this host lets run a guest starts it, and a microVM
// that runs stays with the engine that started it, whatever would be chosen now.
package auto

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Candidate is an engine that can say what it is able to do for guests of an architecture. It may take a measurement the
// first time, and looks at the host again every time after that.
type Candidate interface {
	sandbox.Engine
	CapabilitiesFor(ctx context.Context, arch sandbox.Arch) sandbox.Capabilities
}

// Choice is the verdict on one candidate.
type Choice struct {
	Engine       Candidate
	Capabilities sandbox.Capabilities
	Chosen       bool
	// Why is a clause about the choice: why it is chosen, or not.
	Why string
}

// Engine is the engine "auto". There is no record of that name: a MachineRecord names the engine that was chosen.
type Engine struct {
	Options
	candidates []Candidate
}

// Options of New.
type Options struct {
	Log  *slog.Logger
	Host sandbox.Arch
	// Default is the name of the engine for sandboxes that name none; empty or sandbox.EngineAuto: the first that can be
	// used.
	Default string
	// RequireJailer leaves out engines that have no jailer. (Firecracker's looks after itself.)
	RequireJailer bool
}

var _ sandbox.Engine = (*Engine)(nil)

// New makes the engine. The candidates are in the order of preference; there is at least one.
func New(o Options, candidates ...Candidate) *Engine {
	return &Engine{Options: o, candidates: candidates}
}

// Name is "auto".
func (e *Engine) Name() string { return "auto" }

// Choose judges all candidates for guests of arch, of which name is the one that is asked for: empty for the default. At most
// one is chosen.
func (e *Engine) Choose(ctx context.Context, name string, arch sandbox.Arch) []Choice {
	asked, by := name, "the sandbox asks"
	if asked == "" {
		asked, by = e.Default, "the user's configuration asks"
	}
	forced := asked != "" && asked != sandbox.EngineAuto
	var choices []Choice
	chosen := ""
	for _, c := range e.candidates {
		v := Choice{Engine: c, Capabilities: c.CapabilitiesFor(ctx, arch)}
		if e.RequireJailer && c.Name() != jailed { // also where it is not installed: installing it would not help
			v.Capabilities = sandbox.Capabilities{
				Reason: "it has no jailer, and require_jailer is set", Hint: "agentkernel doctor says what Firecracker and its jailer need; or take require_jailer out of the configuration",
			}
		}
		switch {
		case forced && c.Name() != asked:
			v.Why = by + " for " + asked
		case !v.Capabilities.Usable:
			v.Why = "it cannot be used: " + v.Capabilities.Reason
		case chosen != "":
			v.Why = chosen + " is preferred"
		default:
			chosen = c.Name()
			v.Chosen = true
			switch {
			case forced:
				v.Why = by + " for it"
			case len(choices) == 0:
				v.Why = "it is preferred, and can be used"
			default:
				reasons, _ := refusals(choices)
				v.Why = "it is the first that can be used (" + reasons + ")"
			}
		}
		choices = append(choices, v)
	}
	return choices
}

// Chosen is the engine that Choose chooses, in words that tell it from any other, and from other versions of it.
func (e *Engine) Chosen(ctx context.Context, name string, arch sandbox.Arch) (string, error) {
	choices := e.Choose(ctx, name, arch)
	for _, c := range choices {
		if c.Chosen {
			return fmt.Sprintf("%s %s %s", c.Engine.Name(), c.Capabilities.Version, c.Capabilities.Accelerator), nil
		}
	}
	reason, hint := refusals(choices)
	return "", sandbox.Errorf(sandbox.Unavailable, hint, "no engine can be used: %s", reason)
}

// jailed is the name of the engine that has a jailer.
const jailed = "firecracker"

// Capabilities are those of the engine that is chosen for guests of the host's architecture.
func (e *Engine) Capabilities(ctx context.Context) sandbox.Capabilities {
	choices := e.Choose(ctx, "", e.Host)
	for _, c := range choices {
		if c.Chosen {
			return c.Capabilities
		}
	}
	reason, hint := refusals(choices)
	return sandbox.Capabilities{Reason: reason, Hint: hint}
}

// Launch starts a microVM with the engine that is chosen for its architecture. An engine that fails is not followed by
// another: what the user gets must not depend on a failure. A saved state is restored by the engine that it is of.
func (e *Engine) Launch(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	if spec.From != nil {
		return e.launchFrom(ctx, spec)
	}
	choices := e.Choose(ctx, spec.Engine, spec.Arch)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("choose an engine: %w", context.Cause(ctx))
	}
	for _, c := range choices {
		if c.Chosen {
			e.Log.Debug("engine chosen", "sandbox", spec.ID, "engine", c.Engine.Name(), "why", c.Why)
			spec.EngineWhy = c.Why
			return c.Engine.Launch(ctx, spec)
		}
	}
	for _, c := range choices {
		if c.Engine.Name() == cmp.Or(spec.Engine, e.Default) {
			return nil, sandbox.Errorf(sandbox.Unavailable, c.Capabilities.Hint, "the engine %s, which is asked for, cannot run a %s guest on this host: %s", c.Engine.Name(), spec.Arch, c.Capabilities.Reason)
		}
	}
	reason, hint := refusals(choices)
	return nil, sandbox.Errorf(sandbox.Unavailable, hint, "no engine can run a %s guest on this host: %s", spec.Arch, reason)
}

// refusals puts together why no engine can be used. The hint is that of the last, which asks the least of a host.
func refusals(choices []Choice) (reason, hint string) {
	var reasons []string
	for _, c := range choices {
		reasons = append(reasons, c.Engine.Name()+": "+c.Capabilities.Reason)
		hint = c.Capabilities.Hint
	}
	return strings.Join(reasons, "; "), hint
}

// Adopt takes over a microVM with the engine that its record names.
func (e *Engine) Adopt(ctx context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	for _, c := range e.candidates {
		if c.Name() == rec.Engine {
			return c.Adopt(ctx, spec, rec)
		}
	}
	return nil, fmt.Errorf("adopt a microVM: there is no engine %q, by which it was started", rec.Engine)
}

// Sweep clears up after every engine: which one was chosen for a launch that was cut short is not recorded.
func (e *Engine) Sweep(ctx context.Context, spec sandbox.MachineSpec) error {
	var errs []error
	for _, c := range e.candidates {
		errs = append(errs, c.Sweep(ctx, spec))
	}
	return errors.Join(errs...)
}
