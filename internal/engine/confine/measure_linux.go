package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespaces are the kinds that a process can have of its own, by their names in /proc/pid/ns.
var namespaces = []string{"user", "mnt", "pid", "net", "ipc", "uts"}

// Measure says what confines the process pid, one thing a line, by what the kernel tells of it: proc(5). Nothing in it is
// concluded from how the process was started.
func Measure(pid int) ([]string, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	s, err := readStatus(filepath.Join(dir, "status"))
	if err != nil {
		return nil, fmt.Errorf("look at what confines process %d: %w", pid, err)
	}
	var found []string
	if uid, us := s.uid(), strconv.Itoa(os.Geteuid()); uid != us {
		found = append(found, "user "+uid+" of its own")
	} else {
		found = append(found, "the daemon's user "+uid)
	}
	if s["CapPrm"] == "0000000000000000" {
		found = append(found, "no capabilities")
	}
	if s["NoNewPrivs"] == "1" {
		found = append(found, "no new privileges")
	}
	confined, all, err := seccompThreads(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	if confined > 0 {
		found = append(found, fmt.Sprintf("seccomp filters in %d of %d threads", confined, all))
	}
	own, err := ownNamespaces(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the namespaces of process %d: %w", pid, err)
	}
	if len(own) > 0 {
		found = append(found, "namespaces of its own: "+strings.Join(own, ", "))
	}
	if none, err := noNetwork(dir); err != nil {
		return nil, fmt.Errorf("look at the network of process %d: %w", pid, err)
	} else if none {
		found = append(found, "no network")
	}
	if own, err := ownRoot(dir); err != nil {
		return nil, fmt.Errorf("look at the root directory of process %d: %w", pid, err)
	} else if own {
		found = append(found, "a root directory of its own")
	}
	if group, err := limits(dir); err != nil {
		return nil, fmt.Errorf("look at the cgroup of process %d: %w", pid, err)
	} else if group != "" {
		found = append(found, group)
	}
	return found, nil
}

// status has the lines of /proc/pid/status.
type status map[string]string

func readStatus(path string) (status, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := status{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			s[key] = strings.TrimSpace(value)
		}
	}
	return s, nil
}

// uid is the real user id: the first of four.
func (s status) uid() string {
	uid, _, _ := strings.Cut(s["Uid"], "\t")
	return uid
}

// seccompThreads counts the threads, and those that have a filter.
func seccompThreads(dir string) (confined, all int, err error) {
	tasks, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return 0, 0, err
	}
	for _, t := range tasks {
		s, err := readStatus(filepath.Join(dir, "task", t.Name(), "status"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, 0, err
		}
		all++
		if s["Seccomp"] == "2" {
			confined++
		}
	}
	return confined, all, nil
}

// ownNamespaces are those that are not ours.
func ownNamespaces(dir string) ([]string, error) {
	var own []string
	for _, name := range namespaces {
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // this kernel does not have that kind
		}
		if err != nil {
			return nil, err
		}
		theirs, err := os.Readlink(filepath.Join(dir, "ns", name))
		if err != nil {
			return nil, err
		}
		if ours != theirs {
			own = append(own, name)
		}
	}
	return own, nil
}

// noNetwork reports whether the process has no network device but the loopback.
func noNetwork(dir string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(dir, "net/dev"))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // a kernel without networks
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) != "lo" {
			return false, nil
		}
	}
	return true, nil
}

func ownRoot(dir string) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/", &ours); err != nil {
		return false, err
	}
	if err := unix.Stat(filepath.Join(dir, "root"), &theirs); err != nil {
		return false, err
	}
	return ours.Dev != theirs.Dev || ours.Ino != theirs.Ino, nil
}

// limits says which of a cgroup's limits hold for the process, when it is in one of ours.
func limits(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	all, err := mountedHierarchies()
	if err != nil {
		return "", err
	}
	var found []string
	for line := range strings.Lines(string(b)) { // hierarchy:controllers:path, cgroups(7)
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || !strings.Contains(parts[2], "/"+cgroupParent+"/") {
			continue
		}
		for _, l := range cgroupLimits {
			for _, h := range all {
				var file string
				switch {
				case h.version == 2 && parts[1] == "":
					file = l.v2
				case h.version == 1 && slices.Contains(strings.Split(parts[1], ","), l.controller) && slices.Contains(h.controllers, l.controller):
					file = l.v1
				default:
					continue
				}
				value, err := os.ReadFile(filepath.Join(h.path, parts[2], file))
				if text := strings.TrimSpace(string(value)); err == nil && text != "-1" && !strings.HasPrefix(text, "max") {
					found = append(found, l.controller+" ("+text+")")
				}
			}
		}
	}
	if len(found) == 0 {
		return "", nil
	}
	return "cgroup with limits: " + strings.Join(found, ", "), nil
}
