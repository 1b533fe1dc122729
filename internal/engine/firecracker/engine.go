package firecracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// engineName is Engine.Name, and what a MachineRecord of ours says.
const engineName = "firecracker"

// name is what messages call the VMM.
const name = "Firecracker"

const accelKVM = "kvm"

// Options of New.
type Options struct {
	Log *slog.Logger
	// BinaryDir is where a Firecracker of our own is looked for before PATH: BinaryDir/firecracker. It may be missing.
	BinaryDir string
	// KVMCache is the file that keeps the verdict on the host's KVM. Its directory is made when it is needed.
	KVMCache string
	// RequireJailer makes a launch fail that would not be under Firecracker's jailer. Whoever chooses among engines must not
	// take another one then: none is confined as much.
	RequireJailer bool
}

// Engine is the engine "firecracker".
type Engine struct {
	log      *slog.Logger
	binaries *binaries
	probe    func(context.Context) (hostvirt.KVM, error)

	requireJailer bool
	trial         trial
}

var _ sandbox.Engine = (*Engine)(nil)

// New makes the engine. It looks at nothing yet.
func New(o Options) *Engine {
	return &Engine{
		log: o.Log.With("engine", engineName), binaries: &binaries{dir: o.BinaryDir}, requireJailer: o.RequireJailer,
		probe: func(ctx context.Context) (hostvirt.KVM, error) {
			if err := os.MkdirAll(filepath.Dir(o.KVMCache), 0o700); err != nil {
				return hostvirt.KVM{}, fmt.Errorf("make the cache directory: %w", err)
			}
			return hostvirt.ProbeKVM(ctx, o.KVMCache)
		},
	}
}

// Name is "firecracker".
func (e *Engine) Name() string { return engineName }

// hostArch is the architecture of this host; empty when Firecracker does not exist for it.
func hostArch() sandbox.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return sandbox.X8664
	case "arm64":
		return sandbox.AArch64
	}
	return ""
}

// Capabilities says what this host lets Firecracker do.
func (e *Engine) Capabilities(ctx context.Context) sandbox.Capabilities {
	return e.CapabilitiesFor(ctx, hostArch())
}

// CapabilitiesFor says what this host lets Firecracker do for guests of one architecture.
func (e *Engine) CapabilitiesFor(ctx context.Context, arch sandbox.Arch) sandbox.Capabilities {
	bin, virt, err := e.usable(ctx, arch)
	var confined confinement
	if err == nil {
		confined, err = e.confinement(ctx, bin)
	}
	if err != nil {
		c := sandbox.Capabilities{Reason: err.Error()}
		var se *sandbox.Error
		if errors.As(err, &se) {
			c.Hint = se.Hint
		}
		return c
	}
	return sandbox.Capabilities{
		Usable: true, Reason: virt.Reason, Hint: confined.hint, Accelerator: accelKVM, Version: bin.version.String(), Binary: bin.path,
		Confinement: confined.describe(),
	}
}

// usable returns what is needed to run guests of arch, or why they cannot be run. That KVM is no good comes before that no
// Firecracker is there: to install one would be in vain.
func (e *Engine) usable(ctx context.Context, arch sandbox.Arch) (binary, hostvirt.KVM, error) {
	if runtime.GOOS != "linux" {
		return binary{}, hostvirt.KVM{}, sandbox.Errorf(sandbox.Unavailable, "", "Firecracker runs on Linux only")
	}
	if arch != hostArch() {
		return binary{}, hostvirt.KVM{}, sandbox.Errorf(sandbox.Unavailable, "use the engine qemu for it", "Firecracker cannot run %s guests on a %s host", arch, hostArch())
	}
	virt, err := e.probe(ctx)
	if err != nil {
		return binary{}, hostvirt.KVM{}, err
	}
	if !virt.Good {
		return binary{}, hostvirt.KVM{}, sandbox.Errorf(sandbox.Unavailable, virt.Hint, "Firecracker needs hardware virtualization: %s", virt.Reason)
	}
	bin, err := e.binaries.find(ctx)
	return bin, virt, err
}
