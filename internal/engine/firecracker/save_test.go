package firecracker

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// saved launches a microVM with two spare disks, and saves it.
func saved(t *testing.T, e *Engine, spec sandbox.MachineSpec) (sandbox.MachineSpec, *machine, sandbox.SavedState) {
	t.Helper()
	spec.MemoryMiB = 8
	spec.Spares = []sandbox.Spare{{ReadOnly: true}, {}}
	m := launch(t, e, spec)
	conn, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	state, err := m.Save(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection from before: %d bytes, %v", n, err)
	}
	if paused, err := m.Paused(t.Context()); err != nil || !paused {
		t.Errorf("it goes on: %v", err)
	}
	if state, err = e.Finish(t.Context(), spec, state); err != nil {
		t.Fatal(err)
	}
	return spec, m, state
}

// another is what a copy of spec's microVM is launched from: with a disk of its own, and another one in a spare slot.
func another(t *testing.T, spec sandbox.MachineSpec, from *sandbox.SavedState) sandbox.MachineSpec {
	t.Helper()
	s := newSpec(t)
	s.MemoryMiB, s.From = spec.MemoryMiB, from
	s.Kernel, s.Initrd = sandbox.KernelImage{}, "" // not needed
	s.Disks[0].Path = spec.Disks[0].Path
	path := filepath.Join(filepath.Dir(s.Disks[1].Path), "workspace")
	if err := os.WriteFile(path, make([]byte, 8192), 0o400); err != nil {
		t.Fatal(err)
	}
	s.Disks = append(s.Disks, sandbox.Disk{Role: sandbox.Workspace, Path: path, FS: "ext4", ReadOnly: true})
	return s
}

func digests(t *testing.T, saved sandbox.SavedState) (list [][32]byte) {
	t.Helper()
	for _, name := range saved.Files {
		b, err := os.ReadFile(filepath.Join(saved.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, sha256.Sum256(b))
	}
	return list
}

// A microVM is saved, goes on, and two others go on from the same state, with disks of their own.
func TestSaveAndRestore(t *testing.T) {
	test := func(t *testing.T, e *Engine, first sandbox.MachineSpec) {
		spec, m, state := saved(t, e, first)
		if err := m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkGuest(t, m)
		if entries, err := os.ReadDir(filepath.Join(spec.LogDir, savingName)); err != nil || len(entries) > 0 {
			t.Errorf("it left %v, %v", entries, err)
		}
		expectConsole(t, spec, exactly, "hello from the guest\nAPI GET / \nAPI PATCH /vm {\"state\":\"Paused\"}\n"+
			"API PUT /snapshot/create {\"snapshot_path\":\"files/saving/state\",\"mem_file_path\":\"files/saving/memory\",\"snapshot_type\":\"Full\"}\n"+
			"API GET / \nAPI GET / \nAPI PATCH /vm {\"state\":\"Resumed\"}\n")
		if state.Engine != "firecracker" || state.Version != "1.16.1" || state.CPU == "" || state.Accelerator != accelKVM || !slices.Equal(state.Files, []string{"memory", "state"}) {
			t.Errorf("%+v", state)
		}
		if want := []sandbox.DiskSlot{
			{Role: sandbox.RootLower, ReadOnly: true, SizeBytes: 1}, {Role: sandbox.Upper, SizeBytes: 1}, {ReadOnly: true, SizeBytes: sandbox.SpareBytes}, {SizeBytes: sandbox.SpareBytes},
		}; !slices.Equal(state.Disks, want) {
			t.Errorf("disks %+v, want %+v", state.Disks, want)
		}
		checkMemoryFile(t, state)
		before := digests(t, state)
		for range 2 {
			spec := another(t, spec, &state)
			m := launch(t, e, spec)
			checkGuest(t, m)
			checkRestored(t, m, spec)
			if err := m.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			waitDone(t, m)
			checkNothingLeft(t, spec)
		}
		if !slices.Equal(digests(t, state), before) {
			t.Error("a restore has changed the state")
		}
	}
	t.Run("plain", func(t *testing.T) { test(t, newEngine(t, modeGood), newSpec(t)) })
	eachKind(t, func(t *testing.T, e *Engine) { test(t, e, confinedSpec(t, modeGood)) })
}

// checkMemoryFile: it is ours alone, and has no blocks for zeros.
func checkMemoryFile(t *testing.T, state sandbox.SavedState) {
	t.Helper()
	info, err := os.Stat(filepath.Join(state.Dir, memoryFile))
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Size() != 8<<20 || st.Blocks*512 > 1<<20 || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o222 != 0 {
		t.Errorf("%d bytes, %d blocks, user %d, mode %v", info.Size(), st.Blocks, st.Uid, info.Mode())
	}
	memory, err := os.ReadFile(filepath.Join(state.Dir, memoryFile))
	if err != nil || string(memory[fakePageOffset:fakePageOffset+len(fakePage)]) != fakePage {
		t.Errorf("it has another content: %v", err)
	}
}

// checkRestored: the disk in a spare slot is announced before the guest goes on, and the guest can be told of it.
func checkRestored(t *testing.T, m *machine, spec sandbox.MachineSpec) {
	t.Helper()
	expectConsole(t, spec, exactly, "API GET / \n"+
		"API PUT /snapshot/load {\"snapshot_path\":\"files/state\",\"mem_backend\":{\"backend_type\":\"File\",\"backend_path\":\"files/memory\"}}\n"+
		"hello from the guest\nAPI PATCH /drives/disk2 {\"drive_id\":\"disk2\",\"path_on_host\":\"files/disk2\"}\n"+
		"API PATCH /vm {\"state\":\"Resumed\"}\n")
	var stages []string
	for _, s := range m.Stages() {
		stages = append(stages, s.Name)
	}
	if want := []string{"fork", "vmm-api", "vmm-start", "vmm-load", "vmm-resume"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
	want := []sandbox.GuestDisk{
		{Disk: spec.Disks[0], Device: "vda", SizeBytes: 1}, {Disk: spec.Disks[1], Device: "vdb", SizeBytes: 1}, {Disk: spec.Disks[2], Device: "vdc", SizeBytes: 8192},
	}
	if got := m.GuestDisks(); !slices.Equal(got, want) {
		t.Errorf("disks %+v, want %+v", got, want)
	}
}

// With the same disks it goes on at once; and the next daemon can save it again.
func TestRestoreAsItWas(t *testing.T) {
	e := newEngine(t, modeGood)
	spec, m, state := saved(t, e, newSpec(t))
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDone(t, m)
	again := spec
	again.From = &state
	first := launch(t, e, again)
	expectConsole(t, again, strings.Contains, `"resume_vm":true`)
	if console := consoleOf(t, again); strings.Contains(console, "/vm") {
		t.Errorf("the console said %q", console)
	}
	rec := first.Record()
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	next, err := e.Adopt(t.Context(), sandbox.MachineSpec{ID: spec.ID, RuntimeDir: spec.RuntimeDir, LogDir: spec.LogDir}, rec)
	if err != nil {
		t.Fatal(err)
	}
	second, err := next.(sandbox.Saver).Save(t.Context(), t.TempDir())
	if err != nil || !slices.Equal(second.Disks, state.Disks) {
		t.Errorf("%+v, %v", second.Disks, err)
	}
	if err := next.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDone(t, next)
	checkNothingLeft(t, spec)
}

func TestSaveFails(t *testing.T) {
	for _, tc := range []struct {
		name, mode, want string
		lives            bool
	}{
		{"the disk is full", modeFull, "the host's disk is full", true},
		{"it dies", modeDiesSave, "SIGBUS", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, spec := newEngine(t, tc.mode), newSpec(t)
			m := launch(t, e, spec)
			if err := m.Pause(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := m.Save(t.Context(), t.TempDir())
			t.Log(err)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
			if entries, err := os.ReadDir(filepath.Join(spec.LogDir, savingName)); len(entries) > 0 || tc.lives && err != nil {
				t.Errorf("it left %v, %v", entries, err)
			}
			if tc.lives {
				if err := m.Resume(t.Context()); err != nil {
					t.Error(err)
				}
				if err := m.Kill(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			waitDone(t, m)
			checkNothingLeft(t, spec)
		})
	}
	t.Run("not what it seems", func(t *testing.T) {
		e, spec := newEngine(t, modeTricks), newSpec(t)
		spec.MemoryMiB = 8
		m := launch(t, e, spec)
		state, err := m.Save(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Finish(t.Context(), spec, state); err == nil {
			t.Error("a link of the VMM's is followed")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		e, spec := newEngine(t, modeGood), newSpec(t)
		m := launch(t, e, spec)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the client is gone")
		cancel(why)
		if _, err := m.Save(ctx, t.TempDir()); !errors.Is(err, why) {
			t.Errorf("%v, want why it was cancelled", err)
		}
	})
	// A daemon that died before it came to the request leaves a guest that must be told before it goes on.
	t.Run("cut short", func(t *testing.T) {
		e, spec := newEngine(t, modeGood), newSpec(t)
		m := launch(t, e, spec)
		if err := m.tell(t.Context(), (*fcapi.Client).Pause); err != nil {
			t.Fatal(err)
		}
		if err := m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkGuest(t, m)
		expectConsole(t, spec, strings.HasSuffix, "files/saving/none/memory\",\"snapshot_type\":\"Full\"}\nAPI PATCH /vm {\"state\":\"Resumed\"}\n")
	})
	t.Run("of an old version", func(t *testing.T) {
		e, spec := newEngine(t, modeOlder), newSpec(t)
		m := launch(t, e, spec)
		if _, err := m.Save(t.Context(), t.TempDir()); sandbox.KindOf(err) != sandbox.Unavailable || !strings.Contains(err.Error(), "Firecracker 1.15.1") {
			t.Errorf("%v, want that it is too old", err)
		}
		if strings.Contains(consoleOf(t, spec), "PATCH") {
			t.Error("it was paused all the same")
		}
	})
	// Firecracker cannot be told to leave off: whoever asks it next would wait for it.
	t.Run("cancelled in the middle", func(t *testing.T) {
		e, spec := newEngine(t, modeSlow), newSpec(t)
		m := launch(t, e, spec)
		why := errors.New("the client is gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), slowness/2, why)
		defer cancel()
		if _, err := m.Save(ctx, t.TempDir()); !errors.Is(err, why) {
			t.Errorf("%v, want why it was cancelled", err)
		}
		expectConsole(t, spec, strings.HasSuffix, "files/saving/memory\",\"snapshot_type\":\"Full\"}\n")
		if entries, err := os.ReadDir(filepath.Join(spec.LogDir, savingName)); len(entries) > 0 || err != nil {
			t.Errorf("it left %v, %v", entries, err)
		}
		if err := m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkGuest(t, m)
	})
	t.Run("of an old record", func(t *testing.T) {
		e, spec := newEngine(t, modeGood), newSpec(t)
		m := launch(t, e, spec)
		m.Rec.Disks = nil
		if _, err := m.Save(t.Context(), t.TempDir()); sandbox.KindOf(err) != sandbox.Conflict {
			t.Errorf("%v, want a conflict", err)
		}
	})
}

func TestRestoreFails(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *sandbox.MachineSpec)
		want   string
	}{
		{"half of the state", func(t *testing.T, s *sandbox.MachineSpec) { cut(t, s.From, stateFile, 9) }, "Failed to get snapshot state from file"},
		{"half of the memory", func(t *testing.T, s *sandbox.MachineSpec) { cut(t, s.From, memoryFile, 4<<20) }, "has 4194304 bytes, and the microVM is to have 8388608"},
		{"no memory", func(t *testing.T, s *sandbox.MachineSpec) { s.From.Dir = t.TempDir() }, "not all there"},
		{"another version", func(_ *testing.T, s *sandbox.MachineSpec) { s.From.Version = "1.15.0" }, "saved by Firecracker 1.15.0, and"},
		{"another CPU", func(_ *testing.T, s *sandbox.MachineSpec) {
			_, rest, _ := strings.Cut(s.From.CPU, ";")
			s.From.CPU = "Other, family 1;" + rest
		}, "saved on a CPU Other, family 1"},
		{"another engine", func(_ *testing.T, s *sandbox.MachineSpec) { s.From.Engine = "qemu" }, `saved by the engine "qemu"`},
		{"a disk too many", func(_ *testing.T, s *sandbox.MachineSpec) { s.From.Disks = s.From.Disks[:2] }, "no free disk"},
		{"it dies", func(t *testing.T, s *sandbox.MachineSpec) {
			path := filepath.Join(s.From.Dir, stateFile)
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.Chmod(path, 0o600)
			}
			if err == nil {
				err = os.WriteFile(path, []byte(strings.Replace(string(b), `"Mode":"good"`, `"Mode":"dies loading"`, 1)), 0o400)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "seccomp filter"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := newEngine(t, modeGood)
			if err := os.Remove(filepath.Join(e.binaries.dir, "mode")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(e.binaries.dir, "mode"), nil, 0o600); err != nil { // the state has it
				t.Fatal(err)
			}
			spec, m, state := saved(t, e, confinedSpec(t, modeGood))
			if err := m.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			spec = another(t, spec, &state)
			tc.change(t, &spec)
			restored, err := e.Launch(t.Context(), spec)
			if err == nil {
				restored.Kill(t.Context())
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

// cut leaves size bytes of a file.
func cut(t *testing.T, state *sandbox.SavedState, name string, size int64) {
	t.Helper()
	if err := os.Truncate(filepath.Join(state.Dir, name), size); err != nil {
		t.Fatal(err)
	}
}

func TestRestorable(t *testing.T) {
	e := newEngine(t, modeGood)
	_, _, state := saved(t, e, newSpec(t))
	if err := e.Restorable(t.Context(), state); err != nil {
		t.Error(err)
	}
	state.Version = "1.0.0"
	if err := e.Restorable(t.Context(), state); sandbox.KindOf(err) != sandbox.Unavailable {
		t.Errorf("%v, want that it is not", err)
	}
}
