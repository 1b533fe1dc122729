package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxHostname is HOST_NAME_MAX of Linux: sethostname(2).
const maxHostname = 64

// SetHostname gives the microVM its name, and the file system at root the files in etc that carry it: where there are none, as an
// image may have its own, and where they are as another sandbox was given them whose copy this is.
func SetHostname(root, hostname string) error {
	if hostname == "" || len(hostname) > maxHostname {
		return fmt.Errorf("a host name has 1 to %d bytes, and this one has %d", maxHostname, len(hostname))
	}
	old, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read the host name: %w", err)
	}
	if old == hostname {
		return nil
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return writeNames(filepath.Join(root, "etc"), old, hostname)
}

func writeNames(etc, old, hostname string) error {
	for name, text := range map[string]func(hostname string) string{
		"hostname": func(n string) string { return n + "\n" },
		"hosts": func(n string) string {
			return "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + n + "\n"
		},
		"resolv.conf": func(string) string { return "" }, // a resolver without it asks 127.0.0.1, which refuses at once
	} {
		path := filepath.Join(etc, name)
		err := rename(path, text, old, hostname)
		if errors.Is(err, os.ErrNotExist) {
			err = makeNamed(path, text(hostname))
		}
		if err != nil {
			return fmt.Errorf("write the host name: %w", err)
		}
	}
	return nil
}

// rename changes a file that has been given another name, of the sandbox or the template that this has been a copy of.
func rename(path string, text func(hostname string) string, old, hostname string) error {
	have, err := readShort(path)
	if err != nil {
		return err
	}
	for _, other := range []string{old, templateName} {
		if string(have) == text(other) {
			return overwrite(path, text(other), text(hostname))
		}
	}
	return nil // it is the image's, or somebody has changed it
}

// overwrite gives a file another text in place. To make it anew, or to shorten it first, takes a file system several times as long.
func overwrite(path, old, text string) error {
	if old == text {
		return nil
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	if len(text) < len(old) {
		if err := unix.Ftruncate(fd, int64(len(text))); err != nil {
			return &os.PathError{Op: "truncate", Path: path, Err: err}
		}
	}
	return nil
}

// makeNamed writes a file that is not there. One that is, though it could not be opened, is a link that leads nowhere, and the image's
// own.
func makeNamed(path, text string) error {
	err := writeMissing(path, text)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		err = writeMissing(path, text)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// writeMissing writes a file. The error is os.ErrExist when there is something by its name.
func writeMissing(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "make", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if text == "" {
		return nil
	}
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// What a template is called, and its machine id, until it is a sandbox.
const (
	templateName = "t"
	templateID   = "agentkernel-template-machine-id-"
)

// NameTemplate makes the files that have a sandbox's names, so that they need only be changed when there is one.
func NameTemplate(root string) error {
	if err := SetHostname(root, templateName); err != nil {
		return err
	}
	path := filepath.Join(root, "etc/machine-id")
	if text, err := readShort(path); err == nil && len(text) > 0 {
		return nil // the image has one, which is replaced
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write the machine id: %w", err)
	}
	if err := os.WriteFile(path, []byte(templateID+"\n"), 0o444); err != nil {
		return fmt.Errorf("write the machine id: %w", err)
	}
	return nil
}

// machineIDs are the files that have it: machine-id(5), and where D-Bus looks for its own.
var machineIDs = []struct {
	path   string
	needed bool
}{{"etc/machine-id", true}, {"var/lib/dbus/machine-id", false}}

// SetMachineID gives the file system at root its machine id: machine-id(5). A file is put in the place of the one that is
// there, link or not, and a program that reads it meanwhile finds one or the other.
func SetMachineID(root, id string) error {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" {
		return fmt.Errorf("%q is not a machine id", id)
	}
	for _, f := range machineIDs {
		path := filepath.Join(root, f.path)
		have, err := readShort(path)
		if err == nil && string(have) == id+"\n" || err != nil && !f.needed {
			continue
		}
		if err == nil && string(have) == templateID+"\n" { // nobody else has the file
			if err := overwrite(path, templateID+"\n", id+"\n"); err != nil {
				return fmt.Errorf("write the machine id: %w", err)
			}
			continue
		}
		next := path + ".agentkernel"
		if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("write the machine id: %w", err)
		}
		if err := os.WriteFile(next, []byte(id+"\n"), 0o444); err != nil {
			return fmt.Errorf("write the machine id: %w", err)
		}
		if err := os.Rename(next, path); err != nil {
			return fmt.Errorf("write the machine id: %w", err)
		}
	}
	return nil
}

// RemoveHostKeys deletes the keys by which an SSH server is known, but for those that keep wants, and tells how many there were.
func RemoveHostKeys(root string, keep func(path string) bool) (int, error) {
	const dir = "etc/ssh"
	names, err := listDir(root + "/" + dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for SSH host keys: %w", err)
	}
	removed := 0
	for _, name := range names {
		if !strings.HasPrefix(name, "ssh_host_") || !strings.Contains(name, "_key") || keep(dir+"/"+name) {
			continue
		}
		if err := os.Remove(filepath.Join(root, dir, name)); err != nil {
			return removed, fmt.Errorf("delete an SSH host key: %w", err)
		}
		removed++
	}
	return removed, nil
}
