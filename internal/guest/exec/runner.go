// Package exec runs commands in the guest: it finds the user, the working directory and the file of a command, starts it in
// a session of its own, and carries its standard streams.
package exec

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

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

	mu      sync.Mutex
	running map[string]*Command
}

// NewRunner returns a Runner whose children are collected by r. It raises this process's limit of open files.
func NewRunner(r *reaper.Reaper) (*Runner, error) {
	l, err := raiseLimits()
	if err != nil {
		return nil, err
	}
	return &Runner{reaper: r, limits: l, running: make(map[string]*Command)}, nil
}

// Start starts a command. When it does not run, the error is an *Error.
func (r *Runner) Start(req *guestv1.ExecStart) (*Command, error) {
	if !req.GetShell() && (len(req.GetArgv()) == 0 || req.GetArgv()[0] == "") {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "there is no command to run")
	}
	if req.GetShell() && len(req.GetArgv()) > 0 {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "a login shell takes no command")
	}
	if slices.ContainsFunc(slices.Concat(req.GetArgv(), req.GetEnv(), []string{req.GetCwd()}), hasNUL) {
		return nil, failure(guestv1.ExecFailed_BAD_REQUEST, "the command, its environment or its directory has a NUL byte")
	}
	r.starting.Lock()
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
	c := &Command{runner: r, id: req.GetId()}
	if err := r.enter(c); err != nil {
		return nil, err
	}
	if err := r.start(c, path, argv, req, user, env, dir); err != nil {
		r.leave(c)
		return nil, err
	}
	return c, nil
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

func (r *Runner) enter(c *Command) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[c.id] != nil {
		return failure(guestv1.ExecFailed_BAD_REQUEST, "a command with the id %q runs already", c.id)
	}
	r.running[c.id] = c
	return nil
}

func (r *Runner) leave(c *Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, c.id)
}

// Signal sends a signal to the process group of the command with this id. It returns reaper.ErrGone when none runs.
func (r *Runner) Signal(id string, s syscall.Signal) error {
	r.mu.Lock()
	c := r.running[id]
	r.mu.Unlock()
	if c == nil || c.process == nil {
		return reaper.ErrGone
	}
	return c.process.SignalGroup(s)
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
	var process *reaper.Process
	err = r.limits.forChild(func() (err error) {
		process, err = r.reaper.Start(path, argv, attr)
		return err
	})
	if err != nil {
		p.closeParent()
		return explain(err, path, dir, user)
	}
	c.attach(process, p)
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
