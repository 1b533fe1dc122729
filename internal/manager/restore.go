package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// origin is what a start goes on from. A nil one is a boot.
type origin struct {
	manifest snapshot.Manifest
	dir      string
	kind     sandbox.RestoreKind
	cold     bool // the disks alone
	done     func()
}

func (o *origin) close() {
	if o != nil && o.done != nil {
		o.done()
	}
}

// restores reports whether memory is restored.
func (o *origin) restores() bool { return o != nil && !o.cold }

// booted reports whether the sandbox begins anew: it boots, or a template has done so for it.
func (o *origin) booted() bool { return o == nil || o.kind == sandbox.RestoreTemplate }

// goingOn is what a guest is told that it is, after a restore.
func goingOn(kind sandbox.RestoreKind) guestrpc.ResumeKind {
	switch kind {
	case sandbox.RestoreSuspended:
		return guestrpc.ResumeOriginal
	case sandbox.RestoreTemplate:
		return guestrpc.ResumeTemplate
	}
	return guestrpc.ResumeCopy
}

// asFailure says what failed, with the kind and the hint of the reason.
func asFailure(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	kind := sandbox.KindOf(err)
	if kind == sandbox.Internal {
		kind = sandbox.Failure
	}
	hint := ""
	var e *sandbox.Error
	if errors.As(err, &e) {
		hint = e.Hint
	}
	return sandbox.Errorf(kind, hint, "%s: %w", what, err)
}

// origin finds what a sandbox that is to be started goes on from, and makes sure that it can. Nothing has been changed when it cannot.
func (m *Manager) origin(ctx context.Context, rec sandbox.Record, cold bool) (*origin, error) {
	if rec.Restore == nil {
		return nil, nil
	}
	switch rec.Restore.Kind {
	case sandbox.RestoreSuspended:
		if cold {
			return nil, nil
		}
		o, err := m.suspended(ctx, rec)
		if err != nil {
			return nil, cannotRestore(err, "sandbox %q cannot be resumed", "agentkernel start --cold "+rec.Spec.Name+" boots it instead, which gives up the memory that was saved", rec.Spec.Name)
		}
		return o, nil
	case sandbox.RestoreSnapshot:
		o, err := m.fromSnapshot(ctx, rec, cold)
		if err != nil {
			return nil, cannotRestore(err, "sandbox %q cannot be restored from its snapshot", "agentkernel start --cold "+rec.Spec.Name+" boots it from the snapshot's disks", rec.Spec.Name)
		}
		return o, nil
	}
	return nil, fmt.Errorf("a fork is not started again (%q)", rec.Restore.Kind)
}

// suspended is the saved memory of a suspended sandbox.
func (m *Manager) suspended(ctx context.Context, rec sandbox.Record) (*origin, error) {
	dir := m.savedDir(rec)
	mf, err := snapshot.Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("its memory is not in %s any more", dir)
	}
	if err != nil {
		return nil, err
	}
	role, err := m.changed(ctx, rec, mf)
	if err == nil && role != "" {
		err = fmt.Errorf("its disk %s was written to since", role)
	}
	if err == nil {
		err = m.restorable(ctx, dir, mf)
	}
	if err == nil {
		err = m.d.Snapshots.Check(ctx, dir, mf)
	}
	return &origin{manifest: mf, dir: dir, kind: sandbox.RestoreSuspended}, err
}

func (m *Manager) fromSnapshot(ctx context.Context, rec sandbox.Record, cold bool) (*origin, error) {
	mf, done, err := m.d.Snapshots.Use(rec.Restore.ID)
	if err != nil {
		return nil, err
	}
	o := &origin{manifest: mf, dir: m.d.Snapshots.Dir(mf.ID), kind: sandbox.RestoreSnapshot, cold: cold, done: done}
	if err := m.checkSnapshot(ctx, rec, o); err != nil {
		done()
		return nil, err
	}
	return o, nil
}

// checkSnapshot says why a snapshot cannot be restored as rec.
func (m *Manager) checkSnapshot(ctx context.Context, rec sandbox.Record, o *origin) error {
	if !o.cold {
		if err := m.restorable(ctx, o.dir, o.manifest); err != nil {
			return err
		}
		role, err := m.changed(ctx, rec, o.manifest)
		if err != nil {
			return err
		}
		if role != "" {
			return fmt.Errorf("the disk %s was written to since the snapshot, whose memory knows what was on it", role)
		}
	}
	return m.d.Snapshots.Check(ctx, o.dir, o.manifest)
}

// cannotRestore words why a restore is refused.
func cannotRestore(err error, format, hint string, args ...any) error {
	kind := sandbox.KindOf(err)
	if kind == sandbox.Internal {
		kind = sandbox.Conflict
	}
	var e *sandbox.Error
	if errors.As(err, &e) && e.Hint != "" && e.Kind == sandbox.Unavailable {
		hint = e.Hint + "; or " + hint
	}
	return sandbox.Errorf(kind, hint, format+": %w", append(args, err)...)
}

// placeDisks gives a sandbox, in its directory, its own copies of the disks of what it goes on from. It replaces what an attempt before has left.
func (m *Manager) placeDisks(ctx context.Context, dir string, o *origin) error {
	for _, d := range o.manifest.Disks {
		if d.File == "" {
			continue
		}
		if err := m.d.CopyDisk(ctx, filepath.Join(dir, d.File), filepath.Join(o.dir, d.File)); err != nil {
			return fmt.Errorf("copy the disk %s: %w", d.Role, err)
		}
	}
	return nil
}
