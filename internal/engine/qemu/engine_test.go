package qemu

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/icount"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// These tests run a real QEMU, under software emulation, with a guest of a few instructions.

func newEngine(t *testing.T) *Engine {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed")
	}
	return New(Options{Log: slog.New(slog.DiscardHandler), CacheDir: t.TempDir(), ForceAccel: accelTCG})
}

func newSpec(t *testing.T, program []byte) sandbox.MachineSpec {
	t.Helper()
	dir := t.TempDir()
	initrd, disk := filepath.Join(dir, "initrd"), filepath.Join(dir, "a,disk=x")
	for _, path := range []string{initrd, disk} {
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runtimeDir, logDir := filepath.Join(dir, "run"), filepath.Join(dir, "log")
	for _, d := range []string{runtimeDir, logDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return sandbox.MachineSpec{
		ID: newID(), Arch: sandbox.X8664, VCPUs: 1, MemoryMiB: 64,
		Kernel: sandbox.KernelImage{Path: writeGuest(t, program)}, Initrd: initrd,
		Disks:      []sandbox.Disk{{Role: sandbox.RootLower, Path: disk, FS: "ext4", ReadOnly: true}},
		RuntimeDir: runtimeDir, LogDir: logDir,
	}
}

// newID is an id that no other test has.
func newID() string {
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

func launch(t *testing.T, e *Engine, spec sandbox.MachineSpec) *machine {
	t.Helper()
	m, err := e.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Sweep(context.Background(), spec); err != nil {
			t.Error(err)
		}
		m.Release()
	})
	return m.(*machine)
}

func waitDone(t *testing.T, m sandbox.Machine) sandbox.Exit {
	t.Helper()
	select {
	case <-m.Done():
		return m.Exit()
	case <-time.After(time.Minute):
		t.Fatal("the microVM does not end")
		return sandbox.Exit{}
	}
}

// checkNothingLeft: no process, no file in the runtime directory.
func checkNothingLeft(t *testing.T, spec sandbox.MachineSpec) {
	t.Helper()
	if ids, err := process.FindByArg(marker(spec.ID)); err != nil || len(ids) != 0 {
		t.Errorf("processes %v are left, %v", ids, err)
	}
	if entries, err := os.ReadDir(spec.RuntimeDir); err != nil || len(entries) != 0 {
		t.Errorf("files %v are left, %v", entries, err)
	}
}

func readLog(t *testing.T, spec sandbox.MachineSpec, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(spec.LogDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGuestEnds(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, append(hello(), guestResets()...))
	m := launch(t, e, spec)
	if exit := waitDone(t, m); exit != (sandbox.Exit{}) {
		t.Errorf("%+v, want a clean exit without a word", exit)
	}
	if got := readLog(t, spec, "console.log"); got != "hello\n" {
		t.Errorf("the console said %q", got)
	}
	checkNothingLeft(t, spec)
	if err := m.Kill(t.Context()); err != nil {
		t.Errorf("kill after the end: %v", err)
	}
	if _, err := m.Dial(t.Context(), 1); !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("dial after the end: %v", err)
	}
	if err := m.Pause(t.Context()); !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("pause after the end: %v", err)
	}
	for _, s := range m.Stages() {
		if s.Name == "" || s.Duration <= 0 {
			t.Errorf("stage %+v", s)
		}
	}
}

func TestGuestPanics(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestPanics)
	exit := waitDone(t, launch(t, e, spec))
	if !strings.Contains(exit.Detail, "not syncing: out of tea") {
		t.Errorf("%+v does not tell of the panic", exit)
	}
}

func TestPauseAndKill(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	m := launch(t, e, spec)
	status := func() string {
		var s struct{ Status string }
		if err := m.currentMonitor().execute(t.Context(), "query-status", &s); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	if err := m.Pause(t.Context()); err != nil || status() != "paused" {
		t.Errorf("%v, %s; want that it is paused", err, status())
	}
	m.currentMonitor().close() // the monitor breaks, QEMU lives
	if err := m.Resume(t.Context()); err != nil || status() != "running" {
		t.Errorf("%v, %s; want that it runs", err, status())
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := waitDone(t, m); exit.Signal != "killed" || exit.Code != -1 {
		t.Errorf("%+v, want that it was killed", exit)
	}
	checkNothingLeft(t, spec)
}

// A guest that QEMU halts of its own accord is one that it cannot run: it ends, instead of keeping everybody waiting.
func TestGuestIsHalted(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	m := launch(t, e, spec)
	// The answer may come before the end or not at all.
	_ = m.currentMonitor().execute(t.Context(), "stop", nil)
	if exit := waitDone(t, m); exit.Signal != "killed" || !strings.Contains(exit.Detail, "cannot go on") {
		t.Errorf("%+v does not tell that the guest was halted", exit)
	}
	checkNothingLeft(t, spec)
}

// The guest agent's silence does not outlive the VMM: here nobody ever answers on the serial port.
func TestDialEndsWithVMM(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	m := launch(t, e, spec)
	errs := make(chan error, 1)
	go func() {
		_, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
		errs <- err
	}()
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err == nil {
		t.Error("a dead guest answered")
	}
}

func TestAdopt(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	first := launch(t, e, spec)
	rec := first.Record()
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Done():
		t.Fatal("Release ended the VMM")
	default:
	}
	for range 3 { // a daemon may die more than once
		m, err := newEngine(t).Adopt(t.Context(), spec, rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.(sandbox.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.(sandbox.Pauser).Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m.Record(), rec) {
			t.Errorf("the record became %+v", m.Record())
		}
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*sandbox.MachineRecord){
		"another boot":       func(r *sandbox.MachineRecord) { r.BootID = "x" },
		"another start time": func(r *sandbox.MachineRecord) { r.StartTime++ },
	} {
		other := rec
		change(&other)
		elsewhere := spec
		elsewhere.RuntimeDir = t.TempDir()
		if _, err := e.Adopt(t.Context(), elsewhere, other); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%s: %v, want that it is gone", name, err)
		}
	}
	m, err := e.Adopt(t.Context(), spec, rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDone(t, m)
	checkNothingLeft(t, spec)
	if _, err := e.Adopt(t.Context(), spec, rec); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("%v, want that it is gone", err)
	}
}

// A daemon that died between the start of a VMM and the record of it leaves a VMM that only its marker tells.
func TestSweep(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	m := launch(t, e, spec)
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	if err := e.Sweep(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, spec)
	if err := e.Sweep(t.Context(), spec); err != nil {
		t.Errorf("sweep where nothing is: %v", err)
	}
}

func TestLaunchFails(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *sandbox.MachineSpec)
		want   string
	}{
		{"no kernel", func(_ *testing.T, s *sandbox.MachineSpec) { s.Kernel.Path += ".gone" }, "find the kernel"},
		{"kernel is text", func(t *testing.T, s *sandbox.MachineSpec) {
			if err := os.WriteFile(s.Kernel.Path, []byte("not a kernel at all\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "QEMU said: "},
		{"kernel is cut", func(t *testing.T, s *sandbox.MachineSpec) {
			if err := os.Truncate(s.Kernel.Path, 100); err != nil {
				t.Fatal(err)
			}
		}, "QEMU said: "},
		{"no disk", func(_ *testing.T, s *sandbox.MachineSpec) { s.Disks[0].Path += ".gone" }, "find the disk rootfs"},
		{"too much memory", func(_ *testing.T, s *sandbox.MachineSpec) { s.MemoryMiB = 1 << 30 }, "QEMU said: "},
		{"a directory where a socket goes", func(t *testing.T, s *sandbox.MachineSpec) {
			s.RuntimeDir = filepath.Join(s.RuntimeDir, "gone")
		}, "make the VMM's sockets"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, spec := newEngine(t), newSpec(t, guestHalts)
			runtimeDir := spec.RuntimeDir
			tc.change(t, &spec)
			m, err := e.Launch(t.Context(), spec)
			if err == nil {
				m.Kill(t.Context())
				t.Fatal("it was launched")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
			spec.RuntimeDir = runtimeDir
			checkNothingLeft(t, spec)
		})
	}
}

func TestLaunchIsCancelled(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	if _, err := e.binaries.find(t.Context(), spec.Arch); err != nil { // so that the cancellation meets the launch itself
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Launch(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
	checkNothingLeft(t, spec)
}

// A disk is locked while its microVM runs: two of them would ruin it.
func TestDiskIsLocked(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestHalts)
	spec.Disks[0].ReadOnly = false
	launch(t, e, spec)
	other := newSpec(t, guestHalts)
	other.Disks = spec.Disks
	m, err := e.Launch(t.Context(), other)
	if err == nil {
		m.Kill(t.Context())
		t.Fatal("two microVMs write to one disk")
	}
	var se *sandbox.Error
	if !errors.As(err, &se) || !strings.Contains(se.Hint, "another process") {
		t.Errorf("%v, want a hint at the other process", err)
	}
}

func TestCountFile(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("there is no C compiler")
	}
	e, spec := newEngine(t), newSpec(t, append(hello(), guestResets()...))
	spec.CountFile = filepath.Join(spec.LogDir, "count,1")
	waitDone(t, launch(t, e, spec))
	n, err := icount.Read(spec.CountFile)
	if err != nil || n < 20 {
		t.Errorf("%d instructions, %v", n, err)
	}
}
