package confine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Self is the path of our own program, also when its file has been replaced.
const Self = "/proc/self/exe"

// environmentMark keeps a program that does not call Main from being started again and again: it is in the environment of a probe.
const environmentMark = "AGENTKERNEL_CONFINE_PROBE"

// Attributes say in which namespaces the process is to be started: those of mounts, processes, networks (which is empty), IPC and
// host name, and without root's rights that of users.
func Attributes() syscall.SysProcAttr {
	attr := syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // for mounts, until Main gives it up
	}
	return attr
}

// Probe tries whether this host lets us make namespaces and a root directory, and returns why not.
func Probe(ctx context.Context) error {
	if os.Getenv(environmentMark) != "" {
		return errors.New("this is such a trial itself")
	}
	dir, err := os.MkdirTemp("", "agentkernel-confine-")
	if err != nil {
		return fmt.Errorf("make a directory to try it in: %w", err)
	}
	defer os.Remove(dir)
	plan := Plan{Mount: dir, Pivot: true, Devices: []string{"null"}}
	if os.Geteuid() == 0 {
		plan.UID, plan.GID = FirstOwner, FirstOwner
	}
	args, err := plan.Arguments("probe")
	if err != nil {
		return err
	}
	attr := Attributes()
	cmd := exec.CommandContext(ctx, Self)
	cmd.Args, cmd.Env, cmd.Dir, cmd.SysProcAttr = args, []string{environmentMark + "=1"}, "/", &attr
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case said.Len() > 0 && err != nil:
		return errors.New(strings.TrimSpace(said.String()))
	case err != nil:
		return fmt.Errorf("make namespaces: %w", err)
	case out.String() != probed:
		return errors.New("this program does not carry out plans")
	}
	return nil
}

// UserNamespaceHint says what keeps users from making namespaces here, as far as the kernel tells: its
// Documentation/admin-guide/sysctl/user.rst, and what Debian and Ubuntu add to it.
func UserNamespaceHint() string {
	for _, s := range []struct{ file, refuses, hint string }{
		{"kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1 lets users make namespaces"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for agentkernel with `userns,`, lets it make namespaces"},
		{"user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=1000 lets users make namespaces"},
	} {
		b, err := os.ReadFile("/proc/sys/" + s.file)
		if err == nil && strings.TrimSpace(string(b)) == s.refuses {
			return s.hint
		}
	}
	return ""
}
