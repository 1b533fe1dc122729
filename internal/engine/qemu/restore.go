package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Restorable says whether Launch would take the saved state: its files are not looked at.
func (e *Engine) Restorable(ctx context.Context, saved sandbox.SavedState) error {
	if saved.Engine != engineName {
		return sandbox.Errorf(sandbox.Invalid, "", "the saved state is one of %s, which QEMU cannot restore", saved.Engine)
	}
	bin, err := e.binaries.find(ctx, saved.Arch)
	if err != nil {
		return err
	}
	c, err := e.choose(ctx, saved.Arch)
	if err != nil {
		return err
	}
	return e.fits(saved, bin, c)
}

// fits compares what has made a saved state with what would restore it. A QEMU reads what another version has written only for
// machine types that have a version, of which those of microVMs are none: so it must be the same build.
func (e *Engine) fits(saved sandbox.SavedState, bin binary, c choice) error {
	const hint = "take another, of a microVM that was booted here"
	if bin.build != saved.Version {
		return sandbox.Errorf(sandbox.Unavailable, hint, "the saved state was taken by QEMU %s, and this is QEMU %s", saved.Version, bin.build)
	}
	if c.accel != saved.Accelerator {
		return sandbox.Errorf(sandbox.Unavailable, hint, "the saved state is one of the accelerator %s, and here it would be %s (%s)", saved.Accelerator, c.accel, c.reason)
	}
	cpu, err := e.cpu(saved.Arch, c.accel)
	if err != nil {
		return err
	}
	if !alike(saved.CPU, cpu) {
		return sandbox.Errorf(sandbox.Unavailable, hint, "the saved state needs another CPU: it was taken on %q, and this is %q", saved.CPU, cpu)
	}
	return nil
}

// feed writes a file into a pipe.
type feed struct {
	into *os.File
	done chan struct{}
}

// feedFrom begins to write all of a file into a pipe. It returns the end to read from.
func feedFrom(path string) (*feed, *os.File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	// QEMU does not notice the end of a pipe that nothing was in.
	if info, err := r.Stat(); err != nil || info.Size() == 0 {
		return nil, nil, errors.Join(err, r.Close(), fmt.Errorf("the file %s is empty", path))
	}
	out, into, err := os.Pipe()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pipe: %w", err), r.Close())
	}
	widen(into)
	f := &feed{into: into, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		_, _ = io.Copy(into, r) // who reads no further says why
		into.Close()
		r.Close()
	}()
	return f, out, nil
}

// end returns when nothing is written any more.
func (f *feed) end() {
	f.into.Close()
	<-f.done
}

// openState returns what QEMU is to read its devices from. The caller closes it once QEMU has it.
func openState(cmd *command) (*feed, *os.File, error) {
	saved := cmd.spec.From
	if !slices.Equal(saved.Files, []string{memoryFile, stateFile}) {
		return nil, nil, fmt.Errorf("restore a microVM: its saved state is not finished: %q", saved.Files)
	}
	memory, err := os.Stat(cmd.memory)
	if err != nil {
		return nil, nil, sandbox.Errorf(sandbox.Failure, damaged, "restore a microVM: %w", err)
	}
	// QEMU itself maps a file that is too short, and dies at the first access beyond its end.
	if want := int64(cmd.spec.MemoryMiB) << 20; memory.Size() != want {
		return nil, nil, sandbox.Errorf(sandbox.Failure, damaged, "restore a microVM: the file of its memory has %d bytes instead of %d", memory.Size(), want)
	}
	f, out, err := feedFrom(filepath.Join(saved.Dir, stateFile))
	if err != nil {
		return nil, nil, sandbox.Errorf(sandbox.Failure, damaged, "restore a microVM: %w", err)
	}
	return f, out, nil
}

// damaged is what to do about a saved state that cannot be right.
const damaged = "the saved state is damaged: take another"

// restoredDisk is a disk in a restored microVM.
type restoredDisk struct {
	sandbox.GuestDisk
	was int64 // its size in bytes, as the guest has seen it
}

// restoredDisks are the disks of a microVM that is restored, which now has now what the saved one had then.
//
// A driver that has seen another size is told when QEMU is asked to make the disk as large as it is. QEMU does that for disks that
// can be written; any other is to be bound to its driver again.
func restoredDisks(slots []sandbox.Slot, now, then []sandbox.DiskSlot) (disks []restoredDisk) {
	for i, slot := range slots {
		if slot.Disk != nil {
			disks = append(disks, restoredDisk{
				sandbox.GuestDisk{Disk: *slot.Disk, SizeBytes: now[i].SizeBytes, Rebind: slot.ReadOnly && now[i].SizeBytes != then[i].SizeBytes}, then[i].SizeBytes,
			})
		}
	}
	return disks
}

// GuestDisks are in the order of their slots. The guest finds them by their serials, which it reads from QEMU.
func (m *machine) GuestDisks() []sandbox.GuestDisk {
	var disks []sandbox.GuestDisk
	for _, d := range m.disks {
		disks = append(disks, d.GuestDisk)
	}
	return disks
}

// restore has QEMU load the devices, and lets the guest go on. On error QEMU is gone.
func (m *machine) restore(ctx context.Context, cmd *command) error {
	err := m.migration.load(ctx, m.monitor, stateFD, false)
	if err == nil {
		err = m.monitor.execute(ctx, "cont", nil)
	}
	for _, d := range m.disks { // not earlier: QEMU takes the files into use when the guest goes on
		if err == nil && d.SizeBytes != d.was && !d.Rebind {
			err = m.monitor.run(ctx, qmpCommand{Execute: "block_resize", Arguments: map[string]any{"node-name": d.Role, "size": d.SizeBytes}}, nil)
		}
	}
	if err == nil {
		return nil
	}
	if kerr := m.Kill(context.WithoutCancel(ctx)); kerr != nil {
		return errors.Join(err, kerr)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("restore a microVM: %w", err)
	}
	said := m.Exit().Detail
	if said == "" {
		said = err.Error()
	}
	hint := hintFor(said)
	if hint == seeLog { // the same QEMU has written it
		hint = damaged
	}
	return sandbox.Errorf(sandbox.Failure, hint, "restore a microVM from %s: %s", cmd.spec.From.Dir, said)
}
