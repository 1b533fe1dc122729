package firecracker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/hybridvsock"
)

// Names in the runtime directory, and in the root directory of a VMM that has one of its own.
const (
	socketsName = "sockets"
	apiName     = socketsName + "/api.sock"
	vsockName   = socketsName + "/v.sock"
	jailName    = "jail"
	configName  = "config.json"
	filesName   = "files"
	spareName   = "spare"
	consoleName = "console.pipe"
	outputName  = "vmm.pipe"

	// savingName is a directory in LogDir, which is on a disk: what a VMM saves may be larger than the runtime directory can be.
	savingName = "saving"
	// savingInside is what the VMM calls it.
	savingInside = filesName + "/saving"
)

// runtimeFiles are the paths in a microVM's runtime directory.
type runtimeFiles struct {
	marker                                                                               string
	dir, sockets, api, vsock, ready, config, links, spare, console, output, jail, saving string
}

func runtimeFilesOf(spec sandbox.MachineSpec) runtimeFiles {
	in := func(name string) string { return filepath.Join(spec.RuntimeDir, name) }
	return runtimeFiles{
		marker: marker(spec.ID), dir: spec.RuntimeDir, sockets: in(socketsName), api: in(apiName), vsock: in(vsockName),
		ready:  hybridvsock.HostPath(in(vsockName), sandbox.GuestReadyPort),
		config: in(configName), links: in(filesName), spare: in(spareName), console: in(consoleName), output: in(outputName), jail: in(jailName),
		saving: filepath.Join(spec.LogDir, savingName),
	}
}

// remove deletes what a VMM that has ended leaves, also one that was started long ago: its files and its cgroups.
func (f runtimeFiles) remove() error {
	var errs []error
	for _, path := range []string{f.links, f.sockets, f.jail, f.config, f.spare, f.console, f.output, f.saving} {
		errs = append(errs, os.RemoveAll(path))
	}
	if os.Geteuid() == 0 {
		if err := confine.RemoveCgroups(f.marker); !errors.Is(err, confine.ErrNotLinux) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// write makes the configuration and the spare disk, when there are to be any, and the directories.
func (f runtimeFiles) write(p launchPlan) error {
	for _, dir := range []string{f.sockets, f.jail, f.saving} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the VMM's directories: %w", err)
		}
	}
	if p.spares() {
		// One file is in all spare slots: nothing is ever read from it.
		err := os.WriteFile(f.spare, nil, 0o600)
		if err == nil {
			err = os.Truncate(f.spare, sandbox.SpareBytes)
		}
		if err != nil {
			return fmt.Errorf("make a spare disk: %w", err)
		}
	}
	if p.config == nil {
		return nil
	}
	b, err := json.Marshal(p.config)
	if err != nil {
		return fmt.Errorf("encode the VMM's configuration: %w", err)
	}
	if err := os.WriteFile(f.config, b, 0o600); err != nil {
		return fmt.Errorf("write the VMM's configuration: %w", err)
	}
	return nil
}

// link makes links by the names of the configuration, for a VMM that sees the whole file system.
func (f runtimeFiles) link(resources []resource) error {
	if err := os.Mkdir(f.links, 0o700); err != nil {
		return fmt.Errorf("make the VMM's links: %w", err)
	}
	for _, r := range resources {
		if err := os.Symlink(r.path, filepath.Join(f.dir, r.name)); err != nil {
			return fmt.Errorf("make the VMM's links: %w", err)
		}
	}
	if err := os.Symlink(f.saving, filepath.Join(f.dir, savingInside)); err != nil {
		return fmt.Errorf("make the VMM's links: %w", err)
	}
	return nil
}

// streams are what a Firecracker writes to: our ends.
type streams struct{ console, output *os.File }

func (f runtimeFiles) openStreams() (s streams, err error) {
	if s.console, err = vmmlog.OpenPipe(f.console); err != nil {
		return streams{}, err
	}
	if s.output, err = vmmlog.OpenPipe(f.output); err != nil {
		s.console.Close()
		return streams{}, err
	}
	return s, nil
}

func (s streams) close() {
	s.console.Close()
	s.output.Close()
}
