package firecracker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/hybridvsock"
)

// Bounds of the logs, in bytes.
const (
	maxConsoleLog = 1 << 20
	maxVMMLog     = 128 << 10
)

// Names in the runtime directory.
const (
	apiName     = "api.sock"
	vsockName   = "v.sock"
	configName  = "config.json"
	filesName   = "files"
	consoleName = "console.pipe"
	outputName  = "vmm.pipe"
)

// runtimeFiles are the paths in a microVM's runtime directory.
type runtimeFiles struct {
	dir, api, vsock, ready, config, links, console, output string
}

func runtimeFilesIn(dir string) runtimeFiles {
	in := func(name string) string { return filepath.Join(dir, name) }
	return runtimeFiles{
		dir: dir, api: in(apiName), vsock: in(vsockName), ready: hybridvsock.HostPath(in(vsockName), sandbox.GuestReadyPort),
		config: in(configName), links: in(filesName), console: in(consoleName), output: in(outputName),
	}
}

// remove deletes what is there.
func (f runtimeFiles) remove() error {
	errs := []error{os.RemoveAll(f.links)}
	for _, path := range []string{f.api, f.vsock, f.ready, f.config, f.console, f.output} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// write makes the configuration and the links that it names.
func (f runtimeFiles) write(config fcapi.Config, links map[string]string) error {
	if err := os.Mkdir(f.links, 0o700); err != nil {
		return fmt.Errorf("make the VMM's links: %w", err)
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(f.links, name)); err != nil {
			return fmt.Errorf("make the VMM's links: %w", err)
		}
	}
	b, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode the VMM's configuration: %w", err)
	}
	if err := os.WriteFile(f.config, b, 0o600); err != nil {
		return fmt.Errorf("write the VMM's configuration: %w", err)
	}
	return nil
}

// logFiles are the two logs of a microVM.
type logFiles struct{ console, output *vmmlog.Log }

func openLogs(dir string, fresh bool) (logFiles, error) {
	console, err := vmmlog.Open(filepath.Join(dir, "console.log"), maxConsoleLog, fresh)
	if err != nil {
		return logFiles{}, err
	}
	output, err := vmmlog.Open(filepath.Join(dir, "vmm.log"), maxVMMLog, fresh)
	if err != nil {
		console.Close()
		return logFiles{}, err
	}
	return logFiles{console: console, output: output}, nil
}

func (l logFiles) close() {
	l.console.Close()
	l.output.Close()
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
