package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// machine is one QEMU.
type machine struct {
	*vmm.VMM
	files runtimeFiles
	link  *link
	arch  sandbox.Arch
	cpu   func() (string, error) // what a host must be alike in that restores it

	disks     []restoredDisk // of one that Launch has restored
	migration migration
	saving    chan struct{} // holds one token: the right to save

	mu         sync.Mutex
	monitor    *qmp
	shutReason string // why QEMU ended, from its events
	pausing    bool   // Pause was called, and Resume was not
	reset      bool   // the guest has reset itself, and QEMU was killed for that
}

var (
	_ sandbox.Machine = (*machine)(nil)
	_ sandbox.Saver   = (*machine)(nil)
	_ sandbox.Placer  = (*machine)(nil)
	_ sandbox.Linked  = (*machine)(nil)
	_ sandbox.Stager  = (*machine)(nil)
)

// streams are our ends of what a QEMU talks to. At a launch they are connected before QEMU runs: it may end at any moment,
// and then they still hold what it said.
type streams struct {
	monitor net.Conn
	console net.Conn      // the guest's
	output  io.ReadCloser // QEMU's own stdout and stderr
	link    net.Conn      // of a guest that is restored; else nil
	begun   bool          // the guest has begun a session on link
}

// connect connects the sockets.
func (s *streams) connect(ctx context.Context, f runtimeFiles) (err error) {
	if s.monitor, err = unixsock.Dial(ctx, f.qmp); err != nil {
		return fmt.Errorf("connect to the monitor: %w", err)
	}
	if s.console, err = unixsock.Dial(ctx, f.console); err != nil {
		return fmt.Errorf("connect to the console: %w", err)
	}
	return nil
}

func (s *streams) close() {
	if s.monitor != nil {
		s.monitor.Close()
	}
	if s.console != nil {
		s.console.Close()
	}
	if s.output != nil {
		s.output.Close()
	}
	if s.link != nil {
		s.link.Close()
	}
}

// attach takes a running QEMU under control: its streams, its monitor, its end. It owns the streams; on error the process
// runs on and they are closed.
func (e *Engine) attach(proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, logs vmmlog.Logs, s streams) (*machine, error) {
	token, err := parseToken(rec.LinkToken)
	if err != nil {
		s.close()
		return nil, err
	}
	m := &machine{
		VMM:   vmm.Take(name, proc, rec, logs, e.log.With("sandbox", spec.ID, "pid", rec.PID)),
		files: runtimeFilesIn(spec.RuntimeDir),
		arch:  spec.Arch,
		cpu:   func() (string, error) { return e.cpu(spec.Arch, rec.Accelerator) },

		migration: newMigration(), saving: make(chan struct{}, 1),
	}
	m.saving <- struct{}{}
	m.link = newLink(m.Life(), m.files.link, token, e.dialSession, s.link)
	m.link.begun = s.begun
	m.monitor = newQMP(s.monitor, m.onEvent)
	m.Watch(s.console, s.output, vmm.Hooks{Settle: m.settle, Close: m.link.close, Explain: m.explain, Remove: m.files.remove})
	return m, nil
}

// settle ends the monitor: what QEMU said there last is read before.
func (m *machine) settle(ended bool) {
	if ended {
		<-m.currentMonitor().done
	} else {
		m.currentMonitor().close()
	}
}

func (m *machine) connectMonitor(ctx context.Context) (*qmp, error) {
	conn, err := unixsock.Dial(ctx, m.files.qmp)
	if err != nil {
		return nil, fmt.Errorf("connect to the monitor: %w", err)
	}
	return newQMP(conn, m.onEvent), nil
}

// onEvent keeps what explains an end (docs/interop/qmp: SHUTDOWN and STOP), and follows migrations.
func (m *machine) onEvent(name string, data json.RawMessage) {
	switch name {
	case "MIGRATION":
		m.migration.onEvent(data)
	case "SHUTDOWN":
		var shutdown struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(data, &shutdown) == nil {
			m.explainEnd(vmmlog.LastLines([]byte(shutdown.Reason), 1))
		}
		if shutdown.Reason == guestReset {
			m.endReset()
		}
	case "STOP":
		m.mu.Lock()
		asked := m.pausing || m.shutReason != "" // a QEMU that ends may halt its guest first
		m.mu.Unlock()
		if asked {
			return
		}
		// QEMU halts a guest that it cannot run any further, for one when KVM fails, and then waits for somebody to look
		// at it. Nobody will, and whoever waits for the guest would wait for ever.
		m.explainEnd("that the guest cannot go on; vmm.log may say more")
		if err := m.Proc.Kill(); err != nil {
			m.Log.Warn("kill a QEMU that has halted its guest", "err", err)
		}
	}
}

// guestReset is QEMU's word for how a guest of ours ends itself.
const guestReset = "guest-reset"

// endReset ends a QEMU whose guest has ended itself. It would end by itself, after it has cleared up for as long as it took to start. What
// the guest was told to be written is in the host's page cache, and what QEMU and guest have said in their pipes.
func (m *machine) endReset() {
	m.mu.Lock()
	m.reset = true
	m.mu.Unlock()
	if err := m.Proc.Kill(); err != nil {
		m.Log.Warn("kill a QEMU whose guest has ended", "err", err)
	}
}

// explainEnd keeps the first reason for an end.
func (m *machine) explainEnd(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shutReason == "" {
		m.shutReason = reason
	}
}

// explain puts together what is known about the end of QEMU.
func (m *machine) explain(status process.Status) sandbox.Exit {
	m.mu.Lock()
	reason := m.shutReason
	if m.reset {
		status = process.Status{} // as if it had been quick
	}
	m.mu.Unlock()
	var detail []string
	if p := vmmlog.KernelPanic(m.Logs.Console.Tail(16 << 10)); p != "" {
		detail = append(detail, "the guest's kernel said: "+p)
	}
	if reason != "" && reason != guestReset {
		detail = append(detail, "QEMU's reason is "+reason)
	}
	if said := vmmlog.LastLines(complaints(m.Logs.Output.Tail(4096)), 4); said != "" {
		detail = append(detail, "QEMU said: "+said)
	}
	return sandbox.Exit{Code: status.Code, Signal: status.Signal, Detail: strings.Join(detail, "; ")}
}

// RenewLink begins a session with the guest that nobody has used, which who restores what is saved next takes up.
func (m *machine) RenewLink(ctx context.Context) error {
	if err := m.link.renew(ctx); err != nil {
		return fmt.Errorf("begin another session with the guest: %w", err)
	}
	return nil
}

func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.link.dial(ctx, port)
}

// Pause halts the vCPUs.
func (m *machine) Pause(ctx context.Context) error {
	m.setPausing(true)
	return m.execute(ctx, "stop")
}

// Paused asks whether the vCPUs are halted.
func (m *machine) Paused(ctx context.Context) (bool, error) {
	q, err := m.liveMonitor(ctx)
	if err != nil {
		return false, err
	}
	var now status
	if err := q.execute(ctx, "query-status", &now); err != nil {
		return false, fmt.Errorf("ask QEMU whether its guest runs: %w", err)
	}
	if !now.Running {
		m.setPausing(true) // it may have been an earlier process of ours that halted them
	}
	return !now.Running, nil
}

// Resume lets the vCPUs go on.
func (m *machine) Resume(ctx context.Context) error {
	if err := m.execute(ctx, "cont"); err != nil {
		return err
	}
	m.setPausing(false)
	return nil
}

func (m *machine) setPausing(pausing bool) {
	m.mu.Lock()
	m.pausing = pausing
	m.mu.Unlock()
}

func (m *machine) currentMonitor() *qmp {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.monitor
}

// execute runs a command of QMP. A connection that broke while QEMU lives is replaced.
func (m *machine) execute(ctx context.Context, command string) error {
	q, err := m.liveMonitor(ctx)
	if err == nil {
		err = q.execute(ctx, command, nil)
	}
	if err != nil {
		return fmt.Errorf("tell QEMU to %s: %w", command, err)
	}
	return nil
}

func (m *machine) liveMonitor(ctx context.Context) (*qmp, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.monitor.done:
	default:
		return m.monitor, nil
	}
	select {
	case <-m.Proc.Done():
		return nil, vmm.ErrEnded
	default:
	}
	if err := context.Cause(m.Life()); err != nil {
		return nil, err
	}
	q, err := m.connectMonitor(ctx)
	if err != nil {
		return nil, err
	}
	m.monitor = q
	return q, nil
}
