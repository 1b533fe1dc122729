package firecracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// machine is one Firecracker.
type machine struct {
	rec    sandbox.MachineRecord
	files  runtimeFiles
	log    *slog.Logger
	proc   *process.Process
	link   *link
	stages []sandbox.Stage

	logs            logFiles
	console, output *vmmlog.Recorder

	mu       sync.Mutex
	client   *fcapi.Client // nil until it is needed
	released bool

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

// attach takes a running Firecracker under control: its streams, its link, its end. It owns the streams and the logs; on error
// the process runs on and they are closed. That an adopted one cannot be listened to is no error: what is in the way is its own, and
// it must not keep us from ending it.
func (e *Engine) attach(proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, logs logFiles, s streams, adopted bool) (*machine, error) {
	m := &machine{
		rec: rec, files: runtimeFilesOf(spec), log: e.log.With("sandbox", spec.ID, "pid", rec.PID), proc: proc, logs: logs,
		release: make(chan struct{}), done: make(chan struct{}), finished: make(chan struct{}),
	}
	m.life, m.endLife = context.WithCancelCause(context.Background())
	var err error
	m.link, err = newLink(m.life, m.files, rec.PID)
	if err != nil && adopted {
		m.log.Warn("an adopted guest that does not listen yet cannot say when it does", "err", err)
		m.link, err = deafLink(m.life, m.files, rec.PID), nil
	}
	if err != nil {
		m.endLife(err)
		s.close()
		logs.close()
		return nil, err
	}
	m.console = vmmlog.Record(s.console, logs.console, m.log)
	m.output = vmmlog.Record(s.output, logs.output, m.log)
	go m.watch()
	return m, nil
}

// watch waits for the end of Firecracker, or for Release, and then ends all that belongs to the machine.
func (m *machine) watch() {
	defer close(m.finished)
	select {
	case <-m.proc.Done():
		// The streams end with it: what it said last is read before they do.
		m.console.Finish()
		m.output.Finish()
		m.endLife(errEnded)
	case <-m.release:
		m.console.Stop()
		m.output.Stop()
		m.proc.Release()
		m.endLife(errReleased)
	}
	m.link.close()
	m.mu.Lock()
	if m.client != nil {
		m.client.Close()
	}
	m.mu.Unlock()
	select {
	case <-m.proc.Done():
		m.exit = m.describeExit()
		if err := m.files.remove(); err != nil {
			m.log.Warn("remove the VMM's files", "err", err)
		}
		defer close(m.done)
	default:
	}
	m.logs.close()
}

// describeExit puts together what is known about the end of Firecracker.
func (m *machine) describeExit() sandbox.Exit {
	status := m.proc.Exit()
	var detail []string
	if p := vmmlog.KernelPanic(m.logs.console.Tail(16 << 10)); p != "" {
		detail = append(detail, "the guest's kernel said: "+p)
	}
	if meaning := meaningOf(status.Code); meaning != "" {
		detail = append(detail, meaning)
	}
	if said := complaints(m.logs.output.Tail(4096)); said != "" {
		detail = append(detail, "Firecracker said: "+said)
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
		return fmt.Errorf("wait for the end of Firecracker: %w", context.Cause(ctx))
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
func (m *machine) Pause(ctx context.Context) error { return m.tell(ctx, (*fcapi.Client).Pause) }

// Resume lets the vCPUs go on.
func (m *machine) Resume(ctx context.Context) error { return m.tell(ctx, (*fcapi.Client).Resume) }

// tell makes a request. The connection is closed after it: one that waits for the next request would cost memory all the
// time.
func (m *machine) tell(ctx context.Context, request func(*fcapi.Client, context.Context) error) error {
	ctx, cancel := during(m.life, ctx)
	defer cancel()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c, _, err := m.connect(ctx)
	if err == nil {
		defer c.Close()
		err = request(c, ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// connect returns a client, and at the first time, what Firecracker says of itself.
func (m *machine) connect(ctx context.Context) (*fcapi.Client, fcapi.InstanceInfo, error) {
	m.mu.Lock()
	c := m.client
	m.mu.Unlock()
	if c != nil {
		return c, fcapi.InstanceInfo{}, nil
	}
	c, info, err := fcapi.Connect(ctx, m.dialAPI)
	if err != nil {
		return nil, info, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.client = c
	return c, info, nil
}

// Between the appearance of a socket's file and its first connection passes the time from bind(2) to listen(2), and no event
// tells of its end.
const (
	firstListenPause = 50 * time.Microsecond
	lastListenPause  = 20 * time.Millisecond
)

func (m *machine) dialAPI(ctx context.Context) (net.Conn, error) {
	for pause := firstListenPause; ; pause = min(2*pause, lastListenPause) {
		conn, err := dialVMM(ctx, m.files.api, m.rec.PID)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}
