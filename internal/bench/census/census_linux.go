package census

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Processes returns those of the sandboxes with these ids. Zombies have no arguments, and are not among them.
func Processes(ids []string) ([]Process, error) {
	dirs, err := processes()
	if err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	var found []Process
	for _, pid := range dirs {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it ended meanwhile
		}
		if id := marked(args, wanted); id != "" {
			command := string(bytes.ReplaceAll(args[:min(len(args), 200)], []byte{0}, []byte{' '}))
			found = append(found, Process{PID: pid, Sandbox: id, Command: strings.TrimSpace(command)})
		}
	}
	return found, nil
}

// marked is the first wanted id that follows a marker.
func marked(args []byte, wanted map[string]bool) string {
	for {
		_, rest, ok := bytes.Cut(args, []byte(marker))
		if !ok {
			return ""
		}
		end := bytes.IndexFunc(rest, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
		if end < 0 {
			end = len(rest)
		}
		if id := string(rest[:end]); wanted[id] {
			return id
		}
		args = rest
	}
}

// Identify returns the identity of a process that runs. Source: proc_pid_stat(5), field 22.
func Identify(pid int) (Identity, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from field 3 on
	if len(f) < 20 {
		return Identity{}, fmt.Errorf("identify process %d: its stat line has too few fields", pid)
	}
	return Identity{pid, number(f[19])}, nil
}

// Zombies returns the ended children of a process that it has not waited for. Source: proc_pid_stat(5).
func Zombies(parent int) ([]int, error) {
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(f) > 1 && string(f[0]) == "Z" && string(f[1]) == strconv.Itoa(parent) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// Descriptors is how many file descriptors a process has open.
func Descriptors(pid int) (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("count the descriptors of process %d: %w", pid, err)
	}
	return len(list), nil
}

// ActivityOf measures a process. Source: /proc/pid/task/tid/schedstat (scheduler/sched-stats) and proc_pid_status(5).
func ActivityOf(pid int) (a Activity, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return a, err
	}
	measured := false
	for _, task := range tasks {
		status, statusErr := os.ReadFile(filepath.Join(task, "status"))
		sched, schedErr := os.ReadFile(filepath.Join(task, "schedstat"))
		if errors.Join(statusErr, schedErr) != nil {
			continue // the thread ended meanwhile
		}
		measured = true
		for line := range bytes.Lines(status) {
			if name, value, _ := bytes.Cut(line, []byte{':'}); bytes.HasSuffix(name, []byte("voluntary_ctxt_switches")) { // nonvoluntary, too
				a.Switches += number(value)
			}
		}
		ns, _, _ := bytes.Cut(sched, []byte{' '})
		a.CPU += time.Duration(number(ns))
	}
	if !measured {
		return a, fmt.Errorf("measure process %d: %w", pid, os.ErrNotExist)
	}
	return a, nil
}

// number is 0 for what is none: the kernel writes these.
func number(b []byte) uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 63)
	if err != nil {
		return 0
	}
	return n
}

// Sockets returns the paths of unix sockets of this host that have one of these words in them. Source: /proc/net/unix,
// unix(7).
func Sockets(words []string) (paths []string, err error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 {
			continue // it has no path
		}
		path := strings.Join(fields[7:], " ")
		for _, word := range words {
			if strings.Contains(path, word) {
				paths = append(paths, path)
				break
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	return paths, nil
}

func processes() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
