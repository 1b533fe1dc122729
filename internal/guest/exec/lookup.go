package exec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/account"
)

func lookupUser(spec string) (account.User, error) {
	passwd, err := openRegular("/etc/passwd")
	if err != nil {
		return account.User{}, err
	}
	defer passwd.Close()
	group, err := openRegular("/etc/group")
	if err != nil {
		return account.User{}, err
	}
	defer group.Close()
	return account.Lookup(spec, passwd, group)
}

// openRegular opens a file for reading, and an empty one when it does not exist. Root in the guest may have put a FIFO or a
// device there, which must not hold us up.
func openRegular(path string) (io.ReadCloser, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return rawFile(fd), nil
}

// rawFile reads a file by its number alone: what it holds needs no poller and no finalizer.
type rawFile int

func (f rawFile) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(f), p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (f rawFile) Close() error { return unix.Close(int(f)) }

// fileMode is st_mode of stat(2). Each command asks for several, and os.Stat makes garbage.
func fileMode(path string) (uint32, error) {
	for {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); !errors.Is(err, unix.EINTR) {
			return uint32(st.Mode), err
		}
	}
}

// directory returns where a command begins: cwd, or by default /workspace, the user's home, or the root, whichever there is.
func directory(cwd, home string) (string, error) {
	if cwd == "" {
		for _, d := range []string{workspace, home} {
			if mode, err := fileMode(d); err == nil && mode&unix.S_IFMT == unix.S_IFDIR {
				return d, nil
			}
		}
		return "/", nil
	}
	if !strings.HasPrefix(cwd, "/") {
		return "", fmt.Errorf("the working directory %q is not absolute", cwd)
	}
	switch mode, err := fileMode(cwd); {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("the working directory %s does not exist in the guest", cwd)
	case err != nil:
		return "", fmt.Errorf("use the working directory %s: %w", cwd, err)
	case mode&unix.S_IFMT != unix.S_IFDIR:
		return "", fmt.Errorf("the working directory %s is not a directory", cwd)
	}
	return cwd, nil
}

// inDirectory returns what path means to a process in dir.
func inDirectory(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// lookPath finds the file of a command as execvp(3) does: in PATH, unless name has a slash.
func lookPath(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // execve(2) says what is wrong with it
	}
	found := ""
	for _, d := range filepath.SplitList(path) {
		if d == "" {
			d = "."
		}
		file := d + "/" + name
		mode, err := fileMode(inDirectory(file, dir))
		switch {
		case err != nil || mode&unix.S_IFMT == unix.S_IFDIR:
		case mode&0o111 != 0:
			return file, nil
		default:
			found = file
		}
	}
	if found != "" {
		return "", failure(guestv1.ExecFailed_NOT_EXECUTABLE, "%s is not executable", found)
	}
	return "", failure(guestv1.ExecFailed_NOT_FOUND, "there is no command %s in the guest's PATH", name)
}
