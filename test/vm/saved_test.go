package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/engine/qemu"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/initramfs"
	"github.com/agentkernel/agentkernel/internal/kernel"
	"github.com/agentkernel/agentkernel/internal/project"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// lab has microVMs of QEMU without a daemon around them, so that they can be saved and restored step by step.
type lab struct {
	t      *testing.T
	ctx    context.Context
	engine *qemu.Engine
	base   sandbox.MachineSpec // of a template's boot, without its spares
	dir    string
	count  int
}

// subject is a microVM of a lab and a client of its guest agent.
type subject struct {
	*guestrpc.Client
	sandbox.Machine
	l    *lab
	spec sandbox.MachineSpec
	id   guestrpc.Identity
	next int
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if *engineAsked != "" && *engineAsked != "qemu" || *guestArch != "" && *guestArch != "x86_64" {
		t.Skip("these microVMs are QEMU's, of x86_64")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	l := &lab{t: t, ctx: ctx, dir: t.TempDir(), engine: qemu.New(qemu.Options{Log: slog.New(slog.DiscardHandler), CacheDir: t.TempDir()})}
	kernels, err := kernel.OpenStore(filepath.Join(hostData, "kernels"))
	l.check(err)
	k, err := kernels.Latest("x86_64")
	l.check(err)
	img, err := image.Open(filepath.Join(hostData, "images")).Resolve(ctx, "base", sandbox.X8664)
	l.check(err)
	initrd, err := initramfs.Path(ctx, filepath.Join(l.dir, "initramfs"), sandbox.X8664)
	l.check(err)
	l.base = sandbox.MachineSpec{
		Arch: sandbox.X8664, VCPUs: 1, MemoryMiB: 128, VsockCID: 3, Initrd: initrd,
		Kernel: sandbox.KernelImage{Path: k.VmlinuxPath(), Version: k.Release(), LAPICTimer: k.LAPICTimerKHz},
		Disks:  []sandbox.Disk{{Role: sandbox.RootLower, Path: img.Path, FS: img.FS, ReadOnly: true}},
	}
	return l
}

func (l *lab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// upper makes an upper disk.
func (l *lab) upper(sizeMiB int) sandbox.Disk {
	l.t.Helper()
	l.count++
	path := filepath.Join(l.dir, fmt.Sprintf("disk%d", l.count))
	l.check(disk.Create(l.ctx, filepath.Join(l.dir, "disks"), path, sizeMiB))
	return sandbox.Disk{Role: sandbox.Upper, Path: path, FS: "ext4"}
}

// workspace packs files of a project.
func (l *lab) workspace(files map[string]string) sandbox.Disk {
	l.t.Helper()
	l.count++
	dir, path := filepath.Join(l.dir, fmt.Sprintf("project%d", l.count)), filepath.Join(l.dir, fmt.Sprintf("disk%d", l.count))
	l.check(os.Mkdir(dir, 0o755))
	for name, text := range files {
		l.check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	_, err := project.Pack(l.ctx, dir, path, project.Options{})
	l.check(err)
	return sandbox.Disk{Role: sandbox.Workspace, Path: path, FS: "ext4", ReadOnly: true}
}

// launch starts a microVM, and connects to its guest agent.
func (l *lab) launch(name string, spec sandbox.MachineSpec) *subject {
	l.t.Helper()
	l.count++
	id := fmt.Sprintf("%016x", l.count)
	spec.ID = id
	var err error
	spec.RuntimeDir, err = os.MkdirTemp("", "akvm") // short, for sockets
	l.check(err)
	l.t.Cleanup(func() { _ = os.RemoveAll(spec.RuntimeDir) })
	spec.LogDir = filepath.Join(l.dir, "log-"+id)
	l.check(os.Mkdir(spec.LogDir, 0o700))
	m, err := l.engine.Launch(l.ctx, spec)
	l.check(err)
	s := &subject{Machine: m, l: l, spec: spec, id: guestrpc.Identity{Hostname: name, MachineID: sandbox.MachineID(id)}}
	l.t.Cleanup(func() {
		s.end()
		if l.t.Failed() {
			console, _ := os.ReadFile(filepath.Join(spec.LogDir, "console.log"))
			l.t.Logf("console of %s:\n%s", name, tail(console, 3000))
		}
	})
	s.connect()
	return s
}

func (s *subject) connect() {
	s.l.t.Helper()
	var err error
	s.Client, err = guestrpc.Connect(s.l.ctx, func(ctx context.Context) (guestrpc.Conn, error) { return s.Dial(ctx, sandbox.GuestAgentPort) }, s.id)
	s.l.check(err)
}

func (s *subject) end() {
	if s.Client != nil {
		s.Client.Close()
		s.Client = nil
	}
	if err := s.Kill(context.Background()); err != nil {
		s.l.t.Error(err)
	}
}

// save saves the microVM, which goes on paused.
func (s *subject) save() *sandbox.SavedState {
	s.l.t.Helper()
	s.l.count++
	dir := filepath.Join(s.l.dir, fmt.Sprintf("state%d", s.l.count))
	s.l.check(os.Mkdir(dir, 0o700))
	s.l.check(s.pauser().Pause(s.l.ctx))
	saved, err := s.Machine.(sandbox.Saver).Save(s.l.ctx, dir)
	s.l.check(err)
	return &saved
}

func (s *subject) pauser() sandbox.Pauser { return s.Machine.(sandbox.Pauser) }

// finish brings what was saved into the form that can be restored.
func (s *subject) finish(saved *sandbox.SavedState) *sandbox.SavedState {
	s.l.t.Helper()
	done, err := s.l.engine.Finish(s.l.ctx, s.spec, *saved)
	s.l.check(err)
	return &done
}

// template boots a template with a spare for each of these, and saves it.
func (l *lab) template(spares ...sandbox.Spare) (*subject, *sandbox.SavedState) {
	l.t.Helper()
	spec := l.base
	spec.Template, spec.Spares = true, spares
	s := l.launch("template", spec)
	saved := s.save()
	s.end()
	return s, s.finish(saved)
}

// restore restores a saved state with these disks beside the image.
func (l *lab) restore(name string, saved *sandbox.SavedState, disks ...sandbox.Disk) *subject {
	l.t.Helper()
	spec := l.base
	spec.From = saved
	spec.Disks = append(spec.Disks[:1:1], disks...)
	return l.launch(name, spec)
}

// resume has the guest go on and fails when an item has.
func (s *subject) resume(kind guestrpc.ResumeKind) map[string]sandbox.HygieneItem {
	s.l.t.Helper()
	spec := guestrpc.ResumeSpec{Kind: kind, Identity: s.id}
	if kind == guestrpc.ResumeTemplate {
		for _, d := range s.Machine.(sandbox.Placer).GuestDisks() {
			if d.Role != sandbox.RootLower {
				spec.Disks = append(spec.Disks, d)
			}
		}
	}
	items, err := s.Resume(s.l.ctx, spec)
	s.l.check(err)
	found := map[string]sandbox.HygieneItem{}
	for _, i := range items {
		found[i.Name] = i
		if i.Result == sandbox.HygieneFail && i.Name != "clock" { // a busy machine may take long
			s.l.t.Errorf("%s: %+v", s.id.Hostname, i)
		}
	}
	return found
}

// start starts a command.
func (s *subject) start(spec guestrpc.ExecSpec) *guestrpc.Exec {
	s.l.t.Helper()
	s.next++
	if spec.ID == "" {
		spec.ID = fmt.Sprintf("%s-%d", s.id.Hostname, s.next)
	}
	x, err := s.Exec(s.l.ctx, spec)
	s.l.check(err)
	return x
}

// detach starts a shell command in the background.
func (s *subject) detach(id, script string) {
	s.l.t.Helper()
	x := s.start(guestrpc.ExecSpec{ID: id, Detach: true, Argv: []string{"sh", "-c", script}})
	defer x.Close()
	for {
		ev, err := x.Recv()
		s.l.check(err)
		if _, ok := ev.(guestrpc.Detached); ok {
			return
		}
	}
}

// sh runs a shell command and returns its trimmed output.
func (s *subject) sh(script string) string {
	s.l.t.Helper()
	x := s.start(guestrpc.ExecSpec{Argv: []string{"sh", "-c", script}})
	defer x.Close()
	var out bytes.Buffer
	for {
		ev, err := x.Recv()
		s.l.check(err)
		switch ev := ev.(type) {
		case guestrpc.Stdout:
			out.Write(ev)
		case guestrpc.Stderr:
			out.Write(ev)
		case guestrpc.Failed:
			s.l.t.Fatalf("%s: %s: %+v", s.id.Hostname, script, ev)
		case guestrpc.Exited:
			if ev.Code != 0 || ev.Signal != 0 {
				s.l.t.Errorf("%s: %s: %+v\n%s", s.id.Hostname, script, ev, out.Bytes())
			}
			return strings.TrimSpace(out.String())
		}
	}
}

// TestTemplateStart starts two sandboxes at once from one template, with disks of other sizes than the template's, and of other kinds.
func TestTemplateStart(t *testing.T) {
	l := newLab(t)
	spare := sandbox.Spare{}
	_, saved := l.template(spare, spare, sandbox.Spare{ReadOnly: true})
	l.startBoth(saved, func() sandbox.Disk { return l.upper(96) })
}

// TestTemplateStartMounted does the same with a template that has an upper disk mounted, of which each sandbox gets a copy.
func TestTemplateStartMounted(t *testing.T) {
	l := newLab(t)
	spec := l.base
	upper := l.upper(96)
	spec.Disks = append(spec.Disks[:1:1], upper)
	spec.Template, spec.Spares = true, []sandbox.Spare{{ReadOnly: true}, {}}
	s := l.launch("template", spec)
	saved := s.save()
	s.end()
	saved = s.finish(saved)
	l.startBoth(saved, func() sandbox.Disk {
		l.count++
		copied := upper
		copied.Path += fmt.Sprint("-", l.count)
		l.check(disk.Copy(l.ctx, copied.Path, upper.Path, 0o600))
		return copied
	})
}

func (l *lab) startBoth(saved *sandbox.SavedState, upper func() sandbox.Disk) {
	t := l.t
	var names []string
	for _, name := range []string{"one", "two"} {
		began := time.Now()
		volume := l.upper(64)
		volume.Role, volume.MountPoint = sandbox.VolumeRole(0), "/data"
		disks := []sandbox.Disk{upper(), l.workspace(map[string]string{"file": name})}
		if name == "two" {
			disks = append(disks, volume)
		}
		made := time.Now()
		s := l.restore(name, saved, disks...)
		connected := time.Now()
		if s.Info().Awaits != guestrpc.AwaitsDisks {
			t.Errorf("a template awaits %d", s.Info().Awaits)
		}
		if _, err := s.List(l.ctx); err == nil {
			t.Error("a template tells of commands")
		}
		x, err := s.Exec(l.ctx, guestrpc.ExecSpec{ID: "early", Argv: []string{"true"}})
		if err == nil {
			if _, err = x.Recv(); err == nil || errors.Is(err, io.EOF) {
				t.Error("a template runs a command")
			}
			x.Close()
		}
		asked := time.Now()
		items := s.resume(guestrpc.ResumeTemplate)
		resumed := time.Now()
		s.sh("true")
		t.Logf("disks %v, restored %v, resumed %v, first command %v; %v", made.Sub(began), connected.Sub(made), resumed.Sub(asked), time.Since(resumed), items["clock"])
		if _, err := s.Resume(l.ctx, guestrpc.ResumeSpec{Kind: guestrpc.ResumeTemplate, Identity: s.id}); err == nil {
			t.Error("a template is used twice")
		}
		want := name + "\n" + name + "\n" + s.id.MachineID
		if got := s.sh("hostname; cat /workspace/file; echo; cat /etc/machine-id"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		s.sh("echo x >/workspace/new && echo y >/etc/own && sync")
		if got := s.sh("grep -c ' /data ' /proc/mounts || true"); got != fmt.Sprint(len(disks)-2) {
			t.Errorf("%s volumes", got)
		}
		if kib := s.sh("df -k / | awk 'NR==2 {print $2}'"); len(kib) != 5 {
			t.Errorf("the root has %s KiB", kib)
		}
		names = append(names, s.sh("cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1"))
	}
	if names[0] == names[1] {
		t.Errorf("both drew %s", names[0])
	}
}

// lines returns what a command says, line by line.
func lines(x *guestrpc.Exec) <-chan string {
	c := make(chan string, 1000)
	go func() {
		defer close(c)
		var rest []byte
		for {
			ev, err := x.Recv()
			if err != nil {
				return
			}
			out, ok := ev.(guestrpc.Stdout)
			if !ok {
				continue
			}
			rest = append(rest, out...)
			for {
				i := bytes.IndexByte(rest, '\n')
				if i < 0 {
					break
				}
				c <- string(rest[:i])
				rest = rest[i+1:]
			}
		}
	}()
	return c
}

// TestCopyOfRunning saves a sandbox with commands in it, and restores it twice, once as what it was and once as another.
func TestCopyOfRunning(t *testing.T) {
	l := newLab(t)
	upper := l.upper(64)
	spec := l.base
	spec.Disks = append(spec.Disks[:1:1], upper)
	s := l.launch("first", spec)
	s.sh("printf '#!/bin/sh\\necho $1 >/etc/ssh/ssh_host_new_key\\n' >/bin/ssh-keygen && chmod 755 /bin/ssh-keygen; mkdir -p /etc/ssh && touch /etc/ssh/ssh_host_rsa_key /etc/ssh/ssh_host_rsa_key.pub /etc/ssh/ssh_config && mkdir /sys/fs/cgroup/mine")
	// One in the foreground and one in the background count; one more left the part of the tree that commands are in.
	x := s.start(guestrpc.ExecSpec{ID: "front", Argv: []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done"}})
	defer x.Close()
	counting := lines(x)
	<-counting
	s.detach("back", "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.01; done")
	s.sh("echo $$ >/sys/fs/cgroup/mine/cgroup.procs; (while :; do head -c 8 /dev/urandom | od -An -tx1 >/tmp/draw && mv /tmp/draw /tmp/drawn; sleep 0.01; done) >/dev/null 2>&1 </dev/null & ")
	for range 2 { // it may be asked for twice
		l.check(s.Prepare(l.ctx, 10*time.Second, false))
	}
	again, err := guestrpc.Connect(l.ctx, func(ctx context.Context) (guestrpc.Conn, error) { return s.Dial(ctx, sandbox.GuestAgentPort) }, s.id)
	l.check(err)
	if again.Info().Awaits != guestrpc.AwaitsThaw {
		t.Errorf("a guest whose commands are frozen awaits %d", again.Info().Awaits)
	}
	again.Close()
	// A command that comes now waits.
	late := make(chan string, 1)
	go func() { late <- s.sh("echo late") }()
	saved := s.save()
	copied := upper
	copied.Path += "-copy"
	l.check(disk.Copy(l.ctx, copied.Path, upper.Path, 0o600))
	select {
	case got := <-late:
		t.Errorf("a command runs while all are frozen: %q", got)
	default:
	}
	l.check(s.pauser().Resume(l.ctx))
	s.resume(guestrpc.ResumeOriginal)
	if got := <-late; got != "late" {
		t.Errorf("%q", got)
	}
	<-counting
	if got := s.sh("hostname; ls /etc/ssh | wc -l"); got != "first\n3" {
		t.Errorf("the original is %q", got)
	}
	saved = s.finish(saved)

	c := l.restore("second", saved, copied)
	if c.Info().Awaits != guestrpc.AwaitsThaw {
		t.Errorf("a copy awaits %d", c.Info().Awaits)
	}
	items := c.resume(guestrpc.ResumeCopy)
	c.sh("until [ -s /etc/ssh/ssh_host_new_key ]; do :; done")
	if got := c.sh("hostname; cat /etc/hostname /etc/machine-id /etc/ssh/ssh_host_new_key; ls /etc/ssh"); got != "second\nsecond\n"+c.id.MachineID+"\n-A\nssh_config\nssh_host_new_key" {
		t.Errorf("the copy is %q", got)
	}
	if !strings.HasPrefix(items["ssh-host-keys"].Reason, "2 files") {
		t.Errorf("%+v", items["ssh-host-keys"])
	}
	// The command in the background counts on, and the one in the foreground is the original's.
	c.sh("a=$(cat /tmp/count); until b=$(cat /tmp/count) && [ -n \"$b\" ] && [ \"$b\" != \"$a\" ]; do :; done")
	for {
		list, err := c.List(l.ctx)
		l.check(err)
		running := false
		for _, e := range list {
			if e.Stayed != (e.ID == "front") {
				t.Errorf("%+v", e)
			}
			running = running || e.ID == "front" && e.Ended.IsZero()
		}
		if !running {
			break
		}
	}
	<-counting
	// The first that comes now may have been drawn before there was a copy.
	const draw = "for i in 1 2; do rm -f /tmp/drawn; until [ -s /tmp/drawn ]; do :; done; done; cat /tmp/drawn"
	if a, b := s.sh(draw), c.sh(draw); a == b {
		t.Errorf("both drew %q", a)
	}
}

// TestRestoredAgain restores what was restored, ten times, and looks for what the guest agent keeps of the sessions before.
func TestRestoredAgain(t *testing.T) {
	l := newLab(t)
	_, saved := l.template(sandbox.Spare{})
	upper := l.upper(64)
	s := l.restore("again", saved, upper)
	s.resume(guestrpc.ResumeTemplate)
	s.detach("back", "sleep 1000000")
	open := func() string {
		// A connection more or less is the one that is kept ready for the next command.
		return s.sh("ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l; awk '/VmRSS/ {print $2}' /proc/1/status; ls /sys/fs/cgroup/execs | grep -c '^[0-9]'")
	}
	s.sh("true")
	before := open()
	for range 10 {
		x := s.start(guestrpc.ExecSpec{Argv: []string{"sh", "-c", "echo; cat /dev/zero"}})
		if _, err := x.Recv(); err != nil {
			t.Error(err)
		}
		stream, err := s.Dial(l.ctx, sandbox.GuestStreamPort)
		l.check(err)
		l.check(s.Prepare(l.ctx, 10*time.Second, false))
		saved := s.finish(s.save())
		s.end()
		x.Close()
		stream.Close()
		s = l.restore("again", saved, upper)
		s.resume(guestrpc.ResumeOriginal)
	}
	after := open()
	t.Logf("descriptors, threads, KiB, groups: %s before, %s after", strings.Fields(before), strings.Fields(after))
	list, err := s.List(l.ctx)
	l.check(err)
	for _, e := range list {
		if e.Ended.IsZero() != (e.ID == "back") {
			t.Errorf("%+v", e)
		}
	}
	var was, is [4]int
	for _, c := range []struct {
		text string
		into *[4]int
	}{{before, &was}, {after, &is}} {
		if _, err := fmt.Sscan(c.text, &c.into[0], &c.into[1], &c.into[2], &c.into[3]); err != nil {
			t.Fatal(err)
		}
	}
	if is[0] >= was[0]+5 || is[1] >= was[1]+5 || is[2] > 2*was[2] || is[3] >= was[3]+5 {
		t.Errorf("it grows: %v before, %v after", was, is)
	}
}
