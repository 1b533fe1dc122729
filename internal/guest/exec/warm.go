package exec

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// warmTimeout bounds the command that warms.
const warmTimeout = 10 * time.Second

// Warm runs the shell of the file system at root once, which does nothing, and leaves no process behind. So what every command
// needs is in memory when a template is saved: the shell's pages, a control group, this program's own path to them. An image
// without a shell has nothing of the kind.
func (r *Runner) Warm(root string) error {
	r.starting.Lock()
	defer r.starting.Unlock()
	const shell = "/bin/sh"
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	defer null.Close()
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=" + DefaultPath}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Chroot: root},
	}
	var g *group
	if r.groups != nil {
		if g, err = r.groups.take(0, 0); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, g.fd()
		defer func() {
			g.kill()
			r.groups.put(g)
		}()
	}
	p, err := r.reaper.Start(shell, []string{"sh", "-c", "/bin/true"}, attr)
	if err != nil {
		return nil // it has no shell, or one that does not run here
	}
	timer := time.AfterFunc(warmTimeout, func() { _ = p.SignalGroup(unix.SIGKILL) })
	defer timer.Stop()
	<-p.Done()
	return nil
}
