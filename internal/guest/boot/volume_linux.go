package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// volumesDir has a directory for each volume, outside the new root: what is done to a mount in the sandbox, a lazy unmount
// for one, leaves the way open to make the file system clean in the end.
const volumesDir = "volumes"

// volume is one that is mounted outside the new root.
type volume struct {
	Disk
	dir int // its root directory, O_PATH
}

// mountVolumes mounts all volumes outside the new root.
func mountVolumes(p Params, devices map[string]string) ([]volume, error) {
	var list []volume
	for _, d := range p.Disks {
		if d.MountPoint == "" {
			continue
		}
		if err := makeDir(volumesDir, 0o700); err != nil {
			return nil, err
		}
		dir := volumesDir + "/" + strconv.Itoa(len(list))
		if err := makeDir(dir, 0o700); err != nil {
			return nil, err
		}
		if err := mountDisk(p, devices, d.Role, dir); err != nil {
			return nil, fmt.Errorf("the volume for %s: %w", d.MountPoint, err)
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", dir, err)
		}
		list = append(list, volume{d, fd})
	}
	return list, nil
}

// showVolumes shows the volumes at their mount points, which it makes when they are missing. It follows no link on the way: an
// image must not choose where a volume ends up.
func (m *Mounts) showVolumes() error {
	for _, v := range m.volumes {
		if err := v.show(); err != nil {
			return fmt.Errorf("mount a volume on %s: %w", v.MountPoint, err)
		}
	}
	return nil
}

func (v volume) show() error {
	target, err := walk(v.MountPoint)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if !v.ReadOnly {
		if err := v.begin(target); err != nil {
			return err
		}
	}
	// The names of descriptors in /proc are the things themselves: no path is walked.
	if err := unix.Mount(descriptor(v.dir), descriptor(target), "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return nil
}

func descriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// begin gives a volume that is empty the owner and mode of the directory that it is mounted on, as docker does, so that whom the image
// means to write there can. What mke2fs has made in it, lost+found, goes: programs that want an empty directory find one, and the kernel
// does without.
func (v volume) begin(target int) error {
	names, err := v.names()
	if err != nil {
		return err
	}
	if len(names) > 1 || len(names) == 1 && names[0] != "lost+found" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if err := unix.Fchownat(v.dir, ".", int(st.Uid), int(st.Gid), 0); err != nil {
		return os.NewSyscallError("chown", err)
	}
	if err := unix.Fchmodat(v.dir, ".", st.Mode&0o7777, 0); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	// One that has something in it is the work of a repair, and one that is no directory somebody's own: they stay.
	err = unix.Unlinkat(v.dir, "lost+found", unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
		return os.NewSyscallError("rmdir", err)
	}
	return nil
}

// names returns some of what is in the volume: enough to tell whether it is empty.
func (v volume) names() ([]string, error) {
	dir, err := os.Open(descriptor(v.dir))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// walk opens (O_PATH) a directory by its absolute path, makes what is missing of it, and refuses links.
func walk(path string) (fd int, err error) {
	fd, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		next, err := step(fd, name)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

func step(dir int, name string) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(dir, name, 0o755); err != nil {
			return -1, fmt.Errorf("make %s: %w", name, err)
		}
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return -1, fmt.Errorf("%s is a link or a file in the image, and not a directory: name the directory that is meant", name)
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	return fd, nil
}
