package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Begin mounts what a kernel without modules needs to show its devices, in the initramfs, and reads the parameters.
func Begin() (Params, error) {
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	} {
		if err := m.do(); err != nil {
			return Params{}, err
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Params{}, fmt.Errorf("read the kernel parameters: %w", err)
	}
	return ParseCmdline(string(line))
}

// Where disks are mounted in the initramfs; the directories are in it (package initramfs of the host). They are found from its
// root as the working directory, also when that is not this process's root any more.
const (
	lowerDir   = "lower"
	upperDir   = "upper"
	projectDir = "project"
	newRoot    = "root"
)

// Mounts are the file systems of a sandbox. Image, Root and Attach are called in this order, each once.
type Mounts struct {
	outside int // the initramfs's root directory
	upper   int // the upper disk's root directory, O_PATH
	rooted  atomic.Bool
	volumes []volume
	devices map[string]string // names in /dev of the disks, by their roles
}

// Upper returns a descriptor of the upper disk's root directory.
func (m *Mounts) Upper() int { return m.upper }

// Own reports whether a file of the root file system, whose path has no / at its beginning, is in the upper disk and not in the
// image.
func (m *Mounts) Own(path string) bool {
	var st unix.Stat_t
	return unix.Fstatat(m.upper, "root/upper/"+path, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Writable returns descriptors of the root directories of all that can be written to, the upper disk last.
func (m *Mounts) Writable() []int {
	if !m.rooted.Load() {
		return nil
	}
	var list []int
	for _, v := range m.volumes {
		if !v.ReadOnly {
			list = append(list, v.dir)
		}
	}
	return append(list, m.upper)
}

// Image mounts the image.
func (m *Mounts) Image(p Params) (err error) {
	if m.outside, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open the initramfs: %w", err)
	}
	if m.devices, err = p.devices(); err != nil {
		return err
	}
	return m.fromOutside(func() error { return mountDisk(p, m.devices, roleRoot, lowerDir) })
}

// Find finds disks that came into the places of others since Image.
func (m *Mounts) Find(p Params) (err error) {
	if m.devices, err = p.devices(); err != nil {
		return err
	}
	return p.fit(m.devices)
}

// Top is the root of the image's file system as it is now: before Root it has no upper disk.
func (m *Mounts) Top() string {
	if m.rooted.Load() {
		return "/"
	}
	return "/" + lowerDir
}

// fromOutside calls f while the working directory is the initramfs's root.
func (m *Mounts) fromOutside(f func() error) error {
	if err := unix.Fchdir(m.outside); err != nil {
		return fmt.Errorf("go to the initramfs: %w", err)
	}
	err := f()
	if back := unix.Chdir("/"); err == nil && back != nil {
		err = fmt.Errorf("leave the initramfs: %w", back)
	}
	return err
}

// HasUpper reports whether the upper disk is there.
func (p Params) HasUpper() bool { _, ok := p.disk(roleUpper); return ok }

// Root lays the upper disk over the image and makes it the root of this process and of all that it starts. What System has mounted
// comes along. The initramfs is left behind mounted: all that is in it is this program.
func (m *Mounts) Root(p Params) error {
	err := m.fromOutside(func() error {
		if err := mountDisk(p, m.devices, roleUpper, upperDir); err != nil {
			return err
		}
		var err error
		if m.upper, err = unix.Open(upperDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open the upper disk: %w", err)
		}
		return overlay("root", lowerDir, newRoot)
	})
	if err != nil {
		return err
	}
	luggage, err := pick(carried)
	if err != nil {
		return err
	}
	if err := enter("/" + newRoot); err != nil {
		return err
	}
	if err := luggage.put(); err != nil {
		return err
	}
	m.rooted.Store(true)
	return nil
}

// Attach lays the project under /workspace, when there is one, and shows the volumes, which are mounted outside of the root.
func (m *Mounts) Attach(p Params) error {
	err := m.fromOutside(func() error {
		if _, ok := p.disk(roleWorkspace); ok {
			if err := mountDisk(p, m.devices, roleWorkspace, projectDir); err != nil {
				return err
			}
			if err := makeDir("/workspace", 0o755); err != nil {
				return err
			}
			if err := overlay("workspace", projectDir, "/workspace"); err != nil {
				return err
			}
		}
		var err error
		m.volumes, err = mountVolumes(p, m.devices)
		return err
	})
	if err != nil {
		return err
	}
	return m.showVolumes()
}

// luggage are mounts that are taken along to another root.
type luggage []struct {
	dir string
	fd  int
}

func pick(dirs []string) (luggage, error) {
	l := make(luggage, len(dirs))
	for i, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", dir, err)
		}
		l[i].dir, l[i].fd = dir, fd
	}
	return l, nil
}

// put moves them to the same directories of what is the root by now, where an image may have links: move_mount(2).
func (l luggage) put() error {
	for _, m := range l {
		move := func() error {
			return unix.MoveMount(m.fd, "", unix.AT_FDCWD, m.dir, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
		}
		err := move()
		if errors.Is(err, unix.ENOENT) {
			if err := makeDir(m.dir, 0o755); err != nil {
				return err
			}
			err = move()
		}
		if err != nil {
			return fmt.Errorf("move the mount %s: %w", m.dir, err)
		}
		unix.Close(m.fd)
	}
	return nil
}

// enter makes dir, a mount, the root: as pivot_root(2) says for an initramfs, which cannot be pivoted away.
func enter(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root file system: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	return nil
}

// devices returns the names in /dev of all disks, by their roles.
func (p Params) devices() (map[string]string, error) {
	found := map[string]string{}
	if slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.Device == "" }) {
		var err error
		if found, err = findDisks(blockDir); err != nil {
			return nil, err
		}
	}
	for _, d := range p.Disks {
		if d.Device != "" {
			found[d.Role] = d.Device
		}
	}
	return found, nil
}

func mountDisk(p Params, devices map[string]string, role, target string) error {
	d, ok := p.disk(role)
	if !ok {
		return fmt.Errorf("there is no disk %s (agentkernel.disk=%s:<fs>:<ro|rw>[:<device>])", role, role)
	}
	device, ok := devices[role]
	if !ok {
		return fmt.Errorf("the microVM has no disk with the serial %s", role)
	}
	m := mount{"/dev/" + device, target, d.FS, unix.MS_NOATIME | unix.MS_NODEV, ""}
	if d.ReadOnly {
		m.flags |= unix.MS_RDONLY
	}
	if d.FS == "ext4" && !d.ReadOnly {
		// A new disk is zero everywhere, so its inode tables need no writing; what is deleted is given back to the host. Blocks of
		// a file are not marked as unwritten first and as written in a second transaction, since the journal writes data before
		// it commits that they belong to the file: dioread_nolock in Documentation/admin-guide/ext4.rst, which is the default.
		m.options = "noinit_itable,no_prefetch_block_bitmaps,discard,dioread_lock"
	}
	return m.do()
}

// findDisks returns the name of each virtio-blk disk in /dev by its serial.
func findDisks(block string) (map[string]string, error) {
	entries, err := os.ReadDir(block)
	if err != nil {
		return nil, fmt.Errorf("look for disks: %w", err)
	}
	found := make(map[string]string, len(entries))
	for _, e := range entries {
		serial, err := os.ReadFile(filepath.Join(block, e.Name(), "serial"))
		if err == nil && len(serial) > 0 {
			found[strings.TrimRight(string(serial), "\n\x00")] = e.Name()
		}
	}
	return found, nil
}

// overlay mounts lower with a directory of the upper disk over it: Documentation/filesystems/overlayfs.rst of Linux. Whole
// directories can be renamed in it, as on any other file system.
func overlay(name, lower, target string) error {
	dir := upperDir + "/" + name
	upper, work := dir+"/upper", dir+"/work"
	if err := makeDir(dir, 0o700); err != nil {
		return err
	}
	if err := makeDir(work, 0o700); err != nil {
		return err
	}
	if err := makeLike(upper, lower); err != nil {
		return err
	}
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=on"
	return mount{"overlay", target, "overlay", unix.MS_NOATIME, options}.do()
}

// makeLike makes a directory with the mode and owner of another, unless it exists.
func makeLike(dir, model string) error {
	err := unix.Mkdir(dir, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(model, &st); err != nil {
		return fmt.Errorf("look at %s: %w", model, err)
	}
	if err := unix.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("give %s its owner: %w", dir, err)
	}
	if err := unix.Chmod(dir, st.Mode&0o7777); err != nil {
		return fmt.Errorf("give %s its mode: %w", dir, err)
	}
	return nil
}

func makeDir(dir string, mode uint32) error {
	if err := unix.Mkdir(dir, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}

type mount struct {
	source, target, fs string
	flags              uintptr
	options            string
}

func (m mount) do() error {
	if err := unix.Mount(m.source, m.target, m.fs, m.flags, m.options); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", m.source, m.fs, m.target, err)
	}
	return nil
}

// doIn mounts on a directory that may be missing.
func (m mount) doIn(mode uint32) error {
	err := m.do()
	if errors.Is(err, unix.ENOENT) {
		if err := makeDir(m.target, mode); err != nil {
			return err
		}
		err = m.do()
	}
	return err
}
