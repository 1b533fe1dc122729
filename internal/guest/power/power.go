// Package power ends the microVM: all processes first, then the disks, then the machine.
package power

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/guest/reaper"
)

// killWait is how long processes may take to be gone after SIGKILL. One that is stuck in the kernel never is, and must not
// keep the disks from being written.
const killWait = 2 * time.Second

// Off ends all processes but this one, with SIGTERM and after grace with SIGKILL, makes the file systems that are mounted
// on the directories disks (descriptors) read-only, so that their journals are clean, and resets the microVM. It returns only when
// the reset fails. What goes wrong before is written to console, and does not keep it from going on.
func Off(r *reaper.Reaper, disks []int, grace time.Duration, console io.Writer) error {
	if !stop(r, unix.SIGTERM, grace) && !stop(r, unix.SIGKILL, killWait) {
		fmt.Fprintln(console, "agentkernel: some processes do not end; going on without them")
	}
	for _, disk := range disks {
		if err := settle(disk); err != nil {
			fmt.Fprintf(console, "agentkernel: %v; writing what can be written\n", err)
			unix.Sync()
		}
	}
	return fmt.Errorf("reset the microVM: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

// stop sends a signal to every process but this one and waits for them to end, at most for a time. It reports whether they
// did. There is none that this one does not become the parent of.
func stop(r *reaper.Reaper, s unix.Signal, wait time.Duration) bool {
	_ = unix.Kill(-1, s) // ESRCH: there is none
	empty := r.Empty()
	select {
	case <-empty:
		return true
	default:
	}
	// A stopped process gets SIGTERM when it is continued.
	_ = unix.Kill(-1, unix.SIGCONT)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-empty:
		return true
	case <-timer.C:
		return false
	}
}

// settle makes the mount read-only, which writes all of it. It is reached by descriptor, since it lies outside our root.
func settle(disk int) error {
	if err := unix.Fchdir(disk); err != nil {
		return fmt.Errorf("go to a disk: %w", err)
	}
	if err := unix.Mount("", ".", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make a disk read-only: %w", err)
	}
	return nil
}
