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
	"time"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/icount"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// engineName is Engine.Name, and what a MachineRecord of ours says.
const engineName = "qemu"

// killTimeout is how long a QEMU that was sent SIGKILL may take to be gone; it may be in a write to a slow disk.
const killTimeout = 30 * time.Second

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

var _ sandbox.Engine = (*Engine)(nil)

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

// Launch starts a QEMU for spec. It returns when QEMU answers on its monitor, which is when it has taken its memory, its
// disks and the kernel; the guest boots meanwhile. What QEMU says when it cannot is in the error.
func (e *Engine) Launch(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	cmd, err := e.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	m, err := e.launch(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return m, nil
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
	cmd := &command{bin: bin, accel: c.accel, spec: spec}
	if err := cmd.check(); err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	for what, path := range map[string]string{"kernel": spec.Kernel.Path, "initramfs": spec.Initrd} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("find the %s: %w", what, err)
		}
	}
	if spec.Arch == sandbox.X8664 && c.accel == accelTCG {
		cmd.tscKHz = e.tsc.KHz()
	}
	if spec.CountFile != "" {
		if cmd.plugin, err = icount.Build(ctx, e.cacheDir, bin.version); err != nil {
			return nil, err
		}
	}
	token := make([]byte, tokenSize)
	_, _ = rand.Read(token) // never fails: crypto/rand
	cmd.token = hex.EncodeToString(token)
	return cmd, nil
}

// logFiles are the two logs of a microVM.
type logFiles struct{ console, output *boundedLog }

func openLogs(dir string, fresh bool) (logFiles, error) {
	console, err := openLog(filepath.Join(dir, "console.log"), maxConsoleLog, fresh)
	if err != nil {
		return logFiles{}, err
	}
	output, err := openLog(filepath.Join(dir, "vmm.log"), maxVMMLog, fresh)
	if err != nil {
		console.Close()
		return logFiles{}, err
	}
	return logFiles{console: console, output: output}, nil
}

func (l logFiles) close() {
	l.console.Close()
	l.output.Close()
}

func (e *Engine) launch(ctx context.Context, cmd *command) (m *machine, err error) {
	spec := cmd.spec
	files := runtimeFilesIn(spec.RuntimeDir)
	logs, err := openLogs(spec.LogDir, true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if m == nil {
			logs.close()
			err = errors.Join(err, files.remove())
		}
	}()
	begin := time.Now()
	proc, output, err := spawn(cmd, files)
	if err != nil {
		return nil, err
	}
	forked := time.Now()
	id := proc.Identity()
	rec := sandbox.MachineRecord{
		Engine: engineName, Accelerator: cmd.accel, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID, LinkToken: cmd.token,
	}
	m, err = e.attach(ctx, proc, rec, spec, logs, output)
	if err != nil {
		m = nil
		return nil, errors.Join(err, killAndWait(ctx, proc))
	}
	if err := m.started(ctx); err != nil {
		return m, errors.Join(err, m.Kill(context.WithoutCancel(ctx)))
	}
	m.stages = []sandbox.Stage{{Name: "fork", Duration: forked.Sub(begin)}, {Name: "vmm-init", Duration: time.Since(forked)}}
	e.log.Debug("launched", "sandbox", spec.ID, "pid", id.PID, "accelerator", cmd.accel)
	return m, nil
}

// spawn starts QEMU. output is our end of what it prints.
func spawn(cmd *command, files runtimeFiles) (proc *process.Process, output *os.File, err error) {
	ends, err := files.listen()
	if err != nil {
		return nil, nil, err
	}
	// With these the sockets would outlive QEMU.
	defer closeAll(ends)
	theirs, ours, err := files.makeOutput()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	proc, err = process.Start(process.Spec{
		Path: cmd.bin.path, Args: append([]string{cmd.bin.path}, cmd.args()...), Dir: cmd.spec.RuntimeDir,
		Env:    []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C"},
		Output: theirs, Files: ends,
	})
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return proc, ours, nil
}

// started waits until QEMU answers.
func (m *machine) started(ctx context.Context) error {
	select {
	case <-m.monitor.ready:
		return nil
	case <-m.monitor.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU: %w", context.Cause(ctx))
	}
	// Its monitor is closed: either it ends, or it does not speak QMP.
	timeout, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	select {
	case <-m.done:
	case <-timeout.Done():
		return fmt.Errorf("talk to QEMU: %w", m.monitor.err)
	}
	select {
	case <-m.monitor.ready:
		return nil // it ran, and the guest has ended already: Done and Exit say so
	default:
	}
	detail := m.exit.Detail
	if detail == "" {
		detail = fmt.Sprintf("it ended with code %d %s", m.exit.Code, m.exit.Signal)
	}
	return sandbox.Errorf(sandbox.Failure, hintFor(detail), "start QEMU: %s", detail)
}

func killAndWait(ctx context.Context, proc *process.Process) error {
	if err := proc.Kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("QEMU (pid %d) was killed and is not gone after %v", proc.Identity().PID, killTimeout)
	}
}

// Adopt takes over a QEMU that an earlier process of ours launched. It uses of spec the ID and the directories only.
func (e *Engine) Adopt(ctx context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	if rec.Engine != engineName {
		return nil, fmt.Errorf("adopt a microVM: its record is of the engine %q", rec.Engine)
	}
	files := runtimeFilesIn(spec.RuntimeDir)
	proc, err := process.Open(process.Identity{PID: rec.PID, StartTime: rec.StartTime, BootID: rec.BootID})
	if errors.Is(err, process.ErrGone) {
		if err := files.remove(); err != nil {
			return nil, fmt.Errorf("remove the sockets of a VMM that is gone: %w", err)
		}
		return nil, sandbox.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	m, err := e.readopt(ctx, proc, rec, spec, files)
	if err != nil {
		select {
		case <-proc.Done(): // it ended just now
			return nil, errors.Join(sandbox.ErrGone, files.remove())
		default:
		}
		proc.Release()
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	return m, nil
}

func (e *Engine) readopt(ctx context.Context, proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, files runtimeFiles) (*machine, error) {
	logs, err := openLogs(spec.LogDir, false)
	if err != nil {
		return nil, err
	}
	output, err := files.openOutput()
	if err != nil {
		logs.close()
		return nil, err
	}
	m, err := e.attach(ctx, proc, rec, spec, logs, output)
	if err != nil {
		logs.close()
		return nil, err
	}
	return m, nil
}

// Sweep kills QEMUs of the sandbox that no record tells of, and removes what they leave.
func (e *Engine) Sweep(ctx context.Context, spec sandbox.MachineSpec) error {
	ids, err := process.FindByArg(marker(spec.ID))
	if err != nil {
		return fmt.Errorf("look for a QEMU without a record: %w", err)
	}
	for _, id := range ids {
		proc, err := process.Open(id)
		if errors.Is(err, process.ErrGone) {
			continue
		}
		if err == nil {
			e.log.Warn("killing a QEMU without a record", "sandbox", spec.ID, "pid", id.PID)
			if err = killAndWait(ctx, proc); err != nil {
				proc.Release()
			}
		}
		if err != nil {
			return fmt.Errorf("kill a QEMU without a record: %w", err)
		}
	}
	if err := runtimeFilesIn(spec.RuntimeDir).remove(); err != nil {
		return fmt.Errorf("remove the sockets of a QEMU without a record: %w", err)
	}
	return nil
}
