// Package paths says where agentkernel keeps things: data, state and runtime files, by the XDG Base Directory
// Specification, or all under $AGENTKERNEL_HOME when that is set.
package paths

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// HomeVariable is the environment variable that puts everything under one directory.
const HomeVariable = "AGENTKERNEL_HOME"

const configFile = "config.toml"

// Dirs are the roots, and the configuration. All are absolute.
type Dirs struct {
	Data    string // images, kernels, caches: content-addressed, safe to delete
	State   string // sandboxes, their disks and logs
	Runtime string // sockets
	Config  string // the user's own configuration, a file that may be missing
}

// Find reads the environment through getenv (os.Getenv) and makes the three directories, mode 0700, when they are missing.
func Find(getenv func(string) string) (Dirs, error) {
	d, err := locate(getenv)
	if err != nil {
		return Dirs{}, err
	}
	for _, dir := range []string{d.Data, d.State, d.Runtime} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return Dirs{}, fmt.Errorf("make the directory of agentkernel's files (set AGENTKERNEL_HOME to put them elsewhere): %w", err)
		}
	}
	// A runtime directory in a shared place (/tmp) may have been made by somebody else.
	info, err := os.Lstat(d.Runtime)
	if err != nil {
		return Dirs{}, err
	}
	if !info.IsDir() || !ownedByUs(info) {
		return Dirs{}, fmt.Errorf("%s is not a directory of this user: remove it, or set AGENTKERNEL_HOME", d.Runtime)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(d.Runtime, 0o700); err != nil {
			return Dirs{}, err
		}
	}
	return d, nil
}

func locate(getenv func(string) string) (Dirs, error) {
	if home := getenv(HomeVariable); home != "" {
		home, err := filepath.Abs(home)
		if err != nil {
			return Dirs{}, err
		}
		return Dirs{Data: filepath.Join(home, "data"), State: filepath.Join(home, "state"), Runtime: filepath.Join(home, "run"), Config: filepath.Join(home, configFile)}, nil
	}
	home := getenv("HOME")
	base := func(variable, fallback string) (string, error) {
		// The specification: a relative path in these variables is to be ignored.
		if dir := getenv(variable); filepath.IsAbs(dir) {
			return filepath.Join(dir, "agentkernel"), nil
		}
		if !filepath.IsAbs(home) {
			return "", fmt.Errorf("neither AGENTKERNEL_HOME nor HOME nor %s says where to keep files: set one of them", variable)
		}
		return filepath.Join(home, fallback, "agentkernel"), nil
	}
	data, err := base("XDG_DATA_HOME", ".local/share")
	if err != nil {
		return Dirs{}, err
	}
	state, err := base("XDG_STATE_HOME", ".local/state")
	if err != nil {
		return Dirs{}, err
	}
	run := getenv("XDG_RUNTIME_DIR")
	if filepath.IsAbs(run) {
		run = filepath.Join(run, "agentkernel")
	} else {
		run = filepath.Join(os.TempDir(), fmt.Sprintf("agentkernel-%d", os.Getuid()))
		if runtime.GOOS == "darwin" {
			run = filepath.Join(state, "run")
		}
	}
	config, err := base("XDG_CONFIG_HOME", ".config")
	if err != nil {
		return Dirs{}, err
	}
	return Dirs{Data: data, State: state, Runtime: run, Config: filepath.Join(config, configFile)}, nil
}

// Socket is the path of the daemon's unix socket.
func (d Dirs) Socket() string { return filepath.Join(d.Runtime, "daemon.sock") }

// DaemonLog is where a daemon that the command line started writes its log.
func (d Dirs) DaemonLog() string { return filepath.Join(d.State, "daemon.log") }

// Kernels is the root of the store of kernels.
func (d Dirs) Kernels() string { return filepath.Join(d.Data, "kernels") }

// Images is the root of the image store.
func (d Dirs) Images() string { return filepath.Join(d.Data, "images") }

// Snapshots is the root of the store of snapshots. They are no more to be made again than sandboxes are, and share blocks with the
// disks of these where the host's file system can do that.
func (d Dirs) Snapshots() string { return filepath.Join(d.State, "snapshots") }

// Templates is the root of the store of templates, which can be made again.
func (d Dirs) Templates() string { return filepath.Join(d.Data, "templates") }

// Cache is the root of everything that is made once and can be made again.
func (d Dirs) Cache() string { return filepath.Join(d.Data, "cache") }

// Firecracker is where a Firecracker is looked for before PATH; setup makes it a link to a release below Releases.
func (d Dirs) Firecracker() string { return filepath.Join(d.Data, "firecracker") }

// Releases has one directory a release of a VMM.
func (d Dirs) Releases() string { return filepath.Join(d.Data, "releases") }

// Volumes has one directory a volume.
func (d Dirs) Volumes() string { return filepath.Join(d.State, "volumes") }

// Sandboxes has one directory a sandbox.
func (d Dirs) Sandboxes() string { return filepath.Join(d.State, "sandboxes") }
