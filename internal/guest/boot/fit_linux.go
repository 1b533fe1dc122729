package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where sysfs has disks and their driver.
const (
	blockDir  = "/sys/block"
	virtioDir = "/sys/bus/virtio"
)

// sectorSize is the unit of sizes in sysfs, whatever a disk's own is.
const sectorSize = 512

// fit sees to it that the kernel knows the sizes of all disks: others may be in the place of those that were there when it looked.
// It changes devices where a disk has another name then.
func (p Params) fit(devices map[string]string) error {
	for _, d := range p.Disks {
		name, ok := devices[d.Role]
		if d.Size == 0 || !ok {
			continue
		}
		err := fits(name, d.Size)
		if errors.Is(err, errOtherSize) && d.Rebind {
			if name, err = rebind(name); err == nil {
				err = fits(name, d.Size)
			}
		} else if errors.Is(err, errOtherSize) {
			err = awaitSize(name, d.Size)
		}
		if err != nil {
			return fmt.Errorf("the disk %s: %w", d.Role, err)
		}
		devices[d.Role] = name
	}
	return nil
}

var errOtherSize = errors.New("it has another size than the host says")

func fits(name string, size uint64) error {
	text, err := os.ReadFile(filepath.Join(blockDir, name, "size"))
	if err != nil {
		return err
	}
	sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("read its size: %w", err)
	}
	if sectors != size/sectorSize {
		return fmt.Errorf("%w: %d bytes, and not %d", errOtherSize, sectors*sectorSize, size)
	}
	return nil
}

// rebind takes a disk away from its driver and gives it back, and returns its name. Both are done when the write to the file
// returns, down to the node in /dev: the kernel probes a device that is bound by hand in that call (bind_store in
// drivers/base/bus.c), and waits for the node to be made (devtmpfs_submit_req in drivers/base/devtmpfs.c).
func rebind(name string) (string, error) {
	device, err := filepath.EvalSymlinks(filepath.Join(blockDir, name, "device"))
	if err != nil {
		return "", fmt.Errorf("find its device: %w", err)
	}
	virtio := filepath.Base(device)
	for _, step := range []string{"unbind", "bind"} {
		if err := os.WriteFile(filepath.Join(virtioDir, "drivers/virtio_blk", step), []byte(virtio), 0); err != nil {
			return "", fmt.Errorf("look at it anew: %w", err)
		}
	}
	entries, err := os.ReadDir(filepath.Join(virtioDir, "devices", virtio, "block"))
	if err != nil || len(entries) != 1 {
		return "", fmt.Errorf("look at it anew: its driver shows %d disks: %w", len(entries), err)
	}
	return entries[0].Name(), nil
}

// resizeTimeout is how long the kernel may take to see that a disk has another size. It is told before anything else happens.
const resizeTimeout = 10 * time.Second

// awaitSize waits until the kernel has seen that a disk has another size, of which it tells in a uevent: set_capacity_and_notify
// in block/genhd.c.
func awaitSize(name string, size uint64) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("wait for its size: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil { // those of the kernel
		return fmt.Errorf("wait for its size: %w", err)
	}
	until := time.Now().Add(resizeTimeout)
	var event [4096]byte
	for {
		err := fits(name, size) // perhaps it has happened before
		left := time.Until(until)
		if !errors.Is(err, errOtherSize) || left <= 0 {
			return err
		}
		tv := unix.NsecToTimeval(max(left, time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return fmt.Errorf("wait for its size: %w", err)
		}
		_, _, err = unix.Recvfrom(fd, event[:], 0)
		// Any event is a reason to look again, and so are some that were lost.
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("wait for its size: %w", err)
		}
	}
}
