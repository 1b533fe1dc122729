package firecracker

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

var _ sandbox.Restorer = (*Engine)(nil)

// Finish makes copies of the files: those that Firecracker has written it may hold open still, and write to. The copies have no
// blocks where the memory is zero.
func (e *Engine) Finish(ctx context.Context, _ sandbox.MachineSpec, saved sandbox.SavedState) (sandbox.SavedState, error) {
	for _, name := range saved.Files {
		if err := settle(ctx, filepath.Join(saved.Dir, name)); err != nil {
			return sandbox.SavedState{}, fmt.Errorf("finish a saved state: %w", err)
		}
	}
	dir, err := os.Open(saved.Dir)
	if err == nil {
		err = dir.Sync()
		dir.Close()
	}
	if err != nil {
		return sandbox.SavedState{}, fmt.Errorf("finish a saved state: %w", err)
	}
	return saved, nil
}

// settle puts a copy of a file in its place.
func settle(ctx context.Context, path string) error {
	in, err := openRegular(path)
	if err != nil {
		return err
	}
	defer in.Close()
	fresh := path + ".new"
	if err := copyFile(ctx, fresh, in); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// Restorable says why the Firecracker of this host cannot restore a state, or nil.
func (e *Engine) Restorable(ctx context.Context, saved sandbox.SavedState) error {
	bin, _, err := e.usable(ctx, hostArch())
	if err != nil {
		return err
	}
	return restorableBy(bin, saved)
}

// restorableBy wants the same Firecracker, as the form of a state and what is in it change from one version to the next; and a
// host that is alike, as Firecracker itself only warns of a CPU of another maker, and what it asks KVM to restore may be
// refused or, worse, taken: docs/snapshotting/versioning.md of Firecracker.
func restorableBy(bin binary, saved sandbox.SavedState) error {
	const hint = "it can be restored where it was saved; a start without it boots the sandbox from its disks"
	if saved.Engine != engineName {
		return sandbox.Errorf(sandbox.Unavailable, hint, "it was saved by the engine %q, not by Firecracker", saved.Engine)
	}
	if saved.Arch != hostArch() {
		return sandbox.Errorf(sandbox.Unavailable, hint, "its guest is of the architecture %s, and this host of %s", saved.Arch, hostArch())
	}
	if v := bin.version.String(); v != saved.Version {
		return sandbox.Errorf(sandbox.Unavailable, fmt.Sprintf("install Firecracker %s, or start without it", saved.Version), "it was saved by Firecracker %s, and %s is version %s", saved.Version, bin.path, v)
	}
	host, err := hostvirt.HostLikeness()
	if err != nil {
		return err
	}
	if why := host.Difference(saved.CPU); why != "" {
		return sandbox.Errorf(sandbox.Unavailable, hint, "%s", why)
	}
	for _, name := range savedFiles {
		info, err := os.Stat(filepath.Join(saved.Dir, name))
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a regular file", name)
		}
		if err != nil {
			return sandbox.Errorf(sandbox.Unavailable, "", "its files are not all there: %w", err)
		}
	}
	return nil
}

// restore has a Firecracker that was just started go on from a state. Disks of another size than the state knows are
// announced to the guest before it runs: Firecracker sends the change of its configuration when it is told the file anew. The
// guest's clock is left as it was, but for what the guest agent does about it: Firecracker's own way, clock_realtime, moves the
// monotonic clock too, by as long as the state is old, and fails on hosts whose clock is not the TSC.
func (m *machine) restore(ctx context.Context, c *fcapi.Client, from sandbox.SavedState) (fcapi.InstanceInfo, error) {
	var resized []int
	for i, d := range m.Rec.Disks {
		if d.SizeBytes != from.Disks[i].SizeBytes {
			resized = append(resized, i)
		}
	}
	begin := time.Now()
	err := c.LoadSnapshot(ctx, fcapi.SnapshotLoadParams{
		SnapshotPath: savedName(stateFile), MemBackend: &fcapi.MemoryBackend{BackendType: fcapi.BackendFile, BackendPath: savedName(memoryFile)},
		ResumeVM: len(resized) == 0,
	})
	if err != nil {
		return fcapi.InstanceInfo{}, err
	}
	m.mark("vmm-load", begin)
	if len(resized) > 0 {
		begin = time.Now()
		for _, i := range resized {
			if err := c.PatchDrive(ctx, fcapi.PartialDrive{DriveID: driveID(i), PathOnHost: diskName(i)}); err != nil {
				return fcapi.InstanceInfo{}, err
			}
		}
		if err := c.Resume(ctx); err != nil {
			return fcapi.InstanceInfo{}, err
		}
		m.mark("vmm-resume", begin)
	}
	return fcapi.InstanceInfo{State: fcapi.StateRunning}, nil
}

func savedName(file string) string { return filesName + "/" + file }

// checkMemory refuses a memory file that is not the whole memory of spec's microVM. Firecracker would take a longer one.
func checkMemory(spec sandbox.MachineSpec) error {
	info, err := os.Stat(filepath.Join(spec.From.Dir, memoryFile))
	if err != nil {
		return fmt.Errorf("find the saved memory: %w", err)
	}
	if want := int64(spec.MemoryMiB) << 20; info.Size() != want {
		return fmt.Errorf("the saved memory has %d bytes, and the microVM is to have %d", info.Size(), want)
	}
	return nil
}

// guestDisks say how the guest finds the disks of spec.
func guestDisks(spec sandbox.MachineSpec, plan launchPlan) []sandbox.GuestDisk {
	list := make([]sandbox.GuestDisk, len(spec.Disks))
	for i, s := range plan.slots {
		for n := range spec.Disks {
			if s.Disk == &spec.Disks[n] {
				list[n] = sandbox.GuestDisk{Disk: *s.Disk, Device: guestDevice(i), SizeBytes: plan.disks[i].SizeBytes}
			}
		}
	}
	return list
}

// GuestDisks are the disks of a microVM that was restored, for its guest.
func (m *machine) GuestDisks() []sandbox.GuestDisk { return m.restored }
