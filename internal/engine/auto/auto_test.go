package auto

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// fake is an engine that can run guests of some architectures.
type fake struct {
	name   string
	arches string
	err    error // of Launch
	calls  []string
}

type fakeMachine struct {
	sandbox.Machine
	by, why string
}

func (f *fake) Name() string { return f.name }
func (f *fake) Capabilities(ctx context.Context) sandbox.Capabilities {
	return f.CapabilitiesFor(ctx, sandbox.X8664)
}
func (f *fake) CapabilitiesFor(_ context.Context, arch sandbox.Arch) sandbox.Capabilities {
	if strings.Contains(f.arches, string(arch)) {
		return sandbox.Capabilities{Usable: true, Reason: f.name + " works"}
	}
	return sandbox.Capabilities{Reason: f.name + " is missing", Hint: "install " + f.name}
}
func (f *fake) Launch(_ context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	f.calls = append(f.calls, "launch")
	return fakeMachine{by: f.name, why: spec.EngineWhy}, f.err
}
func (f *fake) Adopt(context.Context, sandbox.MachineSpec, sandbox.MachineRecord) (sandbox.Machine, error) {
	return fakeMachine{by: f.name}, nil
}
func (f *fake) Sweep(context.Context, sandbox.MachineSpec) error {
	f.calls = append(f.calls, "sweep")
	return f.err
}

func engines(first, second string) (*Engine, *fake, *fake) {
	a, b := &fake{name: "fast", arches: first}, &fake{name: "slow", arches: second}
	return New(Options{Log: slog.New(slog.DiscardHandler), Host: sandbox.X8664}, a, b), a, b
}

func TestLaunch(t *testing.T) {
	for _, tc := range []struct {
		name, first, second string
		arch                sandbox.Arch
		want                string // empty: none
	}{
		{"both", "x86_64", "x86_64 aarch64", sandbox.X8664, "fast"},
		{"the second alone", "", "x86_64", sandbox.X8664, "slow"},
		{"a foreign guest", "x86_64", "x86_64 aarch64", sandbox.AArch64, "slow"},
		{"none", "", "", sandbox.X8664, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, _, _ := engines(tc.first, tc.second)
			m, err := e.Launch(t.Context(), sandbox.MachineSpec{Arch: tc.arch})
			if tc.want == "" {
				var se *sandbox.Error
				if !errors.As(err, &se) || se.Kind != sandbox.Unavailable || se.Hint != "install slow" ||
					!strings.Contains(err.Error(), "fast is missing") || !strings.Contains(err.Error(), "slow is missing") {
					t.Errorf("%v, want both reasons", err)
				}
				if c := e.Capabilities(t.Context()); c.Usable || c.Hint != "install slow" {
					t.Errorf("%+v", c)
				}
				return
			}
			if err != nil || m.(fakeMachine).by != tc.want {
				t.Errorf("%+v, %v; want %s", m, err, tc.want)
			}
			if why := m.(fakeMachine).why; tc.first == "" && !strings.Contains(why, "fast: fast is missing") {
				t.Errorf("it does not say why not the first one: %q", why)
			}
			chosen := 0
			for _, c := range e.Choose(t.Context(), "", tc.arch) {
				if c.Chosen {
					chosen++
				}
				if c.Why == "" || c.Chosen != (c.Engine.Name() == tc.want) {
					t.Errorf("%s: chosen %v, %q", c.Engine.Name(), c.Chosen, c.Why)
				}
			}
			if chosen != 1 {
				t.Errorf("%d are chosen", chosen)
			}
		})
	}
}

// A preferred engine that fails is not covered up by another.
func TestLaunchFails(t *testing.T) {
	e, a, b := engines("x86_64", "x86_64")
	a.err = errors.New("no memory")
	if _, err := e.Launch(t.Context(), sandbox.MachineSpec{Arch: sandbox.X8664}); !errors.Is(err, a.err) || len(b.calls) != 0 {
		t.Errorf("%v; the other one was asked: %v", err, b.calls)
	}
}

// The record decides, not the choice of today.
func TestAdopt(t *testing.T) {
	e, _, _ := engines("x86_64", "")
	m, err := e.Adopt(t.Context(), sandbox.MachineSpec{}, sandbox.MachineRecord{Engine: "slow"})
	if err != nil || m.(fakeMachine).by != "slow" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := e.Adopt(t.Context(), sandbox.MachineSpec{}, sandbox.MachineRecord{Engine: "other"}); err == nil || errors.Is(err, sandbox.ErrGone) {
		t.Errorf("%v for an engine that there is not", err)
	}
}

func TestSweep(t *testing.T) {
	e, a, b := engines("x86_64", "x86_64")
	a.err = errors.New("no permission")
	if err := e.Sweep(t.Context(), sandbox.MachineSpec{}); !errors.Is(err, a.err) || len(b.calls) != 1 {
		t.Errorf("%v; the other one was asked %v", err, b.calls)
	}
}

// Nobody is told to install an engine that they do not permit.
func TestMissingAndWithoutJailer(t *testing.T) {
	e, _, _ := engines("x86_64", "")
	e.RequireJailer = true
	_, err := e.Launch(t.Context(), sandbox.MachineSpec{Engine: "slow", Arch: sandbox.X8664})
	if err == nil || !strings.Contains(err.Error(), "require_jailer is set") {
		t.Error(err)
	}
}

// TestAskedFor has sandboxes and users who name an engine.
func TestAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		asked, byDefault string
		jailer           bool
		want, says       string // says: in the error, or why it is chosen
	}{
		"by the sandbox":            {asked: "slow", want: "slow", says: "the sandbox asks for it"},
		"by the user":               {byDefault: "slow", want: "slow", says: "the user's configuration asks for it"},
		"auto over the default":     {asked: "auto", byDefault: "slow", want: "fast", says: "it is preferred"},
		"what there is not":         {asked: "firecracker", says: "no engine"},
		"the sandbox first":         {asked: "fast", byDefault: "slow", want: "fast"},
		"none that has a jailer":    {jailer: true, says: "require_jailer is set"},
		"asked for, without jailer": {asked: "slow", jailer: true, says: "the engine slow, which is asked for, cannot run"},
	} {
		e, _, _ := engines("x86_64", "x86_64")
		e.Default, e.RequireJailer = tc.byDefault, tc.jailer
		m, err := e.Launch(t.Context(), sandbox.MachineSpec{Engine: tc.asked, Arch: sandbox.X8664})
		if tc.want != "" {
			if err != nil || m.(fakeMachine).by != tc.want || !strings.Contains(m.(fakeMachine).why, tc.says) {
				t.Errorf("%s: %v, %v", name, m, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", name, err, tc.says)
		}
	}
}
