package firecracker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

var goodKVM = hostvirt.KVM{Usable: true, Good: true, Reason: "fast"}

// newEngine has the test binary as its Firecracker.
func newEngine(t *testing.T, mode string) *Engine {
	t.Helper()
	if runtime.GOOS != "linux" || hostArch() == "" {
		t.Skip("Firecracker does not exist for this host")
	}
	t.Setenv("PATH", "")
	e := New(Options{Log: slog.New(slog.DiscardHandler), BinaryDir: fakeDir(t, mode)})
	e.probe = func(context.Context) (hostvirt.KVM, error) { return goodKVM, nil }
	e.trial.done, e.trial.refusal = true, "namespaces are not for this test"
	return e
}

// fakeDir is a directory with a fake Firecracker.
func fakeDir(t *testing.T, mode string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Link(self, filepath.Join(dir, program)); err != nil {
		b, err := os.ReadFile(self) // on another file system
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, program), b, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mode"), []byte(mode), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newSpec(t *testing.T) sandbox.MachineSpec {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	s := sandbox.MachineSpec{
		ID: hex.EncodeToString(id), Arch: hostArch(), VCPUs: 1, MemoryMiB: 128, VsockCID: 3,
		Kernel: sandbox.KernelImage{Path: write("kernel", "\x7fELF")}, Initrd: write("initrd", "x"),
		Disks: []sandbox.Disk{
			{Role: sandbox.RootLower, Path: write("a disk,\"x", "x"), FS: "erofs", ReadOnly: true},
			{Role: sandbox.Upper, Path: write("upper", "x"), FS: "ext4"},
		},
		// Longer than the 107 bytes of a unix socket's address.
		RuntimeDir: filepath.Join(dir, strings.Repeat("r", 120)), LogDir: filepath.Join(dir, "log"),
	}
	for _, d := range []string{s.RuntimeDir, s.LogDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
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

func consoleOf(t *testing.T, spec sandbox.MachineSpec) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(spec.LogDir, "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// expectConsole waits until the console matches: what copies it to its file does so in its own time.
func expectConsole(t *testing.T, spec sandbox.MachineSpec, matches func(console, want string) bool, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !matches(consoleOf(t, spec), want); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("the console said %q, want %q", consoleOf(t, spec), want)
		}
	}
}

func exactly(console, want string) bool { return console == want }

// checkGuest talks to the guest, which says the port and then echoes.
func checkGuest(t *testing.T, m sandbox.Machine) {
	t.Helper()
	conn, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("1024:hello"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "1024:hello" {
		t.Errorf("the guest said %q, %v", got, err)
	}
}

func TestLaunch(t *testing.T) {
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	var stages []string
	for _, s := range m.Stages() {
		stages = append(stages, s.Name)
		if s.Duration <= 0 {
			t.Errorf("stage %+v", s)
		}
	}
	if want := []string{"fork", "vmm-api", "vmm-start"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
	checkGuest(t, m)
	checkGuest(t, m)
	if err := m.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	if paused, err := m.Paused(t.Context()); err != nil || !paused {
		t.Errorf("it goes on: %v", err)
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := waitDone(t, m); exit != (sandbox.Exit{Code: -1, Signal: "killed"}) {
		t.Errorf("%+v, want that it was killed", exit)
	}
	// A boot takes one request.
	want := "hello from the guest\nAPI GET / \nAPI GET / \n" // the second asks how it was paused
	expectConsole(t, spec, exactly, want)
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
}

// A guest that is not ready refuses, and is asked again when it says that it is.
func TestDialWaitsForGuest(t *testing.T) {
	e, spec := newEngine(t, modeLate), newSpec(t)
	m := launch(t, e, spec)
	checkGuest(t, m)
	if _, err := os.Lstat(m.files.ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it listens for the guest although it has been reached: %v", err)
	}
}

// The guest agent's silence does not outlive the VMM, nor its caller's patience.
func TestDialEnds(t *testing.T) {
	e, spec := newEngine(t, modeDeaf), newSpec(t)
	m := launch(t, e, spec)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the guest agent did not answer")
	cancel(why)
	if _, err := m.Dial(ctx, 1); !errors.Is(err, why) {
		t.Errorf("%v, want why its context ended", err)
	}
	errs := make(chan error, 1)
	go func() {
		_, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
		errs <- err
	}()
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("%v, want that the microVM has ended", err)
	}
}

func TestAdopt(t *testing.T) {
	e, spec := newEngine(t, modeLate), newSpec(t)
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
		m, err := newEngine(t, modeGood).Adopt(t.Context(), spec, rec)
		if err != nil {
			t.Fatal(err)
		}
		pauser := m.(sandbox.Pauser)
		if err := pauser.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkGuest(t, m)
		if err := pauser.Pause(t.Context()); err != nil {
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
		other, elsewhere := rec, spec
		change(&other)
		elsewhere.RuntimeDir = t.TempDir()
		if _, err := e.Adopt(t.Context(), elsewhere, other); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%s: %v, want that it is gone", name, err)
		}
	}
	other := rec
	other.Engine = "qemu"
	if _, err := e.Adopt(t.Context(), spec, other); err == nil || errors.Is(err, sandbox.ErrGone) {
		t.Errorf("%v for a record of another engine", err)
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
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := e.Sweep(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, spec)
	}
}

func TestGuestPanics(t *testing.T) {
	e, spec := newEngine(t, modePanics), newSpec(t)
	exit := waitDone(t, launch(t, e, spec))
	if exit.Code != 0 || !strings.Contains(exit.Detail, "not syncing: out of tea") {
		t.Errorf("%+v does not tell of the panic", exit)
	}
	checkNothingLeft(t, spec)
}

// A guest that resets ends its Firecracker without a complaint: there is nothing to tell but that.
func TestGuestResets(t *testing.T) {
	e, spec := newEngine(t, modeResets), newSpec(t)
	if exit := waitDone(t, launch(t, e, spec)); exit != (sandbox.Exit{}) {
		t.Errorf("%+v, want an end without a complaint", exit)
	}
	checkNothingLeft(t, spec)
}

func TestSlowFirecracker(t *testing.T) {
	e, spec := newEngine(t, modeSlow), newSpec(t)
	m := launch(t, e, spec)
	checkGuest(t, m)
	for _, s := range m.Stages() {
		if s.Name != "fork" && s.Duration < slowness/2 {
			t.Errorf("stage %+v does not show that it was slow", s)
		}
	}
}

// A guest that knocks and sends without end costs what its connections hold, and no more: whoever talks to it can hang up, others are
// served, and it can be ended.
func TestGuestFloods(t *testing.T) {
	e, spec := newEngine(t, modeFlood), newSpec(t)
	m := launch(t, e, spec)
	before := runtime.NumGoroutine()
	for range 3 {
		conn, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.CopyN(io.Discard, conn, 1<<20); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		conn.Close()
	}
	if _, err := os.Lstat(m.files.ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it can knock on although it has been reached: %v", err)
	}
	if err := m.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	if n := runtime.NumGoroutine(); n > before+2 {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDone(t, m)
	checkNothingLeft(t, spec)
}

func TestLaunchFails(t *testing.T) {
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, mode string
		change     func(*testing.T, *sandbox.MachineSpec)
		want       string
	}{
		{"dies before its socket is there", modeEarly, nil, "Firecracker said: Error: RunWithApi(FailedToBindSocket)"},
		{"is killed before its socket is there", modeKilled, nil, "killed"},
		{"dies while it starts the guest", modeStarting, nil, "seccomp filter"},
		{"is killed while it starts the guest", modeShot, nil, "killed"},
		{"says a fault", modeFault, nil, "not supported in this tea room"},
		{"fails within", modeBroken, nil, "The kettle is on fire"},
		{"half an answer", modeHalf, nil, "unexpected EOF"},
		{"does not start the guest", modePaused, nil, `"Not started"`},
		{"too old", modeOld, nil, "is Firecracker 1.9.1, and at least 1.10.0"},
		{"too old for a template", modeOlder, func(_ *testing.T, s *sandbox.MachineSpec) { s.Template = true }, "what Firecracker 1.15.1 saves cannot be relied on"},
		{"no kernel", modeGood, func(t *testing.T, s *sandbox.MachineSpec) { remove(t, s.Kernel.Path) }, "find the kernel"},
		{"no initramfs", modeGood, func(t *testing.T, s *sandbox.MachineSpec) { remove(t, s.Initrd) }, "find the initramfs"},
		{"kernel is text", modeGood, func(t *testing.T, s *sandbox.MachineSpec) {
			if err := os.WriteFile(s.Kernel.Path, []byte("not a kernel"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "Firecracker said: Kernel Loader: failed to load ELF kernel image"},
		{"no disk", modeGood, func(t *testing.T, s *sandbox.MachineSpec) { remove(t, s.Disks[1].Path) }, "find the disk upper"},
		{"disk is a directory", modeGood, func(t *testing.T, s *sandbox.MachineSpec) { s.Disks[1].Path = t.TempDir() }, "Firecracker said: Block device error: No such file"},
		{"two disks in one file", modeGood, func(_ *testing.T, s *sandbox.MachineSpec) {
			s.Disks[0].Path, s.Disks[0].ReadOnly = s.Disks[1].Path, false
		}, "two disks are in"},
		{"a disk twice", modeGood, func(_ *testing.T, s *sandbox.MachineSpec) { s.Disks[0].Role = s.Disks[1].Role }, "is there twice"},
		{"too many vCPUs", modeGood, func(_ *testing.T, s *sandbox.MachineSpec) { s.VCPUs = 33 }, "at most 32 vCPUs"},
		{"foreign guest", modeGood, func(_ *testing.T, s *sandbox.MachineSpec) { s.Arch = "riscv64" }, "cannot run riscv64 guests"},
		{"counting", modeGood, func(_ *testing.T, s *sandbox.MachineSpec) { s.CountFile = "x" }, "software emulation only"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, spec := newEngine(t, tc.mode), newSpec(t)
			if tc.change != nil {
				tc.change(t, &spec)
			}
			m, err := e.Launch(t.Context(), spec)
			if err == nil {
				m.Kill(t.Context())
				t.Fatal("it was launched")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
			checkNothingLeft(t, spec)
		})
	}
}

func TestLaunchIsCancelled(t *testing.T) {
	why := errors.New("it was stopped while it started")
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	impatient, cancelImpatient := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, why)
	defer cancelImpatient()
	for mode, ctx := range map[string]context.Context{modeGood: cancelled, modeMute: impatient, modeRefusing: impatient} {
		e, spec := newEngine(t, mode), newSpec(t)
		if _, err := e.binaries.find(t.Context()); err != nil { // so that the end of ctx meets the launch itself
			t.Fatal(err)
		}
		if _, err := e.Launch(ctx, spec); !errors.Is(err, why) {
			t.Errorf("%s: %v, want that it was cancelled", mode, err)
		}
		checkNothingLeft(t, spec)
	}
}

// What a crashed launch left in the runtime directory is not in the way.
func TestLeftoversAreReplaced(t *testing.T) {
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	p, err := process.Open(process.Identity{PID: m.Rec.PID, StartTime: m.Rec.StartTime, BootID: m.Rec.BootID})
	if err != nil {
		t.Fatal(err)
	}
	if err := vmm.KillAndWait(t.Context(), name, p); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, launch(t, e, spec))
}

func TestCapabilities(t *testing.T) {
	e := newEngine(t, modeGood)
	c := e.Capabilities(t.Context())
	if !c.Usable || c.Accelerator != accelKVM || c.Version != "1.16.1" || c.Binary == "" {
		t.Errorf("%+v", c)
	}
	if c := e.CapabilitiesFor(t.Context(), "riscv64"); c.Usable || c.Reason == "" {
		t.Errorf("a foreign guest: %+v", c)
	}
	e.probe = func(context.Context) (hostvirt.KVM, error) {
		return hostvirt.KVM{Usable: true, Reason: "KVM is too slow", Hint: "use another host"}, nil
	}
	if c := e.Capabilities(t.Context()); c.Usable || !strings.Contains(c.Reason, "too slow") || c.Hint != "use another host" {
		t.Errorf("slow KVM: %+v", c)
	}
	if _, err := e.Launch(t.Context(), newSpec(t)); err == nil {
		t.Error("it launches on a KVM that is too slow")
	}
}
