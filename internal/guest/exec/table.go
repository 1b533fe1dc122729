package exec

import (
	"slices"
	"strings"
	"syscall"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
)

const (
	// maxDetached bounds the commands in the background, each of which may hold logSize bytes.
	maxDetached = 128
	// maxEnded is how many commands are remembered after their end.
	maxEnded = 64
	// listPage is how many commands a List tells of at once, and argvShown and userShown how much of each, in bytes. The
	// host takes answers of 34 KiB.
	listPage  = 64
	argvShown = 256
	userShown = 64
	// restAfter is how long after the end of a command, when no other has ended since, this process gives back what memory it does
	// not need: many commands at once leave it with twice as much.
	restAfter = 5 * time.Second
)

// enter puts a command into the table, under an id that no command has that runs.
func (r *Runner) enter(c *Command) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.commands[c.id]; old != nil && old.ended.IsZero() {
		return failure(guestv1.ExecFailed_BAD_REQUEST, "a command with the id %q runs already", c.id)
	}
	if c.log != nil {
		if r.detached >= maxDetached {
			return failure(guestv1.ExecFailed_BAD_REQUEST, "%d commands run in the background already: wait for one to end, or kill one", maxDetached)
		}
		r.detached++
	}
	r.started++
	c.number = r.started
	r.commands[c.id] = c
	return nil
}

// forget takes a command out of the table that did not start.
func (r *Runner) forget(c *Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.log != nil {
		r.detached--
	}
	delete(r.commands, c.id)
}

// leave remembers how a command ended, in place of one that ended long ago.
func (r *Runner) leave(c *Command, exited *guestv1.ExecExited) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.log != nil {
		r.detached--
	}
	c.ended, c.exited = time.Now(), exited
	r.history = append(r.history, c)
	if len(r.history) > maxEnded {
		if old := r.history[0]; r.commands[old.id] == old {
			delete(r.commands, old.id)
		}
		r.history[0] = nil
		r.history = r.history[1:]
	}
	close(c.over)
	r.rest.Reset(restAfter)
}

func (r *Runner) find(id string) *Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commands[id]
}

// Signal sends a signal to the process group of the command with this id; SIGKILL to all that came of it. It returns
// reaper.ErrGone when none runs.
func (r *Runner) Signal(id string, s syscall.Signal) error {
	r.mu.Lock()
	c := r.commands[id]
	if c == nil || c.process == nil || !c.ended.IsZero() {
		r.mu.Unlock()
		return reaper.ErrGone
	}
	process, group := c.process, c.group
	r.mu.Unlock()
	if s == syscall.SIGKILL && group != nil {
		group.kill()
		return nil
	}
	return process.SignalGroup(s)
}

// List tells of the commands that were started after the one with this number.
func (r *Runner) List(after uint64) *guestv1.ListResponse {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*Command
	for _, c := range r.commands {
		if c.number > after && c.process != nil {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *Command) int { return int(int64(a.number - b.number)) })
	resp := &guestv1.ListResponse{More: len(found) > listPage}
	for _, c := range found[:min(len(found), listPage)] {
		info := &guestv1.ExecInfo{
			Number: c.number, Id: c.id, Pid: uint32(c.process.PID()), Argv: cut(c.argv), User: strings.ToValidUTF8(c.user[:min(len(c.user), userShown)], "?"),
			Detached: c.log != nil, Terminal: c.terminal, StartedUnixNs: c.began.UnixNano(), Exited: c.exited,
			Stayed: c.stayed,
		}
		if !c.ended.IsZero() {
			info.EndedUnixNs = c.ended.UnixNano()
		}
		resp.Execs = append(resp.Execs, info)
	}
	return resp
}

// cut returns as much of argv as is shown.
func cut(argv []string) []string {
	var shown []string
	left := argvShown
	for _, a := range argv {
		if left <= 0 || len(shown) == argvShown/8 {
			break
		}
		a = strings.ToValidUTF8(a[:min(len(a), left)], "") // perhaps cut within a character
		left -= len(a)
		shown = append(shown, a)
	}
	return shown
}
