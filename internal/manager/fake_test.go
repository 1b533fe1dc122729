package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/guest/forward"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
	"github.com/agentkernel/agentkernel/internal/store"
)

// fakeEngine keeps its VMMs in memory; like real ones they outlive the manager.
type fakeEngine struct {
	mu        sync.Mutex
	vmms      map[string]*fakeVMM // by sandbox id
	launches  int
	templates int // microVMs that were booted to be one
	// fails, when set, says what goes wrong: at a step of a machine or of the engine.
	fails func(step string) error
	// onLaunch, when set, decides about each launch.
	onLaunch func(*fakeVMM) error
}

// fakeVMM is a process that serves the guest protocol.
type fakeVMM struct {
	agent
	rec     sandbox.MachineRecord
	ctx     context.Context
	kill    context.CancelCauseFunc
	noPause bool // vCPUs cannot be halted
	mute    bool // the guest agent never answers
	memory  string

	mu    sync.Mutex
	conns []net.Conn // which end when it is saved, as an engine's may
}

func (e *fakeEngine) step(name string) error {
	if e.fails == nil {
		return nil
	}
	return e.fails(name)
}

// vcpus can be halted.
type vcpus struct {
	mu    sync.Mutex
	going chan struct{} // closed unless they are halted; nil is closed
}

func (c *vcpus) halt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.halted() {
		c.going = make(chan struct{})
	}
}

func (c *vcpus) goOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.halted() {
		close(c.going)
		c.going = nil
	}
}

func (c *vcpus) halted() bool { return c.going != nil }

// wait waits until they go on, or for end.
func (c *vcpus) wait(end <-chan struct{}) {
	c.mu.Lock()
	going := c.going
	c.mu.Unlock()
	if going == nil {
		return
	}
	select {
	case <-going:
	case <-end:
	}
}

var errKilled, errShutDown = errors.New("killed"), errors.New("shut down")

type agent struct {
	guestv1.AgentService
	cpu      vcpus
	gone     <-chan struct{}
	shutdown func()
	asked    atomic.Bool // to shut down
	frozen   atomic.Bool
	template atomic.Bool  // it waits for disks
	resumed  atomic.Int32 // the kind, when it was last resumed
	step     func(string) error
	stuck    bool // a shutdown is agreed to and does not happen
}

func (a *agent) Hello(_ context.Context, req *guestv1.HelloRequest) (*guestv1.HelloResponse, error) {
	awaits := map[bool]guestv1.HelloResponse_Awaits{true: guestv1.HelloResponse_THAW}[a.frozen.Load()]
	if a.template.Load() {
		awaits = guestv1.HelloResponse_DISKS
	}
	return &guestv1.HelloResponse{Protocol: 1, AgentBuild: "fake", KernelRelease: "6.1.0-agentkernel", Arch: "x86_64", InitNs: 1e6, ReadyNs: 2e6,
		Clock: &guestv1.Clock{UnixNano: req.GetUnixNano()}, Capabilities: []string{guestrpc.CloneCapability}, Awaits: awaits}, nil
}

func (a *agent) List(context.Context, *guestv1.ListRequest) (*guestv1.ListResponse, error) {
	return &guestv1.ListResponse{}, nil
}

func (a *agent) Shutdown(context.Context, *guestv1.ShutdownRequest) (*guestv1.ShutdownResponse, error) {
	a.cpu.wait(a.gone)
	a.asked.Store(true)
	if !a.stuck {
		defer time.AfterFunc(0, a.shutdown)
	}
	return &guestv1.ShutdownResponse{}, nil
}

func (a *agent) Prepare(context.Context, *guestv1.PrepareRequest) (*guestv1.PrepareResponse, error) {
	a.cpu.wait(a.gone)
	if err := a.step("freeze"); err != nil {
		return nil, err
	}
	a.frozen.Store(true)
	return &guestv1.PrepareResponse{}, nil
}

func (a *agent) Resume(_ context.Context, req *guestv1.ResumeRequest) (*guestv1.ResumeResponse, error) {
	a.cpu.wait(a.gone)
	step := "thaw"
	if req.GetKind() == guestv1.ResumeRequest_TEMPLATE {
		step = "disks"
	}
	if err := a.step(step); err != nil {
		return nil, err
	}
	a.resumed.Store(int32(req.GetKind()))
	a.frozen.Store(false)
	if req.GetKind() == guestv1.ResumeRequest_TEMPLATE && len(req.GetDisks()) > 0 {
		a.template.Store(false)
	}
	return &guestv1.ResumeResponse{Clock: &guestv1.Clock{UnixNano: req.GetUnixNano()}}, nil
}

// Exec ends at once.
func (a *agent) Exec(_ context.Context, s guestv1.Agent_ExecServer) error {
	for _, r := range []*guestv1.ExecResponse{
		{Msg: &guestv1.ExecResponse_Started{Started: &guestv1.ExecStarted{Pid: 9}}}, {Msg: &guestv1.ExecResponse_Exited{Exited: &guestv1.ExecExited{}}},
	} {
		if err := s.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// memoryFile is all that a fake has in a saved state.
const memoryFile = "memory"

// templateMemory is the memory of a guest that waits for disks.
const templateMemory = "template"

func (m *fakeMachine) Save(_ context.Context, dir string) (s sandbox.SavedState, err error) {
	if !m.v.cpu.halted() {
		return s, errors.New("it is not halted")
	}
	if !m.v.frozen.Load() && !m.v.template.Load() {
		return s, errors.New("its commands are not frozen")
	}
	err = m.v.step("save")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, memoryFile), []byte(m.v.memory), 0o600)
		m.v.mu.Lock()
		defer m.v.mu.Unlock()
		for _, conn := range m.v.conns {
			conn.Close()
		}
	}
	if err == nil && m.v.template.Load() {
		err = os.WriteFile(filepath.Join(dir, memoryFile), []byte(templateMemory), 0o600)
	}
	return sandbox.SavedState{Dir: dir, Engine: "fake", Files: []string{memoryFile}}, err
}

func (e *fakeEngine) Finish(_ context.Context, _ sandbox.MachineSpec, s sandbox.SavedState) (sandbox.SavedState, error) {
	return s, e.step("finish")
}

func (e *fakeEngine) Restorable(context.Context, sandbox.SavedState) error {
	return e.step("restorable")
}

func (e *fakeEngine) Name() string { return "fake" }
func (e *fakeEngine) Capabilities(context.Context) sandbox.Capabilities {
	return sandbox.Capabilities{Usable: true}
}

func (e *fakeEngine) Launch(_ context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.launches++
	v := &fakeVMM{rec: sandbox.MachineRecord{Engine: "fake", PID: 1000 + e.launches, StartTime: 1, BootID: "boot"}}
	v.ctx, v.kill = context.WithCancelCause(context.Background())
	v.shutdown, v.gone = func() { v.kill(errShutDown) }, v.ctx.Done()
	v.step = e.step
	if spec.From != nil {
		memory, err := os.ReadFile(filepath.Join(spec.From.Dir, memoryFile))
		if err != nil {
			return nil, err
		}
		v.memory = string(memory)
		v.template.Store(v.memory == templateMemory)
		v.frozen.Store(!v.template.Load())
	}
	if spec.Template {
		e.templates++
		v.template.Store(true)
	}
	if err := e.step("launch"); err != nil {
		return nil, err
	}
	if e.onLaunch != nil {
		if err := e.onLaunch(v); err != nil {
			return nil, err
		}
	}
	e.vmms[spec.ID] = v
	return &fakeMachine{v: v, spec: spec}, nil
}

func (e *fakeEngine) Adopt(_ context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vmms[spec.ID]
	if v == nil || v.ctx.Err() != nil || !reflect.DeepEqual(v.rec, rec) {
		return nil, sandbox.ErrGone
	}
	return &fakeMachine{v: v, spec: spec}, nil
}

func (e *fakeEngine) Sweep(_ context.Context, spec sandbox.MachineSpec) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.vmms[spec.ID]; v != nil {
		v.kill(errKilled)
	}
	return nil
}

// running is the number of VMMs that have not ended.
func (e *fakeEngine) running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, v := range e.vmms {
		if v.ctx.Err() == nil {
			n++
		}
	}
	return n
}

type fakeMachine struct {
	v    *fakeVMM
	spec sandbox.MachineSpec
}

func (m *fakeMachine) Record() sandbox.MachineRecord { return m.v.rec }

func (m *fakeMachine) GuestDisks() (list []sandbox.GuestDisk) {
	for _, d := range m.spec.Disks {
		list = append(list, sandbox.GuestDisk{Disk: d})
	}
	return list
}

func (m *fakeMachine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if m.v.mute {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.v.ctx.Done():
			return nil, errors.New("the VMM is gone")
		}
	}
	m.v.cpu.wait(ctx.Done())
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	host, guest := net.Pipe()
	m.v.mu.Lock()
	m.v.conns = append(m.v.conns, host)
	m.v.mu.Unlock()
	l := &oneConn{conn: guest, done: make(chan struct{})}
	if port == sandbox.GuestStreamPort {
		go func() { _ = stream.Handlers{"forward": forward.Handle}.Serve(m.v.ctx, l) }()
		context.AfterFunc(m.v.ctx, func() { host.Close(); guest.Close(); l.Close() })
		return host, nil
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	guestv1.RegisterAgentService(server, &m.v.agent)
	guestv1.RegisterCloneService(server, &m.v.agent)
	go func() { _ = server.Serve(m.v.ctx, l) }()
	context.AfterFunc(m.v.ctx, func() { host.Close(); guest.Close(); server.Close() })
	return host, nil
}

func (m *fakeMachine) Pause(context.Context) error {
	if m.v.noPause {
		return errors.New("it cannot")
	}
	if err := m.v.step("halt"); err != nil {
		return err
	}
	m.v.cpu.halt()
	return nil
}
func (m *fakeMachine) Resume(context.Context) error { m.v.cpu.goOn(); return nil }
func (m *fakeMachine) Paused(context.Context) (bool, error) {
	m.v.cpu.mu.Lock()
	defer m.v.cpu.mu.Unlock()
	return m.v.cpu.halted(), nil
}

func (m *fakeMachine) Kill(context.Context) error { m.v.kill(errKilled); return nil }
func (m *fakeMachine) Done() <-chan struct{}      { return m.v.ctx.Done() }
func (m *fakeMachine) Release() error             { return nil }
func (m *fakeMachine) Exit() sandbox.Exit {
	return sandbox.Exit{Code: -1, Signal: fmt.Sprint(context.Cause(m.v.ctx))}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
	end  sync.Once
	done chan struct{}
}

func (l *oneConn) Accept() (c net.Conn, err error) {
	l.once.Do(func() { c = l.conn })
	if c == nil {
		<-l.done
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *oneConn) Close() error   { l.end.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// host is what outlives managers: directories and VMMs.
type host struct {
	t      *testing.T
	dir    string
	engine *fakeEngine
	wire   func(*Deps) // when set, changes what managers get
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), engine: &fakeEngine{vmms: map[string]*fakeVMM{}}}
	if err := os.Mkdir(filepath.Join(h.dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, v := range h.engine.vmms {
			v.kill(errKilled)
		}
	})
	return h
}

// boot is a manager as a new daemon makes it.
func (h *host) boot() *Manager {
	h.t.Helper()
	s, err := store.Open(filepath.Join(h.dir, "sandboxes"))
	if err != nil {
		h.t.Fatal(err)
	}
	volumes, err := store.OpenVolumes(filepath.Join(h.dir, "volumes"))
	if err != nil {
		h.t.Fatal(err)
	}
	snapshots, err := snapshot.Open(filepath.Join(h.dir, "snapshots"))
	if err != nil {
		h.t.Fatal(err)
	}
	d := Deps{
		Log: slog.New(slog.DiscardHandler), Store: s, Volumes: volumes, Snapshots: snapshots, Engine: h.engine, RuntimeDir: filepath.Join(h.dir, "run"),
		Host: sandbox.Host{MemoryMiB: 1024}, HostArch: sandbox.X8664,
		HoldImages: func(context.Context) (func(), error) { return func() {}, nil },
		ResolveImage: func(_ context.Context, ref string, arch sandbox.Arch) (sandbox.Image, error) {
			return sandbox.Image{Name: ref, Digest: "sha256:0", FS: "erofs", Arch: arch}, nil
		},
		OpenImage:    func(context.Context, string) (sandbox.Image, error) { return sandbox.Image{}, nil },
		Kernel:       func(sandbox.Arch) (sandbox.KernelImage, error) { return sandbox.KernelImage{Version: "6.1"}, nil },
		Initrd:       func(context.Context, sandbox.Arch) (string, error) { return "", nil },
		CreateUpper:  func(_ context.Context, path string, _ int) error { return os.WriteFile(path, nil, 0o600) },
		CreateVolume: func(_ context.Context, path string, _ int) error { return os.WriteFile(path, nil, 0o600) },
		DiskUsed:     func(string) (int64, error) { return 4096, nil },
		CopyDisk:     func(ctx context.Context, dst, src string) error { return disk.Copy(ctx, dst, src, 0o600) },
		NeedsRecovery: func(path string) (bool, error) {
			content, err := os.ReadFile(path)
			return string(content) == "dirty", err
		},
	}
	if h.wire != nil {
		h.wire(&d)
	}
	m := New(d)
	if err := m.Reconcile(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(m.Close)
	return m
}

func spec(name string) sandbox.Spec {
	return sandbox.Spec{Name: name, Image: "base", VCPUs: 1, MemoryMiB: 128, DiskMiB: 64}
}

func (h *host) create(m *Manager, name string) sandbox.Record {
	h.t.Helper()
	rec, err := m.Create(context.Background(), spec(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

func (h *host) start(m *Manager, name string) sandbox.Record {
	h.t.Helper()
	rec, err := m.Start(context.Background(), name, StartOptions{Timeout: time.Minute})
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

func (h *host) expect(m *Manager, name string, want sandbox.State) {
	h.t.Helper()
	rec, err := m.Get(name)
	if err != nil || rec.State != want {
		h.t.Errorf("%s is %s, %v; want %s", name, rec.State, err, want)
	}
}
