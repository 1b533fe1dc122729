package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker"
	"github.com/agentkernel/agentkernel/internal/engine/qemu"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/initramfs"
	"github.com/agentkernel/agentkernel/internal/kernel"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// engineHost is an engine without a daemon, with what its microVMs need.
type engineHost struct {
	t      *testing.T
	engine interface {
		sandbox.Engine
		sandbox.Restorer
	}
	arch         sandbox.Arch
	kernel       sandbox.KernelImage
	image, agent string
	fs           string
	vms          int
}

func newEngineHost(t *testing.T) *engineHost {
	t.Helper()
	b := &engineHost{t: t}
	log, cache := slog.New(slog.DiscardHandler), t.TempDir()
	switch *engineAsked {
	case "firecracker":
		b.engine = firecracker.New(firecracker.Options{Log: log, KVMCache: filepath.Join(cache, "kvm.json")})
	case "", "qemu":
		b.engine = qemu.New(qemu.Options{Log: log, CacheDir: cache})
	}
	if c := b.engine.Capabilities(t.Context()); !c.Usable {
		t.Skip(c.Reason)
	}
	host, err := kernel.HostArch()
	if err != nil {
		t.Fatal(err)
	}
	arch := sandbox.Arch(host)
	b.arch = arch
	kernels, err := kernel.OpenStore(filepath.Join(hostData, "kernels"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernels.Latest(host)
	if err != nil {
		t.Fatal(err)
	}
	b.kernel = sandbox.KernelImage{Path: k.VmlinuxPath(), Version: k.Release(), LAPICTimer: k.LAPICTimerKHz}
	img, err := image.Open(filepath.Join(hostData, "images")).Resolve(t.Context(), sandbox.DefaultImage, arch)
	if err != nil {
		t.Fatal(err)
	}
	b.image, b.fs = img.Path, img.FS
	if b.agent, err = initramfs.Path(t.Context(), cache, arch); err != nil {
		t.Fatal(err)
	}
	return b
}

// savedVM is a microVM and the control connection to its guest.
type savedVM struct {
	*engineHost
	spec    sandbox.MachineSpec
	machine sandbox.Machine
	client  *guestrpc.Client
}

// spec is of a new microVM, which may go on from a state.
func (b *engineHost) spec(from *sandbox.SavedState, disks ...sandbox.Disk) sandbox.MachineSpec {
	b.t.Helper()
	b.vms++
	dir := b.t.TempDir()
	s := sandbox.MachineSpec{
		ID: strings.Repeat("0", 15) + string(rune('a'+b.vms)), Arch: b.arch, VCPUs: 1, MemoryMiB: 128, VsockCID: uint32(70 + b.vms), Kernel: b.kernel, Initrd: b.agent,
		Disks: append([]sandbox.Disk{{Role: sandbox.RootLower, Path: b.image, FS: b.fs, ReadOnly: true}}, disks...), From: from,
		RuntimeDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log"),
	}
	for _, d := range []string{s.RuntimeDir, s.LogDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			b.t.Fatal(err)
		}
	}
	return s
}

func (b *engineHost) launch(what string, spec sandbox.MachineSpec) *savedVM {
	b.t.Helper()
	v := &savedVM{engineHost: b, spec: spec}
	begin := time.Now()
	var err error
	if v.machine, err = b.engine.Launch(b.t.Context(), spec); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	b.t.Cleanup(func() {
		if v.client != nil {
			v.client.Close()
		}
		if err := v.machine.Kill(context.Background()); err != nil {
			b.t.Error(err)
		}
		if entries, err := os.ReadDir(spec.RuntimeDir); err != nil || len(entries) > 0 {
			b.t.Errorf("%s left %v, %v", what, entries, err)
		}
	})
	launched := time.Since(begin)
	v.connect()
	b.t.Logf("%s: launched in %v %v, answers after %v", what, launched.Round(time.Millisecond), v.machine.(sandbox.Stager).Stages(), time.Since(begin).Round(time.Millisecond))
	return v
}

// connect connects to the guest, anew when it was before.
func (v *savedVM) connect() {
	v.t.Helper()
	if v.client != nil {
		v.client.Close()
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	var err error
	if v.client, err = guestrpc.Connect(ctx, func(ctx context.Context) (guestrpc.Conn, error) {
		return v.machine.Dial(ctx, sandbox.GuestAgentPort)
	}, guestrpc.Identity{Hostname: "h" + v.spec.ID, MachineID: sandbox.MachineID(v.spec.ID)}); err != nil {
		v.t.Fatal(err)
	}
}

// sh runs a command to its end and returns what it printed.
func (v *savedVM) sh(script string) string {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	x, err := v.client.Exec(ctx, guestrpc.ExecSpec{ID: "x", Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		v.t.Fatalf("%s: %v", script, err)
	}
	defer x.Close()
	defer context.AfterFunc(ctx, func() { x.Close() })()
	var out bytes.Buffer
	for {
		event, err := x.Recv()
		if errors.Is(err, io.EOF) {
			return strings.TrimSpace(out.String())
		}
		if err != nil {
			v.t.Fatalf("%s: %v, after %q", script, err, out.String())
		}
		switch e := event.(type) {
		case guestrpc.Stdout:
			out.Write(e)
		case guestrpc.Stderr:
			out.Write(e)
		case guestrpc.Failed:
			v.t.Fatalf("%s: %+v", script, e)
		case guestrpc.Exited:
			if e.Code != 0 {
				v.t.Errorf("%s: exit code %d, %q", script, e.Code, out.String())
			}
		}
	}
}

// save saves it, paused, and brings the state into its final form. while runs when it is saved and before that.
func (v *savedVM) save(while func()) sandbox.SavedState {
	v.t.Helper()
	saver := v.machine.(sandbox.Saver)
	begin := time.Now()
	if err := saver.Pause(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
	paused := time.Now()
	state, err := saver.Save(v.t.Context(), v.t.TempDir())
	if err != nil {
		v.t.Fatal(err)
	}
	took := time.Since(paused)
	while()
	finish := time.Now()
	if state, err = v.engine.Finish(v.t.Context(), v.spec, state); err != nil {
		v.t.Fatal(err)
	}
	var bytes int64
	for _, name := range state.Files {
		n, err := disk.AllocatedBytes(filepath.Join(state.Dir, name))
		if err != nil {
			v.t.Fatal(err)
		}
		bytes += n
	}
	v.t.Logf("paused in %v, saved in %v, finished in %v, %d KiB", paused.Sub(begin), took, time.Since(finish), bytes>>10)
	if err := v.engine.Restorable(v.t.Context(), state); err != nil {
		v.t.Error(err)
	}
	return state
}

func (v *savedVM) resume(kind guestrpc.ResumeKind) {
	v.t.Helper()
	spec := guestrpc.ResumeSpec{Kind: kind, Identity: guestrpc.Identity{Hostname: "h" + v.spec.ID, MachineID: sandbox.MachineID(v.spec.ID)}}
	if kind == guestrpc.ResumeTemplate {
		spec.Disks = slices.DeleteFunc(v.machine.(sandbox.Placer).GuestDisks(), func(d sandbox.GuestDisk) bool { return d.Role == sandbox.RootLower })
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	begin := time.Now()
	items, err := v.client.Resume(ctx, spec)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Logf("resumed in %v: %+v", time.Since(begin), items)
}

func (b *engineHost) newDisk(sizeMiB int) string {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "disk.ext4")
	if err := disk.Create(b.t.Context(), b.t.TempDir(), path, sizeMiB); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// Engines of microVMs that are saved and restored, without a daemon: a template becomes sandboxes with disks of their own, one
// of which is saved while it runs, goes on, and has a copy.
func TestSavedStates(t *testing.T) {
	b := newEngineHost(t)
	spec := b.spec(nil)
	spec.Template, spec.Spares = true, []sandbox.Spare{{}, {ReadOnly: true}, {}}
	template := b.launch("template", spec)
	state := template.save(func() {})
	if err := template.machine.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}

	workspace := sandbox.Disk{Role: sandbox.Workspace, Path: b.newDisk(64), FS: "ext4", ReadOnly: true}
	upper := func(path string) sandbox.Disk { return sandbox.Disk{Role: sandbox.Upper, Path: path, FS: "ext4"} }
	first := b.launch("from the template", b.spec(&state, upper(b.newDisk(256)), workspace))
	second := b.launch("from the template", b.spec(&state, upper(b.newDisk(128))))
	first.resume(guestrpc.ResumeTemplate)
	second.resume(guestrpc.ResumeTemplate)
	const look = "hostname; cat /proc/sys/kernel/random/uuid; df -m / | tail -n1 | awk '{print ($2 > 150)}'"
	if one, two := first.sh(look), second.sh(look); one == two || !strings.HasPrefix(one, "h"+first.spec.ID+"\n") || !strings.HasSuffix(one, "\n1") || !strings.HasSuffix(two, "\n0") {
		t.Errorf("the guests say\n%s\nand\n%s", one, two)
	}
	first.sh("echo kept >/root/file; sync; ls /workspace")

	// A pause alone changes nothing, not even the connection.
	pauser := first.machine.(sandbox.Pauser)
	for range 2 {
		if err := pauser.Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := pauser.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.sh("true")
	}

	if *engineAsked == "firecracker" { // and halted by a daemon that died in a Save, before it came to that
		first.tellFirecracker(`{"state":"Paused"}`)
		if err := pauser.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.connect()
		first.sh("true")
	}

	first.sh("(n=0; while :; do n=$((n+1)); echo $n >/tmp/next; mv /tmp/next /tmp/now; sleep 0.05; done) >/dev/null 2>&1 & echo memory >/tmp/file")
	if err := first.client.Prepare(t.Context(), patience, false); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy.ext4")
	running := first.save(func() {
		if err := disk.Copy(t.Context(), path, first.spec.Disks[1].Path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pauser.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.connect()
		first.resume(guestrpc.ResumeOriginal)
		first.sh("cat /root/file /tmp/file")
	})
	again := b.launch("copy", b.spec(&running, upper(path), workspace))
	again.resume(guestrpc.ResumeCopy)
	const goesOn = "; a=$(cat /tmp/now); sleep 1; b=$(cat /tmp/now); [ $a -lt $b ] && cat /root/file /tmp/file"
	if one, two := first.sh("hostname"+goesOn), again.sh("hostname"+goesOn); one != "h"+first.spec.ID+"\nkept\nmemory" || two != "h"+again.spec.ID+"\nkept\nmemory" {
		t.Errorf("the guests say\n%s\nand\n%s", one, two)
	}
}

// tellFirecracker makes the request that halts vCPUs or lets them go on.
func (v *savedVM) tellFirecracker(vm string) {
	v.t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, filepath.Join(v.spec.RuntimeDir, "sockets/api.sock"))
	}}}
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodPatch, "http://localhost/vm", strings.NewReader(vm))
	if err != nil {
		v.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		v.t.Fatal(err, resp)
	}
	resp.Body.Close()
}
