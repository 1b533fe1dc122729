package firecracker

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// machine is one Firecracker.
type machine struct {
	*vmm.VMM
	files runtimeFiles
	link  *link

	restored []sandbox.GuestDisk // when Launch restored it
	saving   chan struct{}       // has room while no state is being saved
	reset    atomic.Bool         // halted by Firecracker itself, it was told that its connections have ended

	mu     sync.Mutex
	client *fcapi.Client // nil until it is needed
}

var (
	_ sandbox.Machine = (*machine)(nil)
	_ sandbox.Saver   = (*machine)(nil)
	_ sandbox.Placer  = (*machine)(nil)
	_ sandbox.Stager  = (*machine)(nil)
)

// attach takes a running Firecracker under control: its streams, its link, its end. It owns the streams and the logs; on error
// the process runs on and they are closed. That an adopted one cannot be listened to is no error: what is in the way is its own, and
// it must not keep us from ending it.
func (e *Engine) attach(proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, logs vmmlog.Logs, s streams, adopted bool) (*machine, error) {
	m := &machine{
		VMM:   vmm.Take(name, proc, rec, logs, e.log.With("sandbox", spec.ID, "pid", rec.PID)),
		files: runtimeFilesOf(spec), saving: make(chan struct{}, 1),
	}
	var err error
	if spec.From != nil && !adopted {
		m.link = deafLink(m.Life(), m.files, rec.PID) // its guest has knocked before it was saved
	} else {
		m.link, err = newLink(m.Life(), m.files, rec.PID)
	}
	if err != nil && adopted {
		m.Log.Warn("an adopted guest that does not listen yet cannot say when it does", "err", err)
		m.link, err = deafLink(m.Life(), m.files, rec.PID), nil
	}
	if err != nil {
		m.Drop(err)
		s.close()
		logs.Close()
		return nil, err
	}
	m.Watch(s.console, s.output, vmm.Hooks{Close: m.close, Explain: m.explain, Remove: m.files.remove})
	return m, nil
}

func (m *machine) close() {
	m.link.close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client != nil {
		m.client.Close()
	}
}

// explain puts together what is known about the end of Firecracker.
func (m *machine) explain(status process.Status) sandbox.Exit {
	var detail []string
	if p := vmmlog.KernelPanic(m.Logs.Console.Tail(16 << 10)); p != "" {
		detail = append(detail, "the guest's kernel said: "+p)
	}
	if meaning := meaningOf(status.Code); meaning != "" {
		detail = append(detail, meaning)
	}
	if said := complaints(m.Logs.Output.Tail(4096)); said != "" {
		detail = append(detail, "Firecracker said: "+said)
	}
	return sandbox.Exit{Code: status.Code, Signal: status.Signal, Detail: strings.Join(detail, "; ")}
}

func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.link.dial(ctx, port)
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
		conn, err := dialVMM(ctx, m.files.api, m.Rec.PID)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
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
