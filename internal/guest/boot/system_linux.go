package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// carried are the directories with mounts that Root takes along to the new root.
var carried = []string{"/proc", "/sys", "/dev", "/run", "/tmp"}

// System mounts, after Begin, what else programs expect, and brings the loopback device up.
func System() error {
	for _, m := range []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"mqueue", "/dev/mqueue", "mqueue", quiet, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if err := m.doIn(0o755); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
	} {
		if err := unix.Symlink(l[0], l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("link %s: %w", l[1], err)
		}
	}
	if err := dirtyMemory(); err != nil {
		return err
	}
	return loopback()
}

// dirtyMemory lets more of what is written stay in memory before it goes to the disk, which is the host's page cache. By default a
// microVM of 512 MiB begins with that at 40 MiB, and a process that makes files waits for it.
// (Documentation/admin-guide/sysctl/vm.rst; what is older than 30 seconds is written anyway.)
func dirtyMemory() error {
	for _, v := range [][2]string{{"dirty_ratio", "60"}, {"dirty_background_ratio", "35"}} { // percent of what is available
		if err := os.WriteFile("/proc/sys/vm/"+v[0], []byte(v[1]), 0); err != nil {
			return fmt.Errorf("set how much may be written in memory: %w", err)
		}
	}
	return nil
}

// loopback brings the device lo up, which gives it its addresses: netdevice(7).
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring the loopback device up: %w", err)
	}
	return nil
}
