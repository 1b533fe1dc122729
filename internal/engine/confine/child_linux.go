package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// tmpfsOptions bound what the jailer copies, which is the VMM's program.
	tmpfsOptions = "mode=0755,size=64m"
	// maxFiles is the jailer's limit of open files, for a VMM without jailer too.
	maxFiles = 2048
	// program is where the probe ends: nothing is run.
	probed = "confined"
)

// Main carries out the plan in args, which are what follows Command, in a process that was started for it. It returns an exit
// code when it fails; else the process has become another program.
func Main(args []string, stdout, stderr io.Writer) int {
	err := errors.New("a marker and a plan are needed")
	if len(args) == 2 {
		var plan Plan
		if err = json.Unmarshal([]byte(args[1]), &plan); err == nil {
			err = plan.carryOut(stdout)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "confine the VMM: %v\n", err)
		return 1
	}
	return 0
}

func (p Plan) carryOut(stdout io.Writer) error {
	runtime.LockOSThread() // capabilities are a thread's
	smallPages()
	if err := p.mount(); err != nil {
		return err
	}
	if p.Pivot {
		if err := pivot(p.root()); err != nil {
			return err
		}
		if err := p.giveUpRights(); err != nil {
			return err
		}
	}
	if len(p.Args) == 0 {
		_, err := io.WriteString(stdout, probed)
		return err
	}
	if err := unix.Exec(p.Args[0], p.Args, os.Environ()); err != nil {
		return &os.PathError{Op: "run", Path: p.Args[0], Err: err}
	}
	return nil
}

// smallPages has the program do without transparent huge pages, whatever it becomes in turn: PR_SET_THP_DISABLE(2const). Where the host
// gives them to all, the stack of a thread, of which a VMM touches 40 KiB, is one of 2 MiB if it happens to lie at a multiple of
// that. A kernel that has none refuses, and nothing is lost.
func smallPages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }

func (p Plan) root() string { return filepath.Join(p.Mount, p.Inside) }

// mount makes the new root.
func (p Plan) mount() error {
	// What is mounted from here on must not reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", p.Mount, "tmpfs", unix.MS_NOSUID, tmpfsOptions); err != nil {
		return &os.PathError{Op: "mount a tmpfs on", Path: p.Mount, Err: err}
	}
	if err := os.MkdirAll(p.root(), 0o755); err != nil {
		return fmt.Errorf("make a root directory: %w", err)
	}
	for _, b := range p.Binds {
		if err := b.mount(p.root()); err != nil {
			return err
		}
	}
	for _, name := range p.Devices {
		if err := p.device(name); err != nil {
			return fmt.Errorf("make the device %s: %w", name, err)
		}
	}
	return nil
}

func (b Bind) mount(root string) error {
	to := filepath.Join(root, b.To)
	info, err := os.Stat(b.From)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND)
	if info.IsDir() {
		flags |= unix.MS_REC // a user namespace may not show what is below a mount
		err = os.MkdirAll(to, 0o755)
	} else {
		err = os.WriteFile(to, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(b.From, to, "", flags, ""); err != nil {
		return &os.PathError{Op: "bind", Path: b.From, Err: err}
	}
	if b.Writable {
		return nil
	}
	// What the mount forbids already must stay forbidden, and is named again.
	var fs unix.Statfs_t
	if err := unix.Statfs(to, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: to, Err: err}
	}
	if err := unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|mountFlags(fs.Flags), ""); err != nil {
		return &os.PathError{Op: "make read-only", Path: b.From, Err: err}
	}
	return nil
}

// mountFlags are the flags of mount(2) for those of statfs(2).
func mountFlags(statfs int64) (flags uintptr) {
	for _, f := range []struct {
		statfs int64
		mount  uintptr
	}{
		{unix.ST_NOSUID, unix.MS_NOSUID}, {unix.ST_NODEV, unix.MS_NODEV}, {unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME}, {unix.ST_NODIRATIME, unix.MS_NODIRATIME}, {unix.ST_RELATIME, unix.MS_RELATIME},
	} {
		if statfs&f.statfs != 0 {
			flags |= f.mount
		}
	}
	return flags
}

// device makes a device of the host's, if it has it. Root makes one that belongs to the process's user; others show the host's,
// with the host's permissions.
func (p Plan) device(name string) error {
	var st unix.Stat_t
	from := filepath.Join("/dev", name)
	if err := unix.Stat(from, &st); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return err
	}
	if p.UID == 0 {
		return Bind{From: from, To: from, Writable: true}.mount(p.root())
	}
	to := filepath.Join(p.root(), from)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(to, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		return err
	}
	return os.Chown(to, p.UID, p.GID)
}

// pivot makes dir the root directory, from which nothing can be seen of the old one, and nothing made.
func pivot(dir string) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	// The old root is put over the new one, and taken away: pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root directory: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take away the old root directory: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("make the root directory read-only: %w", err)
	}
	return nil
}

// giveUpRights leaves what a VMM needs: its user and, for /dev/kvm, the user's groups.
func (p Plan) giveUpRights() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: maxFiles, Max: maxFiles}); err != nil {
		return fmt.Errorf("limit the open files: %w", err)
	}
	if p.UID != 0 {
		err := syscall.Setgroups(nil)
		if err == nil {
			err = syscall.Setgid(p.GID)
		}
		if err == nil {
			err = syscall.Setuid(p.UID)
		}
		if err != nil {
			return fmt.Errorf("become user %d: %w", p.UID, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	return nil
}
