// Package hostile has guests that lie, flood, stall and break the protocol, and looks at what the daemon makes of it: HTTP
// client, API, manager and guest protocol are the real ones, and only the microVMs are not.
package hostile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"go.uber.org/goleak"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/hangup"
	"github.com/agentkernel/agentkernel/internal/httpapi"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
	"github.com/agentkernel/agentkernel/internal/store"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
	"github.com/agentkernel/agentkernel/internal/unixsock"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("panic") // the guests' RPC library
	goleak.VerifyTestMain(m)
}

// patience is how long anything may take that ends by itself.
const patience = time.Minute

// machine is a microVM that is nothing but its guest agent.
type machine struct {
	g    *guest
	done chan struct{}
	once sync.Once

	mu    sync.Mutex
	conns []net.Conn
	wait  sync.WaitGroup
}

func (m *machine) Dial(_ context.Context, port uint32) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		return nil, errors.New("the VMM is gone")
	default:
	}
	host, guest, err := pair()
	if err != nil {
		return nil, err
	}
	m.conns = append(m.conns, guest)
	m.wait.Go(func() { m.g.serve(guest, port) })
	return host, nil
}

func (m *machine) Record() sandbox.MachineRecord {
	return sandbox.MachineRecord{Engine: "fake", PID: 1 << 30, BootID: "boot", LinkToken: "00"}
}

func (m *machine) Kill(context.Context) error {
	m.once.Do(func() {
		m.mu.Lock()
		close(m.done)
		for _, c := range m.conns {
			_ = c.Close()
		}
		m.mu.Unlock()
	})
	return nil
}

func (m *machine) Done() <-chan struct{} { return m.done }
func (m *machine) Exit() sandbox.Exit    { return sandbox.Exit{Signal: "killed"} }
func (m *machine) Release() error        { return m.Kill(context.Background()) }

// engine launches the guest that has the sandbox's number of CPUs as its own number.
type engine struct {
	guests   []*guest
	mu       sync.Mutex
	machines []*machine
}

func (*engine) Name() string { return "fake" }
func (*engine) Capabilities(context.Context) sandbox.Capabilities {
	return sandbox.Capabilities{Usable: true}
}

func (e *engine) Launch(_ context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	m := &machine{g: e.guests[spec.VCPUs-1], done: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.machines = append(e.machines, m)
	return m, nil
}

func (*engine) Adopt(context.Context, sandbox.MachineSpec, sandbox.MachineRecord) (sandbox.Machine, error) {
	return nil, sandbox.ErrGone
}
func (*engine) Sweep(context.Context, sandbox.MachineSpec) error { return nil }

// daemon is all of a daemon but the process.
type daemon struct {
	*client.Client
	socket   string
	requests sync.WaitGroup // that are being handled
	logged   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newDaemon has the sandboxes "evil", with this guest, and "honest". The honest one runs.
func newDaemon(t *testing.T, evil *guest, ports ...apiv1.Port) *daemon {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "sandboxes"))
	check(t, err, os.Mkdir(filepath.Join(dir, "run"), 0o700))
	volumes, err := store.OpenVolumes(filepath.Join(dir, "volumes"))
	check(t, err)
	snapshots, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	check(t, err)
	d := &daemon{socket: filepath.Join(dir, "s"), logged: new(lockedBuffer)}
	logger := slog.New(slog.NewTextHandler(d.logged, nil))
	e := &engine{guests: []*guest{{}, evil}}
	m := manager.New(manager.Deps{
		Log: logger, Store: s, Volumes: volumes, Snapshots: snapshots, Engine: e, RuntimeDir: filepath.Join(dir, "run"),
		Host: sandbox.Host{MemoryMiB: 1024}, HostArch: sandbox.X8664,
		HoldImages: func(context.Context) (func(), error) { return func() {}, nil },
		ResolveImage: func(_ context.Context, ref string, arch sandbox.Arch) (sandbox.Image, error) {
			return sandbox.Image{Name: ref, Digest: "sha256:0", FS: "erofs", Arch: arch}, nil
		},
		OpenImage: func(context.Context, string) (sandbox.Image, error) { return sandbox.Image{}, nil },
		Kernel:    func(sandbox.Arch) (sandbox.KernelImage, error) { return sandbox.KernelImage{Version: "6.1"}, nil },
		Initrd:    func(context.Context, sandbox.Arch) (string, error) { return "", nil },
		CreateUpper: func(_ context.Context, path string, sizeMiB int) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, int64(sizeMiB)<<20+bulk.Size))
		},
		CreateVolume: func(_ context.Context, path string, _ int) error { return os.WriteFile(path, nil, 0o600) },
	})
	check(t, m.Reconcile(t.Context()))
	inner, err := unixsock.Listen(d.socket)
	check(t, err)
	l, err := hangup.Listen(inner)
	check(t, err)
	api := httpapi.New(httpapi.Options{Log: logger, Manager: m, Version: "test", Stop: func() { t.Error("a guest stopped the daemon") }})
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.requests.Add(1)
			defer d.requests.Done()
			api.ServeHTTP(w, r)
		}),
		ConnContext: hangup.Context, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	d.Client = client.New(d.socket)
	t.Cleanup(func() {
		d.Client.Close()
		_ = server.Close()
		<-served
		m.Close()
		for _, vm := range e.machines {
			_ = vm.Kill(context.Background())
			vm.wait.Wait()
		}
	})
	for i, name := range []string{"honest", "evil"} {
		cpus, size := i+1, 128
		req := client.CreateRequest{Name: name, Vcpus: &cpus, MemoryMib: &size}
		if name == "evil" && len(ports) > 0 {
			req.Publish = &ports
		}
		_, err := d.Create(t.Context(), req)
		check(t, err)
	}
	_, err = d.Start(t.Context(), "honest", client.StartOptions{})
	check(t, err)
	return d
}

// served checks that the honest sandbox is served.
func (d *daemon) served(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	exit, err := d.Exec(ctx, "honest", client.ExecStart{Argv: []string{"greet"}}, client.ExecIO{Stdout: &out})
	if err != nil || exit.Code != 0 || out.String() != "hello" {
		t.Errorf("a command in the honest sandbox: %+v, %q, %v", exit, out.String(), err)
	}
	if info, err := d.StatFile(ctx, "honest", "/", false); err != nil || info.Type != apiv1.Directory {
		t.Errorf("a file of the honest sandbox: %+v, %v", info, err)
	}
	if _, err := d.Client.List(ctx); err != nil {
		t.Error(err)
	}
}

// handled waits for the end of all requests: clients are gone, and so shall they be.
func (d *daemon) handled(t *testing.T) {
	t.Helper()
	d.Client.Close()
	done := make(chan struct{})
	go func() { defer close(done); d.requests.Wait() }()
	select {
	case <-done:
	case <-time.After(patience):
		stacks := make([]byte, 1<<20)
		t.Fatalf("requests go on without their clients:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// heap is what this process holds, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
