package exec

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// groups hands out control groups, one a command: Documentation/admin-guide/cgroup-v2.rst of the kernel. With one, all
// processes that came of a command can be killed, it shares the processors with the other commands and the agent instead of
// the processes that it has, and a limit on its processes leaves some to the others.
//
// A group is used again when the command has left no process behind. Those with a limit on memory are in a part of the tree
// of their own, as accounting for memory costs something.
type groups struct {
	root     string // of the tree: /sys/fs/cgroup
	maxPids  int    // of a group
	ready    bool   // execs/ is there; guarded by mu, as what follows
	limiting bool   // limited/ is there

	mu   sync.Mutex
	next int
	free []*group // without processes, when looked at last
	used []*group // of commands that left processes behind
}

// group is a control group for one command.
type group struct {
	path    string
	dir     *os.File
	memory  bool // has a limit on memory, and is not used again
	changed bool // has another limit on processes than others
}

const cgroupRoot = "/sys/fs/cgroup"

// maxFree is how many groups are kept for the next commands.
const maxFree = 16

// newGroups returns nil where the kernel has no control groups or this process may not make any: then commands run without.
func newGroups(root string) *groups {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		return nil
	}
	g := &groups{root: root, maxPids: 4096}
	if text, err := os.ReadFile("/proc/sys/kernel/threads-max"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			g.maxPids = max(64, n/2)
		}
	}
	return g
}

// take returns a group with limits; 0 stands for none on memory and the usual one on processes.
func (g *groups) take(memory uint64, pids uint32) (_ *group, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if memory > 0 {
		return g.limited(memory, pids)
	}
	g.sort()
	var c *group
	if n := len(g.free); n > 0 {
		c, g.free = g.free[n-1], g.free[:n-1]
	} else if c, err = g.make("execs", &g.ready, "+cpu +pids"); err != nil {
		return nil, err
	}
	if pids > 0 {
		c.changed = true
		if err := c.set("pids.max", fmt.Sprint(pids)); err != nil {
			c.remove()
			return nil, err
		}
	}
	return c, nil
}

func (g *groups) limited(memory uint64, pids uint32) (*group, error) {
	c, err := g.make("limited", &g.limiting, "+cpu +pids +memory")
	if err != nil {
		return nil, err
	}
	c.memory = true
	err = c.set("memory.max", fmt.Sprint(memory))
	if err == nil && pids > 0 {
		err = c.set("pids.max", fmt.Sprint(pids))
	}
	if err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// make makes a new group below the directory part, which is made at its first one.
func (g *groups) make(part string, ready *bool, controllers string) (*group, error) {
	dir := filepath.Join(g.root, part)
	if !*ready {
		if err := write(filepath.Join(g.root, "cgroup.subtree_control"), controllers); err != nil {
			return nil, err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if err := write(filepath.Join(dir, "cgroup.subtree_control"), controllers); err != nil {
			return nil, err
		}
		*ready = true
	}
	g.next++
	c := &group{path: filepath.Join(dir, strconv.Itoa(g.next))}
	if err := os.Mkdir(c.path, 0o755); err != nil {
		return nil, err
	}
	var err error
	if c.dir, err = os.Open(c.path); err == nil {
		err = c.set("pids.max", fmt.Sprint(g.maxPids))
	}
	if err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// put takes a group back at the end of its command.
func (g *groups) put(c *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used = append(g.used, c)
	g.sort()
}

// sort finds out which used groups have no process any more.
func (g *groups) sort() {
	kept := g.used[:0]
	for _, c := range g.used {
		switch {
		case c.populated():
			kept = append(kept, c)
		case c.memory || len(g.free) == maxFree || c.changed && c.set("pids.max", fmt.Sprint(g.maxPids)) != nil:
			c.remove()
		default:
			c.changed = false
			g.free = append(g.free, c)
		}
	}
	clear(g.used[len(kept):])
	g.used = kept
}

func (c *group) fd() int { return int(c.dir.Fd()) }

func (c *group) set(file, value string) error { return write(filepath.Join(c.path, file), value) }

// kill ends all processes of the group: cgroup.kill.
func (c *group) kill() { _ = c.set("cgroup.kill", "1") }

// populated reports whether the group has a process. Every command asks that at its end, before the host hears of it, so the
// file, which the poller would take, is read by its number alone.
func (c *group) populated() bool {
	fd, err := unix.Openat(c.fd(), "cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := rawFile(fd)
	defer f.Close()
	var events [256]byte // two lines: populated and frozen
	n, err := f.Read(events[:])
	return err == nil && bytes.Contains(events[:n], []byte("populated 1"))
}

// oomKilled reports whether the kernel has killed a process of the group for its memory.
func (c *group) oomKilled() bool {
	data, err := os.ReadFile(filepath.Join(c.path, "memory.events"))
	return err == nil && bytes.Contains(data, []byte("oom_kill ")) && !bytes.Contains(data, []byte("oom_kill 0\n"))
}

func (c *group) remove() {
	if c.dir != nil {
		_ = c.dir.Close()
	}
	_ = unix.Rmdir(c.path)
}

func write(path, value string) error { return os.WriteFile(path, []byte(value), 0) }
