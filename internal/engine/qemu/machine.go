package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// machine is one QEMU.
type machine struct {
	rec    sandbox.MachineRecord
	files  runtimeFiles
	log    *slog.Logger
	proc   *process.Process
	link   *link
	stages []sandbox.Stage

	console, output       *vmmlog.Recorder
	consoleLog, outputLog *vmmlog.Log

	mu         sync.Mutex
	monitor    *qmp
	shutReason string // why QEMU ended, from its events
	pausing    bool   // Pause was called, and Resume was not
	released   bool

	life     context.Context // over when the process has ended, or by Release
	endLife  context.CancelCauseFunc
	release  chan struct{} // closed by Release
	done     chan struct{}
	finished chan struct{} // closed when nothing of ours runs any more
	exit     sandbox.Exit  // valid after done
}

var (
	errEnded    = errors.New("the microVM has ended")
	errReleased = errors.New("the microVM was let go of")
)

var (
	_ sandbox.Machine = (*machine)(nil)
	_ sandbox.Pauser  = (*machine)(nil)
	_ sandbox.Stager  = (*machine)(nil)
)

// streams are our ends of what a QEMU talks to. At a launch they are connected before QEMU runs: it may end at any moment,
// and then they still hold what it said.
type streams struct {
	monitor net.Conn
	console net.Conn      // the guest's
	output  io.ReadCloser // QEMU's own stdout and stderr
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
}

// attach takes a running QEMU under control: its streams, its monitor, its end. It owns the streams; on error the process
// runs on and they are closed.
func (e *Engine) attach(proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, logs logFiles, s streams) (*machine, error) {
	token, err := parseToken(rec.LinkToken)
	if err != nil {
		s.close()
		return nil, err
	}
	m := &machine{
		rec: rec, files: runtimeFilesIn(spec.RuntimeDir), log: e.log.With("sandbox", spec.ID, "pid", rec.PID), proc: proc,
		consoleLog: logs.console, outputLog: logs.output,
		release: make(chan struct{}), done: make(chan struct{}), finished: make(chan struct{}),
	}
	m.life, m.endLife = context.WithCancelCause(context.Background())
	m.link = newLink(m.life, m.files.link, token, e.dialSession)
	m.monitor = newQMP(s.monitor, m.onEvent)
	m.console = vmmlog.Record(s.console, m.consoleLog, m.log)
	m.output = vmmlog.Record(s.output, m.outputLog, m.log)
	go m.watch()
	return m, nil
}

func (m *machine) connectMonitor(ctx context.Context) (*qmp, error) {
	conn, err := unixsock.Dial(ctx, m.files.qmp)
	if err != nil {
		return nil, fmt.Errorf("connect to the monitor: %w", err)
	}
	return newQMP(conn, m.onEvent), nil
}

// onEvent keeps what explains an end: docs/interop/qmp, SHUTDOWN and STOP.
func (m *machine) onEvent(name string, data json.RawMessage) {
	switch name {
	case "SHUTDOWN":
		var shutdown struct {
			Reason string `json:"reason"`
		}
		if json.Unmarshal(data, &shutdown) == nil {
			m.explainEnd(vmmlog.LastLines([]byte(shutdown.Reason), 1))
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
		if err := m.proc.Kill(); err != nil {
			m.log.Warn("kill a QEMU that has halted its guest", "err", err)
		}
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

// watch waits for the end of QEMU, or for Release, and then ends all that belongs to the machine.
func (m *machine) watch() {
	defer close(m.finished)
	select {
	case <-m.proc.Done():
		// All of QEMU's streams end with it: what it said last is read before they do.
		m.console.Finish()
		m.output.Finish()
		<-m.currentMonitor().done
		m.endLife(errEnded)
	case <-m.release:
		m.console.Stop()
		m.output.Stop()
		m.currentMonitor().close()
		m.proc.Release()
		m.endLife(errReleased)
	}
	m.link.close()
	select {
	case <-m.proc.Done():
		m.exit = m.describeExit()
		if err := m.files.remove(); err != nil {
			m.log.Warn("remove the VMM's sockets", "err", err)
		}
		defer close(m.done)
	default:
	}
	m.consoleLog.Close()
	m.outputLog.Close()
}

// describeExit puts together what is known about the end of QEMU.
func (m *machine) describeExit() sandbox.Exit {
	status := m.proc.Exit()
	m.mu.Lock()
	reason := m.shutReason
	m.mu.Unlock()
	var detail []string
	if p := vmmlog.KernelPanic(m.consoleLog.Tail(16 << 10)); p != "" {
		detail = append(detail, "the guest's kernel said: "+p)
	}
	if reason != "" && reason != "guest-reset" { // a reset is how a guest of ours ends itself
		detail = append(detail, "QEMU's reason is "+reason)
	}
	if said := vmmlog.LastLines(complaints(m.outputLog.Tail(4096)), 4); said != "" {
		detail = append(detail, "QEMU said: "+said)
	}
	return sandbox.Exit{Code: status.Code, Signal: status.Signal, Detail: strings.Join(detail, "; ")}
}

func (m *machine) Record() sandbox.MachineRecord { return m.rec }

func (m *machine) Stages() []sandbox.Stage { return m.stages }

func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.link.dial(ctx, port)
}

func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Exit() sandbox.Exit { return m.exit }

func (m *machine) Kill(ctx context.Context) error {
	if err := m.proc.Kill(); err != nil {
		return err
	}
	select {
	case <-m.done:
		return nil
	case <-m.release:
		return errReleased
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of QEMU: %w", context.Cause(ctx))
	}
}

func (m *machine) Release() error {
	m.mu.Lock()
	if !m.released {
		m.released = true
		close(m.release)
	}
	m.mu.Unlock()
	<-m.finished
	return nil
}

// Pause halts the vCPUs.
func (m *machine) Pause(ctx context.Context) error {
	m.setPausing(true)
	return m.execute(ctx, "stop")
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
	case <-m.proc.Done():
		return nil, errEnded
	case <-m.release:
		return nil, errReleased
	default:
	}
	q, err := m.connectMonitor(ctx)
	if err != nil {
		return nil, err
	}
	m.monitor = q
	return q, nil
}
