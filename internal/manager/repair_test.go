package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// A daemon is killed at some point of a save or of a restore: the next one finds a state that is true, and nothing is left. The
// manager that was there stands for what a killed daemon leaves behind; the VMMs are those of a fake engine.
func TestReconcileSavedOnes(t *testing.T) {
	ctx := context.Background()
	suspended := func(h *host, m *Manager) sandbox.Record {
		h.t.Helper()
		if _, err := m.Suspend(ctx, "a"); err != nil {
			h.t.Fatal(err)
		}
		rec, err := m.Get("a")
		if err != nil {
			h.t.Fatal(err)
		}
		return rec
	}
	// restored is a VMM that goes on from the memory of a suspended sandbox.
	restored := func(h *host, m *Manager, rec sandbox.Record) *sandbox.MachineRecord {
		h.t.Helper()
		mf, err := snapshot.Read(m.savedDir(rec))
		if err != nil {
			h.t.Fatal(err)
		}
		spec := m.identity(rec)
		state := mf.In(m.savedDir(rec))
		spec.From = &state
		machine, err := h.engine.Launch(ctx, spec)
		if err != nil {
			h.t.Fatal(err)
		}
		mrec := machine.Record()
		return &mrec
	}
	for name, tc := range map[string]struct {
		before func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM)
		want   sandbox.State // "" = gone
		memory string        // when it runs, or is started
		as     int           // how it was resumed
	}{
		"saving, frozen and halted": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			rec.Saving = true
			v.frozen.Store(true)
			v.cpu.halt()
			h.rewrite(m, rec, sandbox.Running, rec.Machine)
		}, sandbox.Running, "memory of a", int(asItself)},
		"saving, not yet frozen": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec.Saving = true
			h.rewrite(m, rec, sandbox.Running, rec.Machine)
		}, sandbox.Running, "memory of a", int(asItself)},
		"saving a paused one": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			rec.Saving = true
			v.frozen.Store(true)
			h.rewrite(m, rec, sandbox.Paused, rec.Machine)
		}, sandbox.Paused, "memory of a", int(asBooted)},
		"saving, and its VMM is gone": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			rec.Saving = true
			m.Close()
			v.kill(errKilled)
			h.rewrite(m, rec, sandbox.Running, rec.Machine)
		}, sandbox.Failed, "", int(asBooted)},
		"saved, not yet suspended": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			saved := filepath.Join(m.savedDir(rec), snapshot.StateDir)
			if err := errors.Join(os.MkdirAll(saved, 0o700), os.WriteFile(filepath.Join(saved, memoryFile), []byte("x"), 0o600)); err != nil {
				h.t.Fatal(err)
			}
			rec.Saving = true
			v.frozen.Store(true)
			v.cpu.halt()
			h.rewrite(m, rec, sandbox.Running, rec.Machine)
		}, sandbox.Running, "memory of a", int(asItself)},
		"suspended, its VMM not yet ended": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			h.launch(m, rec)
		}, sandbox.Suspended, "memory of a", int(asItself)},
		"being resumed, before the launch": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, sandbox.Suspended, "memory of a", int(asItself)},
		"being resumed, launched and not recorded": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			restored(h, m, rec)
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, sandbox.Suspended, "memory of a", int(asItself)},
		"being resumed, launched and written": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			restored(h, m, rec)
			h.write(m, "a", "disk of a")
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, sandbox.Failed, "", int(asBooted)},
		"being resumed, launched and recorded": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			h.rewrite(m, rec, sandbox.Starting, restored(h, m, rec))
		}, sandbox.Running, "memory of a", int(asItself)},
		"given up, memory not yet deleted": {func(h *host, m *Manager, rec sandbox.Record, _ *fakeVMM) {
			rec = suspended(h, m)
			rec.Restore = nil
			h.rewrite(m, rec, sandbox.Stopped, nil)
		}, sandbox.Stopped, "", int(asBooted)},
		"a fork that was not started": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			m.Close()
			v.kill(errKilled)
			rec.Restore = &sandbox.Restore{Kind: sandbox.RestoreFork, ID: newID()}
			h.rewrite(m, rec, sandbox.Created, nil)
		}, "", "", 0},
		"a fork that was about to be launched": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			m.Close()
			v.kill(errKilled)
			rec.Restore = &sandbox.Restore{Kind: sandbox.RestoreFork, ID: newID()}
			h.rewrite(m, rec, sandbox.Starting, nil)
		}, "", "", 0},
		"a fork that was launched": {func(h *host, m *Manager, rec sandbox.Record, v *fakeVMM) {
			v.frozen.Store(true)
			rec.Restore = &sandbox.Restore{Kind: sandbox.RestoreFork, ID: newID()}
			h.rewrite(m, rec, sandbox.Starting, rec.Machine)
		}, sandbox.Running, "memory of a", int(asCopy)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			m := h.boot()
			rec, v := h.running(m, "a")
			m.Close() // what is done from here on is done behind its back
			m = h.boot()
			h.settled(m, "a")
			if err := os.MkdirAll(filepath.Join(h.dir, "snapshots", ".new-0123456789abcdef", "state"), 0o700); err != nil {
				t.Fatal(err)
			}
			tc.before(h, m, rec, v)
			m.Close()
			m = h.boot()
			if n := h.left("snapshots"); len(n) > 0 {
				t.Error("left over:", n)
			}
			if tc.want == "" {
				if _, err := m.Get("a"); sandbox.KindOf(err) != sandbox.NotFound {
					t.Error(err)
				}
				h.expectEmpty()
				return
			}
			h.settled(m, "a")
			h.expect(m, "a", tc.want)
			if tc.want == sandbox.Paused {
				if !h.engine.vmms[rec.ID].cpu.halted() {
					t.Error("it is not halted")
				}
				return
			}
			if n := h.left("sandboxes/" + rec.ID); slices.Contains(n, newSavedDir) || slices.Contains(n, savedDir) != (tc.want == sandbox.Suspended) {
				t.Error("left over:", n)
			}
			running := map[bool]int{true: 1}[tc.want == sandbox.Running]
			if n := h.engine.running(); n != running {
				t.Errorf("%d VMMs run", n)
			}
			if _, err := m.Start(ctx, "a", StartOptions{Timeout: time.Minute}); err != nil {
				t.Fatal(err)
			}
			now := h.engine.vmms[rec.ID]
			if now.memory != tc.memory || now.frozen.Load() || int(now.resumed.Load()) != tc.as {
				t.Errorf("it has %q in memory, frozen %v, resumed as %d", now.memory, now.frozen.Load(), now.resumed.Load())
			}
		})
	}
}
