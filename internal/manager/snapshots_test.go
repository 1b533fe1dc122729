package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// running is a sandbox that runs, with something in its memory and on its disk.
func (h *host) running(m *Manager, name string) (sandbox.Record, *fakeVMM) {
	h.t.Helper()
	h.create(m, name)
	rec := h.start(m, name)
	v := h.engine.vmms[rec.ID]
	v.memory = "memory of " + name
	h.write(m, name, "disk of "+name)
	return rec, v
}

func (h *host) write(m *Manager, name, content string) {
	h.t.Helper()
	rec, err := m.Get(name)
	if err == nil {
		err = os.WriteFile(filepath.Join(m.d.Store.Dir(rec.ID), upperFile), []byte(content), 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// is checks what a running sandbox has in memory and on disk, and that its commands run.
func (h *host) is(m *Manager, name, memory, disk string, kind guestv1.ResumeRequest_Kind) {
	h.t.Helper()
	rec, err := m.Get(name)
	if err != nil {
		h.t.Error(err)
		return
	}
	v := h.engine.vmms[rec.ID]
	content, err := os.ReadFile(filepath.Join(m.d.Store.Dir(rec.ID), upperFile))
	if rec.State != sandbox.Running || rec.Saving || rec.Restore != nil || v.memory != memory || string(content) != disk || err != nil ||
		v.frozen.Load() || v.cpu.halted() || v.resumed.Load() != int32(kind) {
		h.t.Errorf("%s is %s (saving %v, restore %v), with %q in memory and %q on disk (%v), frozen %v, halted %v, resumed as %v",
			name, rec.State, rec.Saving, rec.Restore, v.memory, content, err, v.frozen.Load(), v.cpu.halted(), v.resumed.Load())
	}
}

// left are the names below a directory of the host.
func (h *host) left(dir string) (names []string) {
	h.t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.dir, dir))
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

const (
	asItself = guestv1.ResumeRequest_ORIGINAL
	asCopy   = guestv1.ResumeRequest_COPY
	asBooted = guestv1.ResumeRequest_KIND_UNSPECIFIED
)

func TestSnapshot(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	_, v := h.running(m, "a")
	r := m.Events().Reader(events.Start{}, func(e *events.Event) bool { return e.Type == events.Snapshot })
	defer r.Close()
	mf, err := m.CreateSnapshot(ctx, "a", "t")
	if err != nil || mf.Ref() != "a:t" || mf.PausedFor <= 0 || len(mf.Files) != 2 {
		t.Fatalf("%+v, %v", mf, err)
	}
	if ev, ok := r.TryNext(); !ok || ev.Snapshot != mf.ID || ev.Tag != "t" || ev.Sandbox != "a" {
		t.Errorf("%+v", ev)
	}
	h.is(m, "a", "memory of a", "disk of a", asItself)
	if _, err := m.CreateSnapshot(ctx, "a", "t"); sandbox.KindOf(err) != sandbox.Exists {
		t.Error("twice:", err)
	}
	// What happens to the original is nothing to the snapshot.
	v.memory = "other"
	h.write(m, "a", "other")
	h.pause(m, "a")
	if _, err := m.CreateSnapshot(ctx, "a", ""); err != nil {
		t.Error("of a paused one:", err)
	}
	h.expect(m, "a", sandbox.Paused)
	if !v.cpu.halted() {
		t.Error("it does not stand still any more")
	}
	if _, err := m.Unpause(ctx, "a"); err != nil {
		t.Error(err)
	}
	h.is(m, "a", "other", "other", asItself)
	if err := m.Remove(ctx, "a", true); err != nil {
		t.Error(err)
	}

	for _, name := range []string{"b", "c"} {
		rec, err := m.CreateFrom(ctx, spec(name), "a:t")
		if err != nil || rec.State != sandbox.Created || rec.Parent.Sandbox != "a" || rec.Parent.Snapshot != mf.ID || rec.Spec.VsockCID == mf.Spec.VsockCID && name == "c" {
			t.Fatalf("%+v, %v", rec, err)
		}
	}
	if err := m.RemoveSnapshot(ctx, "a:t"); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), "[b c]") {
		t.Error("removed although it is needed:", err)
	}
	m.Close()
	m = h.boot()
	h.start(m, "b")
	h.is(m, "b", "memory of a", "disk of a", asCopy)
	if _, err := m.Start(ctx, "c", StartOptions{Timeout: time.Minute, Cold: true}); err != nil {
		t.Error(err)
	}
	h.is(m, "c", "", "disk of a", asBooted)
	if err := m.RemoveSnapshot(ctx, "a:t"); err != nil {
		t.Error(err)
	}
	// From then on they are sandboxes as any other.
	h.write(m, "b", "own")
	if _, err := m.Stop(ctx, "b", 0); err != nil {
		t.Error(err)
	}
	h.start(m, "b")
	h.is(m, "b", "", "own", asBooted)
	if again, err := m.CreateSnapshot(ctx, "b", "t"); err != nil || again.Parent != mf.ID {
		t.Errorf("%+v, %v", again, err)
	}
}

// Whatever fails, the sandbox goes on, nothing is left, and it works the next time.
func TestSavingFails(t *testing.T) {
	ctx := context.Background()
	for what, do := range map[string]func(*Manager) error{
		"snapshot": func(m *Manager) error { _, err := m.CreateSnapshot(ctx, "a", "t"); return err },
		"suspend":  func(m *Manager) error { _, err := m.Suspend(ctx, "a"); return err },
		"fork":     func(m *Manager) error { _, err := m.Fork(ctx, "a", "", 2, time.Minute); return err },
	} {
		for _, step := range []string{"freeze", "halt", "save", "disk", "finish", "launch"} {
			if step == "launch" && what != "fork" {
				continue
			}
			t.Run(what+" "+step, func(t *testing.T) {
				h := newHost(t)
				m := h.boot()
				rec, _ := h.running(m, "a")
				upper := filepath.Join(m.d.Store.Dir(rec.ID), upperFile)
				if step == "disk" {
					if err := os.Rename(upper, upper+".away"); err != nil {
						t.Fatal(err)
					}
				}
				h.engine.fails = func(s string) error {
					if s == step {
						return errors.New("no luck")
					}
					return nil
				}
				if err := do(m); err == nil || step != "disk" && !strings.Contains(err.Error(), "no luck") {
					t.Error(err)
				}
				h.engine.fails = nil
				if step == "disk" {
					if err := os.Rename(upper+".away", upper); err != nil {
						t.Fatal(err)
					}
				}
				kind := asItself
				if step == "freeze" {
					kind = h.engineKind(rec)
				}
				h.is(m, "a", "memory of a", "disk of a", kind)
				if n := h.left("snapshots"); len(n) > 0 {
					t.Error("left over:", n)
				}
				if n := h.left("sandboxes/" + rec.ID); slices.Contains(n, savedDir) || slices.Contains(n, newSavedDir) {
					t.Error("left over:", n)
				}
				if records, _ := m.List(); len(records) != 1 {
					t.Error(records)
				}
				if err := do(m); err != nil {
					t.Error("the next time:", err)
				}
			})
		}
	}
}

func (h *host) engineKind(rec sandbox.Record) guestv1.ResumeRequest_Kind {
	return guestv1.ResumeRequest_Kind(h.engine.vmms[rec.ID].resumed.Load())
}

func TestSuspend(t *testing.T) {
	ctx := context.Background()
	for name, paused := range map[string]bool{"running": false, "paused": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			rec, v := h.running(m, "a")
			if paused {
				h.pause(m, "a")
			}
			for range 2 { // the second time does nothing
				if rec, err := m.Suspend(ctx, "a"); err != nil || rec.State != sandbox.Suspended || rec.Machine != nil {
					t.Fatalf("%+v, %v", rec, err)
				}
			}
			if v.ctx.Err() == nil || h.engine.running() != 0 || len(h.left("run")) > 0 {
				t.Error("its VMM is left over")
			}
			if _, err := m.Execs(ctx, "a"); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), "is suspended") {
				t.Error(err)
			}
			m.Close()
			m = h.boot()
			h.expect(m, "a", sandbox.Suspended)
			if rec, err := m.Resume(ctx, "a", time.Minute); err != nil || rec.ID == "" {
				t.Error(err)
			}
			h.is(m, "a", "memory of a", "disk of a", asItself)
			if n := h.left("sandboxes/" + rec.ID); slices.Contains(n, savedDir) {
				t.Error("left over:", n)
			}
		})
	}
}

func TestEndsOfASuspendedSandbox(t *testing.T) {
	ctx := context.Background()
	h := newHost(t)
	m := h.boot()
	rec, _ := h.running(m, "a")
	suspend := func() {
		t.Helper()
		if _, err := m.Suspend(ctx, "a"); err != nil {
			t.Fatal(err)
		}
	}
	given := func() {
		t.Helper()
		if n := h.left("sandboxes/" + rec.ID); slices.Contains(n, savedDir) {
			t.Error("its memory is left over:", n)
		}
	}
	suspend()
	if rec, err := m.Stop(ctx, "a", time.Minute); err != nil || rec.State != sandbox.Stopped || rec.Restore != nil {
		t.Errorf("%+v, %v", rec, err)
	}
	given()
	if _, err := m.Resume(ctx, "a", time.Minute); sandbox.KindOf(err) != sandbox.Conflict {
		t.Error(err)
	}
	h.start(m, "a")
	h.is(m, "a", "", "disk of a", asBooted)
	suspend()
	if _, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute, Cold: true}); err != nil {
		t.Error(err)
	}
	h.is(m, "a", "", "disk of a", asBooted)
	given()
	suspend()
	h.start(m, "a")
	h.is(m, "a", "", "disk of a", asItself)
	suspend()
	if err := m.Remove(ctx, "a", false); err != nil {
		t.Error(err)
	}
	h.expectEmpty()
}

// What cannot be restored is refused before anything has happened, and the memory is kept.
func TestResumeIsRefused(t *testing.T) {
	ctx := context.Background()
	memory := func(m *Manager, rec sandbox.Record) string {
		return filepath.Join(m.savedDir(rec), snapshot.StateDir, memoryFile)
	}
	for name, tc := range map[string]struct {
		spoil func(*host, *Manager, sandbox.Record) error
		says  string
	}{
		"another engine": {func(h *host, _ *Manager, _ sandbox.Record) error {
			h.engine.fails = func(step string) error {
				if step == "restorable" {
					return sandbox.Errorf(sandbox.Conflict, "", "it was saved by version 1, and this is version 2")
				}
				return nil
			}
			return nil
		}, "saved by version 1"},
		"truncated": {func(_ *host, m *Manager, rec sandbox.Record) error { return os.Truncate(memory(m, rec), 3) }, "has 3 bytes"},
		"a bit": {func(_ *host, m *Manager, rec sandbox.Record) error {
			return os.WriteFile(memory(m, rec), []byte("mEmory of a"), 0o600)
		}, "checksum"},
		"no memory": {func(_ *host, m *Manager, rec sandbox.Record) error { return os.RemoveAll(m.savedDir(rec)) }, "any more"},
		"the disk":  {func(h *host, m *Manager, _ sandbox.Record) error { h.write(m, "a", "disk of b"); return nil }, "was written to since"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			rec, _ := h.running(m, "a")
			if _, err := m.Suspend(ctx, "a"); err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(h, m, rec); err != nil {
				t.Fatal(err)
			}
			launches := h.engine.launches
			_, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute})
			var e *sandbox.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(e.Hint, "agentkernel start --cold a") {
				t.Errorf("%v (%+v), want %q", err, e, tc.says)
			}
			if h.engine.launches != launches {
				t.Error("a VMM was started")
			}
			h.expect(m, "a", sandbox.Suspended)
			h.engine.fails = nil
			if _, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute, Cold: true}); err != nil {
				t.Error(err)
			}
			h.expect(m, "a", sandbox.Running)
		})
	}
}

// A resume that fails leaves the memory, until the guest has written to a disk.
func TestResumeFails(t *testing.T) {
	ctx := context.Background()
	for _, step := range []string{"launch", "thaw"} {
		for name, written := range map[string]bool{"as it was": false, "written to": true} {
			t.Run(step+" "+name, func(t *testing.T) {
				h := newHost(t)
				m := h.boot()
				h.running(m, "a")
				if _, err := m.Suspend(ctx, "a"); err != nil {
					t.Fatal(err)
				}
				h.engine.fails = func(s string) error {
					if s != step {
						return nil
					}
					if written {
						h.write(m, "a", "more")
					}
					return errors.New("no luck")
				}
				if _, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute}); err == nil || !strings.Contains(err.Error(), "no luck") {
					t.Error(err)
				}
				h.engine.fails = nil
				if h.engine.running() != 0 {
					t.Error("its VMM is left over")
				}
				if written {
					h.expect(m, "a", sandbox.Failed)
					h.start(m, "a")
					h.is(m, "a", "", "more", asBooted)
					return
				}
				h.expect(m, "a", sandbox.Suspended)
				h.start(m, "a")
				h.is(m, "a", "memory of a", "disk of a", asItself)
			})
		}
	}
}

func TestFork(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	parent, _ := h.running(m, "a")
	h.create(m, "a-2")
	list, err := m.Fork(ctx, "a", "", 3, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	cids := map[uint32]bool{parent.Spec.VsockCID: true}
	for _, rec := range list {
		names = append(names, rec.Spec.Name)
		h.is(m, rec.Spec.Name, "memory of a", "disk of a", asCopy)
		if rec.Parent.SandboxID != parent.ID || rec.Parent.Snapshot != "" || cids[rec.Spec.VsockCID] {
			t.Errorf("%+v", rec)
		}
		cids[rec.Spec.VsockCID] = true
	}
	if !slices.Equal(names, []string{"a-1", "a-3", "a-4"}) {
		t.Error(names)
	}
	h.is(m, "a", "memory of a", "disk of a", asItself)
	if n := h.left("snapshots"); len(n) > 0 {
		t.Error("left over:", n)
	}
	if _, err := m.Fork(ctx, "a-1", "b", 1, time.Minute); err != nil {
		t.Error("a fork of a fork:", err)
	}
	h.is(m, "b", "memory of a", "disk of a", asCopy)
	if _, err := m.CreateSnapshot(ctx, "b", "t"); err != nil {
		t.Error("a snapshot of a fork:", err)
	}
	for _, n := range []int{0, MaxForks + 1} {
		if _, err := m.Fork(ctx, "a", "", n, time.Minute); sandbox.KindOf(err) != sandbox.Invalid {
			t.Error(n, err)
		}
	}
	if _, err := m.Fork(ctx, "a", "b", 1, time.Minute); sandbox.KindOf(err) != sandbox.Exists {
		t.Error(err)
	}
}

// A volume has one writer, which a copy would be another of. A suspended sandbox keeps it to itself.
func TestSnapshotsAndVolumes(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	ctx := context.Background()
	if _, err := m.CreateVolume(ctx, "v", 64); err != nil {
		t.Fatal(err)
	}
	with := func(name string, readOnly bool) {
		t.Helper()
		s := spec(name)
		s.Volumes = []sandbox.VolumeMount{{Volume: "v", Path: "/v", ReadOnly: readOnly}}
		if _, err := m.Create(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	with("a", false)
	with("b", true)
	h.start(m, "a")
	for what, do := range map[string]func() error{
		"snapshot": func() error { _, err := m.CreateSnapshot(ctx, "a", ""); return err },
		"fork":     func() error { _, err := m.Fork(ctx, "a", "", 1, time.Minute); return err },
	} {
		if err := do(); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), `volume "v"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := m.Suspend(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(ctx, "b", StartOptions{Timeout: time.Minute}); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), `sandbox "a"`) {
		t.Error("the volume is given away:", err)
	}
	if _, err := m.Stop(ctx, "a", 0); err != nil {
		t.Fatal(err)
	}
	h.start(m, "b")
	if _, err := m.CreateSnapshot(ctx, "b", "t"); err != nil {
		t.Fatal("one that only reads:", err)
	}
	if _, err := m.Fork(ctx, "b", "c", 1, time.Minute); err != nil {
		t.Error(err)
	}
	// Another writes to it: what memory knows of the volume is not true any more.
	volume, err := m.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.volumePath(volume.Volume), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.CreateFrom(ctx, spec("d"), "b:t"); sandbox.KindOf(err) != sandbox.Conflict || !strings.Contains(err.Error(), "volume0") {
		t.Error(err)
	}
}

// An idle sandbox can be suspended instead.
func TestIdleSandboxIsSuspended(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	s := spec("a")
	s.IdleTimeoutMs, s.IdleAction = 1000, sandbox.IdleSuspend
	if _, err := m.Create(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	r := m.Events().Reader(events.Start{}, func(e *events.Event) bool { return e.Type == events.State && e.To == string(sandbox.Suspended) })
	defer r.Close()
	h.start(m, "a")
	if ev, err := r.Next(t.Context()); err != nil || !strings.Contains(ev.Reason, "nothing happened in it") {
		t.Errorf("%+v, %v", ev, err)
	}
	h.settled(m, "a")
	h.start(m, "a")
	h.expect(m, "a", sandbox.Running)
}
