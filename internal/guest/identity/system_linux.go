package identity

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// System is the microVM that this process runs in.
type System struct {
	// Own reports whether a file, whose path has no / at its beginning, is the sandbox's own and not the image's.
	Own func(path string) bool
}

// SetClock sets the wall clock, unless it is right already.
func (System) SetClock(now time.Time) error { return SetClock(now) }

// AddEntropy adds the host's entropy.
func (System) AddEntropy(entropy []byte) error { return AddEntropy(entropy) }

// Sync writes what file systems hold in memory to the disks: sync(2).
func (System) Sync() { unix.Sync() }

// SetNames gives the microVM what it is known by.
func (System) SetNames(r *Report, hostname, machineID string) {
	r.Pass("hostname", "it is "+hostname, SetHostname("/", hostname))
	if machineID != "" {
		r.Pass("machine-id", "it is this sandbox's own", SetMachineID("/", machineID))
	}
	network(r, networkClass)
}

// RemoveHostKeys deletes SSH host keys that are the image's or, with copied, another sandbox's, and tells how many there were.
func (s System) RemoveHostKeys(copied bool) (int, error) {
	return RemoveHostKeys("/", func(path string) bool { return !copied && s.Own(path) })
}

// Rehearse looks where SetNames and RemoveHostKeys will look, and changes nothing: in a template, so that what they find, and what they
// do not, is in memory already when a sandbox is made of it. A guest that has to wait for its disk then also starts kernel threads.
func (s System) Rehearse() {
	for _, f := range machineIDs {
		_, _ = readShort("/" + f.path) // nothing depends on it
	}
	_, _ = RemoveHostKeys("/", func(string) bool { return true })
	network(new(Report), networkClass)
}

// networkClass has a directory for each network device.
const networkClass = "/sys/class/net"

// network says what there is of a network. No microVM has a device of its own so far but for the loopback device, which only it
// sees.
func network(r *Report, class string) {
	names, err := listDir(class)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.Pass("network", "", fmt.Errorf("look for network devices: %w", err))
		return
	}
	for _, name := range names {
		if name != "lo" {
			r.Pass("network", "", fmt.Errorf("nobody gave the device %s an address of its own", name))
			return
		}
	}
	r.None("network", "there is no network device")
}
