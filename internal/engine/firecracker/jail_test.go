package firecracker

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

var realJailer = flag.String("jailer", "", "a jailer v1.16.1 to use in the place of the fake")

// confinedEngine has an engine that confines its VMMs, or skips the test where that cannot be.
func confinedEngine(t *testing.T, want kind) *Engine {
	t.Helper()
	e := newEngine(t, modeGood)
	e.trial.done, e.trial.refusal = false, ""
	if want == jailed {
		if os.Geteuid() != 0 {
			t.Skip("the jailer needs root")
		}
		fakeJailer(t, e)
	}
	bin, err := e.binaries.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := e.confinement(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if c.kind != want {
		t.Skip("this host does not allow it: " + c.why)
	}
	return e
}

// fakeJailer puts a jailer beside the engine's Firecracker.
func fakeJailer(t *testing.T, e *Engine) {
	t.Helper()
	path := filepath.Join(e.binaries.dir, jailerProgram)
	var err error
	if *realJailer != "" {
		err = os.Symlink(*realJailer, path)
	} else {
		err = os.Link(filepath.Join(e.binaries.dir, program), path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// confinedSpec has a kernel that tells the fake, which sees nothing else, its mode.
func confinedSpec(t *testing.T, mode string) sandbox.MachineSpec {
	t.Helper()
	spec := newSpec(t)
	if err := os.WriteFile(spec.Kernel.Path, []byte("\x7fELF"+mode), 0o600); err != nil {
		t.Fatal(err)
	}
	return spec
}

func eachKind(t *testing.T, test func(t *testing.T, e *Engine)) {
	for name, k := range map[string]kind{"namespaces": namespaces, "jailed": jailed} {
		t.Run(name, func(t *testing.T) { test(t, confinedEngine(t, k)) })
	}
}

func TestConfined(t *testing.T) {
	eachKind(t, func(t *testing.T, e *Engine) {
		spec := confinedSpec(t, modeLate)
		m := launch(t, e, spec)
		checkGuest(t, m)
		confinement := strings.Join(m.Record().Confinement, "\n")
		t.Log("\n" + confinement)
		want := []string{"no capabilities", "mnt, pid, net, ipc, uts", "no network", "a root directory of its own"}
		if os.Geteuid() == 0 {
			want = append(want, " of its own")
			uid, _, err := confine.Owner(spec.ID)
			if err != nil {
				t.Fatal(err)
			}
			var info os.FileInfo
			if info, err = os.Stat(spec.Disks[1].Path); err != nil || !ownedBy(info, uid) {
				t.Errorf("the writable disk is not its own: %v", err)
			}
			if info, err = os.Stat(spec.Disks[0].Path); err != nil || !ownedBy(info, 0) || info.Mode().Perm()&0o007 != 0 {
				t.Errorf("the image has become its own, or everybody's: %v, %v", info.Mode(), err)
			}
		}
		for _, w := range want {
			if !strings.Contains(confinement, w) {
				t.Errorf("%q does not confine it", w)
			}
		}
		if err := m.Pause(t.Context()); err != nil {
			t.Error(err)
		}
		// The next daemon takes it over, paused.
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
		again, err := e.Adopt(t.Context(), spec, m.Record())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.(sandbox.Pauser).Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkGuest(t, again)
		if err := again.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if exit := waitDone(t, again); exit.Signal != "killed" {
			t.Errorf("%+v, want that it was killed", exit)
		}
		checkNothingLeft(t, spec)
	})
}

// A daemon that died at any moment of a launch leaves something that Sweep and the next launch take away.
func TestConfinedLeftovers(t *testing.T) {
	eachKind(t, func(t *testing.T, e *Engine) {
		spec := confinedSpec(t, modeGood)
		m := launch(t, e, spec)
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
		if err := e.Sweep(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, spec)
		// A root directory of a jailer that ran in no mount namespace of ours.
		old := filepath.Join(spec.RuntimeDir, jailName, program, marker(spec.ID), "root")
		if err := os.MkdirAll(filepath.Join(old, "dev/net"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(old, program), []byte("old"), 0o700); err != nil {
			t.Fatal(err)
		}
		m = launch(t, e, spec)
		checkGuest(t, m)
		p, err := process.Open(process.Identity{PID: m.Rec.PID, StartTime: m.Rec.StartTime, BootID: m.Rec.BootID})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
		if err := vmm.KillAndWait(t.Context(), name, p); err != nil { // while no daemon runs
			t.Fatal(err)
		}
		if _, err := e.Adopt(t.Context(), spec, m.Record()); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%v, want that it is gone", err)
		}
		checkNothingLeft(t, spec)
	})
}

func TestConfinedLaunchFails(t *testing.T) {
	eachKind(t, func(t *testing.T, e *Engine) {
		for mode, want := range map[string]string{
			modeEarly: "RunWithApi(FailedToBindSocket)", modeStarting: "seccomp filter", modeFault: "tea room",
		} {
			spec := confinedSpec(t, mode)
			if _, err := e.Launch(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want an error with %q", mode, err, want)
			}
			checkNothingLeft(t, spec)
		}
		spec := confinedSpec(t, modeGood)
		if err := os.Remove(spec.Disks[1].Path); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Launch(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%v, want that a disk is missing", err)
		}
		checkNothingLeft(t, spec)
	})
}

// A VMM that puts a link in the place of its socket does not make us talk to somebody else.
func TestSocketOfAnother(t *testing.T) {
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	otherEngine, otherSpec := newEngine(t, modeGood), newSpec(t)
	other := launch(t, otherEngine, otherSpec)
	if err := os.Rename(m.files.vsock, m.files.vsock+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other.files.vsock, m.files.vsock); err != nil {
		t.Fatal(err)
	}
	if conn, err := m.Dial(t.Context(), sandbox.GuestAgentPort); err == nil || !strings.Contains(err.Error(), "and not the VMM") {
		if err == nil {
			conn.Close()
		}
		t.Errorf("%v, want that another process listens", err)
	}
}

// A VMM that keeps us from listening is adopted all the same, so that it can be used as far as it goes, and ended.
func TestAdoptWithoutListening(t *testing.T) {
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	checkGuest(t, m)
	if err := m.Release(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(m.files.ready, 0o700); err != nil {
		t.Fatal(err)
	}
	again, err := e.Adopt(t.Context(), spec, m.Record())
	if err != nil {
		t.Fatal(err)
	}
	checkGuest(t, again)
	if err := again.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, spec)
}

func TestJailerCannotBeUsed(t *testing.T) {
	script := func(text string, mode os.FileMode) func(t *testing.T, e *Engine) {
		return func(t *testing.T, e *Engine) {
			if err := os.WriteFile(filepath.Join(e.binaries.dir, jailerProgram), []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	noRights := func(t *testing.T, e *Engine) {
		script("#!/bin/sh\necho Jailer v1.16.1\n", 0o755)(t, e)
		e.trial.refusal = "make namespaces: operation not permitted"
	}
	for _, tc := range []struct {
		name         string
		prepare      func(t *testing.T, e *Engine)
		fails        bool // also when no jailer is required
		wantErr, fix string
	}{
		{"missing", func(*testing.T, *Engine) {}, false, "there is no jailer beside", "agentkernel setup"},
		{"wrong version", script("#!/bin/sh\necho Jailer v1.15.0\n", 0o755), true, "is of version 1.15.0", "the release v1.16.1"},
		{"not executable", script("#!/bin/sh\necho Jailer v1.16.1\n", 0o644), true, "cannot be executed", "chmod"},
		{"no jailer at all", script("#!/bin/sh\necho Firecracker v1.16.1\n", 0o755), true, "names no version", "agentkernel setup"},
		{"another architecture", script(foreign, 0o755), true, "for another architecture", "install the release"},
		{"without rights", noRights, false, "operation not permitted", "CAP_SYS_ADMIN"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("without root no jailer is looked for")
			}
			e := newEngine(t, modeGood)
			e.trial.done, e.trial.refusal = true, ""
			tc.prepare(t, e)
			if c := e.Capabilities(t.Context()); c.Usable == tc.fails {
				t.Errorf("%+v when no jailer is required", c)
			}
			e.requireJailer = true
			_, err := e.Launch(t.Context(), newSpec(t))
			var se *sandbox.Error
			if !errors.As(err, &se) || se.Kind != sandbox.Unavailable || !strings.Contains(err.Error(), tc.wantErr) || !strings.Contains(se.Hint, tc.fix) {
				t.Errorf("%v (hint %q), want an error with %q and a hint with %q", err, hintOf(se), tc.wantErr, tc.fix)
			}
		})
	}
}

// What a jailer says when it cannot do its work reaches the user.
func TestJailerFails(t *testing.T) {
	e := confinedEngine(t, jailed)
	path := filepath.Join(e.binaries.dir, jailerProgram)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	said := "Failed to create /dev/kvm via mknod inside the jail: Operation not permitted (os error 1)"
	text := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo Jailer v1.16.1; exit 0; fi\necho '" + said + "' >&2\nexit 1\n"
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := confinedSpec(t, modeGood)
	_, err := e.Launch(t.Context(), spec)
	var se *sandbox.Error
	if !errors.As(err, &se) || !strings.Contains(err.Error(), said) || !strings.Contains(se.Hint, "CAP_MKNOD") {
		t.Errorf("%v (hint %q), want what the jailer said", err, hintOf(se))
	}
	checkNothingLeft(t, spec)
}

// Without root's rights there is no jailer, and a configuration that requires one refuses to go without.
func TestJailerNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("this is root")
	}
	e := newEngine(t, modeGood)
	e.requireJailer = true
	if c := e.Capabilities(t.Context()); c.Usable || c.Hint == "" {
		t.Errorf("%+v", c)
	}
	if _, err := e.Launch(t.Context(), newSpec(t)); err == nil || !strings.Contains(err.Error(), "requires") {
		t.Errorf("%v, want that a jailer is required", err)
	}
}

func ownedBy(info os.FileInfo, uid int) bool { return int(info.Sys().(*syscall.Stat_t).Uid) == uid }

func hintOf(e *sandbox.Error) string {
	if e == nil {
		return ""
	}
	return e.Hint
}

func TestCapabilitiesTellOfConfinement(t *testing.T) {
	eachKind(t, func(t *testing.T, e *Engine) {
		c := e.Capabilities(context.Background())
		if !slices.ContainsFunc(c.Confinement, func(s string) bool { return strings.Contains(s, "namespaces") }) {
			t.Errorf("%+v", c)
		}
	})
}
