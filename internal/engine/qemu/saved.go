package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The files of a saved state.
const (
	streamFile = "stream" // what a QEMU has written while its guest was halted: memory and devices; before Finish
	memoryFile = "memory" // the guest's memory, with holes where it is zero
	stateFile  = "state"  // the devices
)

// maxDeviceBytes bounds what there is beside the memory in a stream: some 100 KiB, and firmware.
const maxDeviceBytes = 64 << 20

// Save writes the memory and devices of a paused microVM into one file.
func (m *machine) Save(ctx context.Context, dir string) (saved sandbox.SavedState, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save a microVM: %w", err)
		}
	}()
	select {
	case <-m.saving:
		defer func() { m.saving <- struct{}{} }()
	default:
		return saved, errors.New("it is being saved already")
	}
	q, err := m.liveMonitor(ctx)
	if err != nil {
		return saved, err
	}
	facts, err := askFacts(ctx, q)
	if err != nil {
		return saved, err
	}
	if facts.status.Running {
		return saved, errors.New("it is not paused")
	}
	if m.Rec.Disks == nil {
		return saved, sandbox.Errorf(sandbox.Conflict, "stop it and start it again", "it was started by an agentkernel that could not save microVMs")
	}
	if facts.begun, err = m.link.hasUnused(ctx); err != nil {
		return saved, err
	}
	m.setPausing(true) // an earlier process of ours may have paused it
	if facts.status.Status == afterMigration {
		if err := step(ctx, q); err != nil {
			return saved, err
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, streamFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return saved, err
	}
	defer f.Close()
	if err := m.migration.save(ctx, q, f, facts.memoryBytes+maxDeviceBytes, true); err != nil {
		return saved, err
	}
	if err := f.Close(); err != nil {
		return saved, err
	}
	cpu, err := m.cpu()
	if err != nil {
		return saved, err
	}
	return sandbox.SavedState{
		Dir: dir, Files: []string{streamFile}, Engine: engineName, Version: facts.build, Arch: m.arch, Variant: facts.variant.String(),
		Accelerator: m.Rec.Accelerator, CPU: cpu, LinkToken: m.Rec.LinkToken, Disks: m.Rec.Disks,
	}, nil
}

// facts are what a QEMU says of itself, which may be one that an earlier process of ours has launched.
type facts struct {
	build       string // as in binary
	status      status
	memoryBytes int64 // of the guest
	variant
}

func askFacts(ctx context.Context, q *qmp) (f facts, err error) {
	var version struct {
		QEMU    struct{ Major, Minor, Micro int }
		Package string
	}
	if err := q.execute(ctx, "query-version", &version); err != nil {
		return f, err
	}
	f.build = fmt.Sprintf("%d.%d.%d", version.QEMU.Major, version.QEMU.Minor, version.QEMU.Micro)
	if version.Package != "" {
		f.build += fmt.Sprintf(" (%.200s)", version.Package)
	}
	if err := q.execute(ctx, "query-status", &f.status); err != nil {
		return f, err
	}
	var memory struct {
		Base int64 `json:"base-memory"`
	}
	if err := q.execute(ctx, "query-memory-size-summary", &memory); err != nil {
		return f, err
	}
	f.memoryBytes = memory.Base
	if f.legacy, err = hasLegacyTimers(ctx, q); err != nil {
		return f, err
	}
	f.unlinked, err = hasNoLink(ctx, q)
	return f, err
}

// hasLegacyTimers asks for a property that only the machine type of x86_64 has.
func hasLegacyTimers(ctx context.Context, q *qmp) (bool, error) {
	var pit string
	err := q.run(ctx, qmpCommand{Execute: "qom-get", Arguments: map[string]any{"path": "/machine", "property": "pit"}}, &pit)
	var refused *qmpError
	if errors.As(err, &refused) {
		return false, nil
	}
	return pit != "off", err
}

// hasNoLink reports whether QEMU has nobody connected to the link. The guest was told the same, or will be when it goes on.
func hasNoLink(ctx context.Context, q *qmp) (bool, error) {
	var chardevs []struct{ Label, Filename string }
	if err := q.execute(ctx, "query-chardev", &chardevs); err != nil {
		return false, err
	}
	for _, c := range chardevs {
		if c.Label == linkChardev {
			return strings.HasPrefix(c.Filename, "disconnected:"), nil
		}
	}
	return false, errors.New("QEMU has no link")
}

// status is what QEMU says of its guest: qapi/run-state.json.
type status struct {
	Running bool // the vCPUs run
	Status  string
}

// afterMigration is the status of a guest that was halted when a migration ended, well or not.
const afterMigration = "postmigrate"

// step has a halted guest go on for an instant. QEMU writes none a second time that has not run since.
func step(ctx context.Context, q *qmp) error {
	for _, command := range []string{"cont", "stop"} {
		if err := q.execute(ctx, command, nil); err != nil {
			return fmt.Errorf("tell QEMU to %s: %w", command, err)
		}
	}
	return nil
}
