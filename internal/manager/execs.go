package manager

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Execs tells of the commands that run in a sandbox, and of the last ones that ended.
func (m *Manager) Execs(ctx context.Context, name string) ([]guestrpc.ExecInfo, error) {
	r, err := m.running(ctx, name)
	if err != nil {
		return nil, err
	}
	client, err := r.guest.control(ctx)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Failure, "", "reach sandbox %q: %w", name, err)
	}
	list, err := client.List(ctx)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Failure, "", "sandbox %q: %w", name, err)
	}
	return list, nil
}

// ExecInfo finds a command by its id, or by the beginning of it where only one begins so.
func (m *Manager) ExecInfo(ctx context.Context, name, id string) (guestrpc.ExecInfo, error) {
	list, err := m.Execs(ctx, name)
	if err != nil {
		return guestrpc.ExecInfo{}, err
	}
	var found []guestrpc.ExecInfo
	for _, info := range list {
		if info.ID == id {
			return info, nil
		}
		if id != "" && strings.HasPrefix(info.ID, id) {
			found = append(found, info)
		}
	}
	hint := "agentkernel ps " + name + " shows all"
	switch len(found) {
	case 0:
		return guestrpc.ExecInfo{}, sandbox.Errorf(sandbox.NotFound, hint, "no command with the id %.64q is known in sandbox %q", id, name)
	case 1:
		return found[0], nil
	}
	return guestrpc.ExecInfo{}, sandbox.Errorf(sandbox.Invalid, hint, "%d commands in sandbox %q have an id that begins with %.64q", len(found), name, id)
}

// SignalExec sends a signal to the process group of a command; SIGKILL to all processes that came of it.
func (m *Manager) SignalExec(ctx context.Context, name, id string, signal uint32) error {
	info, err := m.ExecInfo(ctx, name, id)
	if err != nil {
		return err
	}
	r, err := m.running(ctx, name)
	if err != nil {
		return err
	}
	client, err := r.guest.control(ctx)
	if err != nil {
		return sandbox.Errorf(sandbox.Failure, "", "reach sandbox %q: %w", name, err)
	}
	err = client.Signal(ctx, info.ID, signal)
	if errors.Is(err, guestrpc.ErrNoExec) {
		return sandbox.Errorf(sandbox.Conflict, "", "the command %s in sandbox %q has ended", info.ID, name)
	}
	if err != nil {
		return sandbox.Errorf(sandbox.Failure, "", "sandbox %q: %w", name, err)
	}
	return nil
}

// Attach takes part in a command in the background. spec.ID may be the beginning of an id; spec.Terminal is found out.
func (m *Manager) Attach(ctx context.Context, name string, spec guestrpc.AttachSpec) (*Exec, guestrpc.ExecInfo, error) {
	info, err := m.ExecInfo(ctx, name, spec.ID)
	if err != nil {
		return nil, info, err
	}
	r, err := m.running(ctx, name)
	if err != nil {
		return nil, info, err
	}
	done, err := r.b.use()
	if err != nil {
		return nil, info, err
	}
	spec.ID, spec.Terminal = info.ID, info.Terminal
	x := &Exec{m: m, b: r.b, g: r.guest, id: info.ID, began: time.Now(), machine: r.machine, watched: r.watched, attached: true}
	x.told = &execEvents{quiet: true, done: done}
	client, err := x.g.control(ctx)
	if err == nil {
		x.Exec, err = client.Attach(ctx, spec)
	}
	if err != nil {
		done()
		return nil, info, x.explain(err)
	}
	return x, info, nil
}

// WaitExec waits for the end of a command for at most timeout, and tells of it then, ended or not.
func (m *Manager) WaitExec(ctx context.Context, name, id string, timeout time.Duration) (guestrpc.ExecInfo, error) {
	x, info, err := m.Attach(ctx, name, guestrpc.AttachSpec{ID: id})
	if err != nil {
		return info, err
	}
	defer x.Close()
	patience, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stop := context.AfterFunc(patience, func() { _ = x.Close() })
	defer stop()
	for {
		ev, err := x.Recv()
		switch {
		case patience.Err() != nil:
			return info, nil
		case err != nil:
			return info, err
		}
		switch ev := ev.(type) {
		case guestrpc.Failed:
			return info, sandbox.Errorf(sandbox.Invalid, "", "%s", ev.Message)
		case guestrpc.Exited:
			return m.ExecInfo(ctx, name, info.ID) // with the time of its end
		}
	}
}

// maxWatched bounds the commands in the background whose end is waited for in one microVM: an honest guest has no more.
const maxWatched = 128

// watchDetached waits for the end of a command in the background, tells of it, and keeps the sandbox from being idle
// meanwhile.
func (m *Manager) watchDetached(b *box, g *guest, told *execEvents) {
	if !m.inBackground() {
		told.done()
		return
	}
	go func() {
		defer m.background.Done()
		saves := b.savedTimes()
		err := m.followToEnd(g, told)
		for ; err != nil && m.ctx.Err() == nil && b.savedTimes() != saves; err = m.followToEnd(g, told) {
			saves = b.savedTimes()
		}
		if m.ctx.Err() != nil {
			told.quiet = true // the command goes on without this daemon
		}
		if b.record().State == sandbox.Suspended {
			told.quiet = true // it goes on when the sandbox does
		}
		reason := "the microVM ended"
		if err != nil && b.record().State == sandbox.Running {
			reason = err.Error()
		}
		told.end(events.Event{Reason: reason}) // only the first end counts
	}()
}

func (m *Manager) followToEnd(g *guest, told *execEvents) error {
	client, err := g.control(m.ctx)
	if err != nil {
		return err
	}
	x, err := client.Attach(m.ctx, guestrpc.AttachSpec{ID: told.id})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(m.ctx, func() { _ = x.Close() })
	defer stop()
	defer x.Close()
	for {
		ev, err := x.Recv()
		if err != nil {
			return err
		}
		switch ev.(type) {
		case guestrpc.Exited, guestrpc.Failed:
			told.event(ev)
			return nil
		}
	}
}

// watchAllDetached is for a microVM that an earlier daemon started. ctx bounds how long the guest may take to tell of them.
func (m *Manager) watchAllDetached(ctx context.Context, b *box, g *guest) {
	client, err := g.control(ctx)
	if err != nil {
		return // the end of the microVM will be noticed
	}
	list, err := client.List(ctx)
	if err != nil {
		m.log.Warn("list the commands of an adopted microVM", "sandbox", b.record().Spec.Name, "err", err)
		return
	}
	rec := b.record()
	watched := 0
	for _, info := range list {
		if !info.Detached || !info.Ended.IsZero() || watched == maxWatched {
			continue
		}
		done, err := b.use()
		if err != nil {
			return
		}
		watched++
		m.watchDetached(b, g, &execEvents{m: m, rec: rec, id: info.ID, argv: events.Argv(info.Argv), began: info.Started, done: done})
	}
}
