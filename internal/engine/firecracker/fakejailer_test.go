package firecracker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// runFakeJailer does of what a jailer does (docs/jailer.md of Firecracker) what the engine counts on: the place of the root directory,
// that it is entered, the user, and the command line.
func runFakeJailer() int {
	if slices.Contains(os.Args, "--version") {
		fmt.Printf("Jailer v1.16.1\n\n")
		return 0
	}
	if err := fakeJail(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\nError: Jail(%v)\n", err, err)
	}
	return 1
}

func fakeJail() error {
	uid, err := strconv.Atoi(option("uid"))
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(option("gid"))
	if err != nil {
		return err
	}
	program := option("exec-file")
	root := filepath.Join(option("chroot-base-dir"), filepath.Base(program), option("id"), "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	inside := "/" + filepath.Base(program)
	if err := os.WriteFile(root+inside, b, 0o755); err != nil {
		return err
	}
	args := append([]string{inside, "--id", option("id"), "--start-time-us", "1"}, os.Args[slices.Index(os.Args, "--")+1:]...)
	for _, step := range []func() error{
		func() error { return os.Chown(root, uid, gid) },
		func() error { return syscall.Chroot(root) },
		func() error { return os.Chdir("/") },
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(gid) },
		func() error { return syscall.Setuid(uid) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return syscall.Exec(inside, args, nil)
}
