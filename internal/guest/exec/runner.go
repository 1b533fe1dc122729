// Package exec runs commands in the guest: it finds the user, the working directory and the file of a command, starts it in
// a session of its own, and carries its standard streams.
package exec

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/account"
	"github.com/agentkernel/agentkernel/internal/guest/reaper"
)

// Error is why a command did not run.
type Error struct {
	Reason  guestv1.ExecFailed_Reason
	Message string
}

func (e *Error) Error() string { return e.Message }

func failure(reason guestv1.ExecFailed_Reason, format string, args ...any) *Error {
	return &Error{reason, fmt.Sprintf(format, args...)}
}

// DefaultPath is PATH where a request does not set it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// workspace is the working directory of commands that name none, when it exists.
const workspace = "/workspace"

// Runner starts commands. Its methods may be called from any goroutine.
type Runner struct {
	reaper  *reaper.Reaper
	limits  limits
	buffers buffers

	starting sync.Mutex // serialises starts, since they change a limit of the whole process
	frozen   *frozen    // guarded by starting; nil unless everything is frozen

	groups *groups // nil where there are none

	rest *time.Timer

	mu       sync.Mutex
	commands map[string]*Command // those that run, and the last ones that ended
	history  []*Command          // those that ended, in this order
	started  uint64              // how many, ever
	detached int                 // how many run in the background
}

// NewRunner returns a Runner whose children are collected by r. It raises this process's limit of open files.
func NewRunner(r *reaper.Reaper) (*Runner, error) {
	l, err := raiseLimits()
	if err != nil {
		return nil, err
	}
	rest := time.AfterFunc(restAfter, debug.FreeOSMemory)
	rest.Stop() // until a command has ended
	return &Runner{reaper: r, limits: l, commands: make(map[string]*Command), groups: newGroups(cgroupRoot), rest: rest}, nil
}

// Start starts a command. When it does not run, the error is an *Error, or that of ctx, which ended while everything was frozen.
func (r *Runner) Start(ctx context.Context, req *guestv1.ExecStart) (*Command, error) {
	if !req.GetShell() && (len(req.GetArgv()) == 0 || req.GetArgv()[0] == "") {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "there is no command to run")
	}
	if req.GetShell() && len(req.GetArgv()) > 0 {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "a login shell takes no command")
	}
	if slices.ContainsFunc(slices.Concat(req.GetArgv(), req.GetEnv(), []string{req.GetCwd()}), hasNUL) {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "the command, its environment or its directory has a NUL byte")
	}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	defer r.starting.Unlock()
	user, err := lookupUser(req.GetUser())
	if err != nil {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "%v", err)
	}
	env, err := environment(user, req.GetEnv())
	if err != nil {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "%v", err)
	}
	dir, err := directory(req.GetCwd(), user.Home)
	if err != nil {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "%v", err)
	}
	if req.GetTerminal() != nil {
		terminalDefaults(env)
	}
	argv, path := req.GetArgv(), user.Shell
	if req.GetShell() {
		argv = []string{"-" + filepath.Base(path)} // as login(1) says that it is one
	} else if path, err = lookPath(argv[0], env["PATH"], dir); err != nil {
		return nil, err
	}
	c := &Command{
		runner: r, id: req.GetId(), argv: argv, user: user.Name, terminal: req.GetTerminal() != nil, began: time.Now(), over: make(chan struct{}),
	}
	if req.GetDetach() {
		c.log = new(outputLog)
	}
	if err := r.enter(c); err != nil {
		return nil, err
	}
	if err := r.start(c, path, argv, req, user, env, dir); err != nil {
		r.forget(c)
		return nil, err
	}
	return c, nil
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// Detached finds a command in the background that runs, or that has ended not long ago.
func (r *Runner) Detached(id string) (*Command, error) {
	c := r.find(id)
	if c == nil || c.process == nil {
		return nil, failure(guestv1.ExecFailed_NOT_FOUND, "no command with the id %q is known", id)
	}
	if c.log == nil {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "the command %q was not started in the background: its output goes to who started it", id)
	}
	return c, nil
}

func (r *Runner) start(c *Command, path string, argv []string, req *guestv1.ExecStart, user account.User, env map[string]string, dir string) error {
	open := openPipes
	if size := req.GetTerminal(); size != nil {
		open = func(stdin bool) (*pipes, error) { return openTerminal(stdin, size, user.UID) }
	}
	p, err := open(req.GetStdin())
	if err != nil {
		return failure(guestv1.ExecFailed_INTERNAL, "make the command's pipes: %v", err)
	}
	defer p.closeChild()
	vars := make([]string, 0, len(env))
	for k, v := range env {
		vars = append(vars, k+"="+v)
	}
	slices.Sort(vars)
	attr := &syscall.ProcAttr{Dir: dir, Env: vars, Files: p.child[:], Sys: &syscall.SysProcAttr{
		Setsid:     true,
		Setctty:    p.terminal, // file 0
		Credential: &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups},
	}}
	if os.Geteuid() != 0 { // only in tests
		attr.Sys.Credential = nil
	}
	if err := r.confine(c, req, attr.Sys); err != nil {
		p.closeParent()
		return err
	}
	var process *reaper.Process
	err = r.limits.forChild(func() (err error) {
		process, err = r.reaper.Start(path, argv, attr)
		return err
	})
	if err != nil {
		p.closeParent()
		if c.group != nil {
			r.groups.put(c.group)
		}
		return explain(err, path, dir, user)
	}
	c.attach(process, p)
	return nil
}

// confine has the command begin in a control group of its own.
func (r *Runner) confine(c *Command, req *guestv1.ExecStart, attr *syscall.SysProcAttr) error {
	if r.groups == nil {
		if req.GetMemoryBytes() > 0 || req.GetMaxPids() > 0 {
			return failure(guestv1.ExecFailed_BAD_REQUEST, "the guest's kernel has no control groups, which limits of a command need")
		}
		return nil
	}
	group, err := r.groups.take(req.GetMemoryBytes(), req.GetMaxPids())
	if err != nil {
		return failure(guestv1.ExecFailed_INTERNAL, "make a control group for the command: %v", err)
	}
	c.group = group
	attr.UseCgroupFD, attr.CgroupFD = true, group.fd()
	return nil
}

// explain says why a file that looked like a command did not start.
func explain(err error, path, dir string, user account.User) *Error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, err := os.Stat(inDirectory(path, dir)); err == nil {
			return failure(guestv1.ExecFailed_NOT_FOUND, "cannot run %s: its interpreter or loader does not exist in the guest", path)
		}
		return failure(guestv1.ExecFailed_NOT_FOUND, "there is no command %s in the guest", path)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG):
		return failure(guestv1.ExecFailed_NOT_FOUND, "there is no command %s in the guest: %v", path, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return failure(guestv1.ExecFailed_NOT_EXECUTABLE, "user %s may not run %s in %s: %v", user.Name, path, dir, err)
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EINVAL):
		return failure(guestv1.ExecFailed_NOT_EXECUTABLE, "cannot run %s: %v", path, err)
	case errors.Is(err, unix.E2BIG):
		return failure(guestv1.ExecFailed_BAD_REQUEST, "cannot run %s: its arguments and environment are too long", path)
	}
	return failure(guestv1.ExecFailed_INTERNAL, "cannot start %s: %v", path, err)
}

// environment returns the default environment of a user with the request's entries laid over it.
func environment(user account.User, entries []string) (map[string]string, error) {
	env := map[string]string{"PATH": DefaultPath, "HOME": user.Home, "USER": user.Name, "LOGNAME": user.Name, "SHELL": user.Shell}
	if name, err := os.Hostname(); err == nil {
		env["HOSTNAME"] = name
	}
	own := make(map[string]string, len(entries))
	for _, e := range entries {
		k, v, ok := strings.Cut(e, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("the environment entry %q is not KEY=VALUE", e)
		}
		own[k] = v
	}
	maps.Copy(env, own)
	return env, nil
}
