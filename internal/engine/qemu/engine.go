package qemu

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/icount"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// engineName is Engine.Name, and what a MachineRecord of ours says.
const engineName = "qemu"

// name is what messages call the VMM.
const name = "QEMU"

// Options of New.
type Options struct {
	Log *slog.Logger
	// CacheDir, made when it is needed, keeps the verdict on the host's KVM and the compiled counting plugin.
	CacheDir string
	// ForceAccel overrides the choice of accelerator: kvm, hvf or tcg. Empty chooses the best.
	ForceAccel string
}

// Engine is the engine "qemu".
type Engine struct {
	log         *slog.Logger
	cacheDir    string
	force       string
	binaries    binaries
	tsc         *hostvirt.TSC
	dialSession dialSession
}

var (
	_ sandbox.Engine   = (*Engine)(nil)
	_ sandbox.Restorer = (*Engine)(nil)
)

// New makes the engine. It looks at nothing yet.
func New(o Options) *Engine {
	return &Engine{
		log: o.Log.With("engine", engineName), cacheDir: o.CacheDir, force: o.ForceAccel,
		tsc: hostvirt.NewTSC(), dialSession: dialSerial,
	}
}

// Name is "qemu".
func (e *Engine) Name() string { return engineName }

// Capabilities says what this host lets QEMU do for guests of its own architecture.
func (e *Engine) Capabilities(ctx context.Context) sandbox.Capabilities {
	arch := hostArch()
	if arch == "" {
		arch = sandbox.X8664
	}
	return e.CapabilitiesFor(ctx, arch)
}

// CapabilitiesFor says what this host lets QEMU do for guests of one architecture.
func (e *Engine) CapabilitiesFor(ctx context.Context, arch sandbox.Arch) sandbox.Capabilities {
	bin, err := e.binaries.find(ctx, arch)
	if err != nil {
		return incapable(err)
	}
	c, err := e.choose(ctx, arch)
	if err != nil {
		return incapable(err)
	}
	caps := sandbox.Capabilities{
		Usable: true, Reason: c.reason, Hint: c.hint, Accelerator: c.accel, Version: bin.version, Binary: bin.path,
		Confinement: []string{"no network device", "no inherited descriptors or environment"},
	}
	if bin.seccomp {
		caps.Confinement = append(caps.Confinement, "seccomp filter of QEMU (no new processes, no other user)")
	}
	return caps
}

func incapable(err error) sandbox.Capabilities {
	c := sandbox.Capabilities{Reason: err.Error()}
	var e *sandbox.Error
	if errors.As(err, &e) {
		c.Hint = e.Hint
	}
	return c
}

// choose picks the accelerator for guests of arch. KVM is measured only when it could be chosen.
func (e *Engine) choose(ctx context.Context, arch sandbox.Arch) (choice, error) {
	var virt hostvirt.KVM
	if arch == hostArch() && e.force != accelTCG {
		if err := os.MkdirAll(e.cacheDir, 0o700); err != nil {
			return choice{}, fmt.Errorf("make the cache directory: %w", err)
		}
		var err error
		if virt, err = hostvirt.ProbeKVM(ctx, filepath.Join(e.cacheDir, "kvm.json")); err != nil {
			return choice{}, err
		}
	}
	return chooseAccel(runtime.GOOS, hostArch(), arch, virt, e.force)
}

// CommandLine returns the command line that Launch would use for spec, with a link token of zeros.
func (e *Engine) CommandLine(ctx context.Context, spec sandbox.MachineSpec) ([]string, error) {
	cmd, err := e.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	cmd.token = hex.EncodeToString(make([]byte, tokenSize))
	return append([]string{cmd.bin.path}, cmd.args()...), nil
}

// prepare finds out all that the command line needs, and checks what QEMU would only complain about later.
func (e *Engine) prepare(ctx context.Context, spec sandbox.MachineSpec) (*command, error) {
	bin, err := e.binaries.find(ctx, spec.Arch)
	if err != nil {
		return nil, err
	}
	c, err := e.choose(ctx, spec.Arch)
	if err != nil {
		return nil, err
	}
	cmd := &command{bin: bin, accel: c.accel, spec: spec, variant: variant{legacy: spec.Arch == sandbox.X8664 && !spec.Kernel.LAPICTimer}}
	if spec.From != nil {
		if err := e.fits(*spec.From, bin, c); err != nil {
			return nil, err
		}
		cmd.use, cmd.memory = restores, filepath.Join(spec.From.Dir, memoryFile)
		if cmd.variant, err = parseVariant(spec.From.Variant); err != nil {
			return nil, err
		}
	}
	if cmd.slots, err = spec.Slots(); err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	if err := cmd.check(); err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	if spec.From == nil {
		for what, path := range map[string]string{"kernel": spec.Kernel.Path, "initramfs": spec.Initrd} {
			if _, err := os.Stat(path); err != nil {
				return nil, fmt.Errorf("find the %s: %w", what, err)
			}
		}
	}
	if spec.Arch == sandbox.X8664 && c.accel == accelTCG && spec.From == nil {
		cmd.tscKHz = e.tsc.KHz()
	}
	if spec.CountFile != "" {
		if cmd.plugin, err = icount.Build(ctx, e.cacheDir, bin.version); err != nil {
			return nil, err
		}
	}
	if spec.From != nil {
		cmd.token = spec.From.LinkToken // which the guest was told when it booted
		return cmd, nil
	}
	token := make([]byte, tokenSize)
	_, _ = rand.Read(token) // never fails: crypto/rand
	cmd.token = hex.EncodeToString(token)
	return cmd, nil
}
