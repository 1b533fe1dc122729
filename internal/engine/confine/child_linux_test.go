package confine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary carries out plans as agentkernel does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		os.Exit(Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// needConfinement skips a test where the host does not allow it.
func needConfinement(t *testing.T) {
	t.Helper()
	if err := Probe(t.Context()); err != nil {
		t.Skip("this host does not allow it: ", err, UserNamespaceHint())
	}
}

// A confined program sees what is bound, may write where it is told so, and nothing else.
func TestPlan(t *testing.T) {
	needConfinement(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("there is no busybox to run")
	}
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name+"\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
		return path
	}
	plan := Plan{
		Mount: t.TempDir(), Pivot: true, Devices: []string{"null", "no-such-device"},
		Binds: []Bind{
			{From: busybox, To: "bin/sh"}, {From: write("readable", 0o644), To: "a/readable"}, {From: write("writable", 0o666), To: "a/writable", Writable: true},
			{From: t.TempDir(), To: "empty"},
		},
		Args: []string{"/bin/sh", "-c", `
			for f in /* /a/*; do echo $f; done
			read l </a/readable && echo $l
			echo new >/a/writable && echo "writable is"
			(echo x >/a/readable) 2>/dev/null || echo "readable is not"
			(echo x >/new) 2>/dev/null || echo "root is not"
			(echo x >/empty/new) 2>/dev/null || echo "empty is not"
			echo gone >/dev/null && echo "null works"
			echo pid $$`},
	}
	if os.Geteuid() == 0 {
		plan.UID, plan.GID = FirstOwner+1, FirstOwner
	}
	out, err := run(t, plan)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "/a\n/bin\n/dev\n/empty\n/a/readable\n/a/writable\nreadable\nwritable is\nreadable is not\nroot is not\nempty is not\nnull works\npid 1\n"
	if out != want {
		t.Errorf("%s\nwant %s", out, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "writable")); err != nil || string(b) != "new\n" {
		t.Errorf("writable has %q, %v", b, err)
	}
	if entries, err := os.ReadDir(plan.Mount); err != nil || len(entries) > 0 {
		t.Errorf("it reached the host: %v, %v", entries, err)
	}
}

func run(t *testing.T, plan Plan) (string, error) {
	t.Helper()
	args, err := plan.Arguments("test")
	if err != nil {
		t.Fatal(err)
	}
	attr := Attributes()
	cmd := exec.CommandContext(t.Context(), Self)
	cmd.Args, cmd.SysProcAttr = args, &attr
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A confined program, and what that starts, gets no huge pages, also where the host gives them to all.
func TestSmallPages(t *testing.T) {
	needConfinement(t)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("there is no busybox to run")
	}
	plan := Plan{Mount: t.TempDir(), Pivot: true, Binds: []Bind{{From: busybox, To: "bin/sh"}}, Args: []string{"/bin/sh", "-c", "exec sh -c 'echo; read end'"}}
	args, err := plan.Arguments("test")
	if err != nil {
		t.Fatal(err)
	}
	attr := Attributes()
	cmd := exec.CommandContext(t.Context(), Self)
	cmd.Args, cmd.SysProcAttr, cmd.Env = args, &attr, []string{"PATH=/bin"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	s, err := readStatus(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if enabled, told := s["THP_enabled"]; err != nil || told && enabled != "0" {
		t.Errorf("huge pages enabled: %s, %v", enabled, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 { // the end of its input
		t.Error(err)
	}
}

func TestPlanFails(t *testing.T) {
	needConfinement(t)
	for name, tc := range map[string]struct {
		plan Plan
		want string
	}{
		"no mount point":  {Plan{Mount: "/no/such/directory", Pivot: true}, "mount a tmpfs on /no/such/directory"},
		"nothing to bind": {Plan{Mount: t.TempDir(), Pivot: true, Binds: []Bind{{From: "/no/such/file", To: "x"}}}, "/no/such/file"},
		"nothing to run":  {Plan{Mount: t.TempDir(), Pivot: true, Args: []string{"/program"}}, "run /program: no such file"},
	} {
		out, err := run(t, tc.plan)
		if err == nil || !strings.Contains(out, "confine the VMM: ") || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v, %q, want %q", name, err, out, tc.want)
		}
	}
}

// A probe of a program that does not call Main must not make it probe in its turn.
func TestProbeIsNotRepeated(t *testing.T) {
	t.Setenv(environmentMark, "1")
	if err := Probe(t.Context()); err == nil {
		t.Error("a probe probes")
	}
}

func TestProbeIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Probe(ctx); err == nil {
		t.Error("a cancelled probe is good")
	}
}

// What is measured of a process without any confinement is only what it has.
func TestMeasureOurselves(t *testing.T) {
	got, err := Measure(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range got {
		if strings.Contains(what, "of its own") || strings.Contains(what, "cgroup") {
			t.Errorf("we are said to have %q", what)
		}
	}
	if _, err := Measure(1 << 22); err == nil { // more than pid_max can be
		t.Error("a process that is not there is measured")
	}
}

func TestHierarchies(t *testing.T) {
	unified, bare := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(unified, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bare, "cgroup.controllers"), []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		mounts string
		want   []hierarchy
	}{
		"version 2": {"proc /proc proc rw 0 0\ncgroup2 " + unified + " cgroup2 rw 0 0\n", []hierarchy{{unified, 2, []string{"cpu", "memory", "pids"}}}},
		"both": {
			"cgroup /c/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\ncgroup2 " + bare + " cgroup2 rw 0 0\n",
			[]hierarchy{{"/c/cpu,cpuacct", 1, []string{"rw", "relatime", "cpu", "cpuacct"}}, {bare, 2, []string{}}},
		},
		"none":   {"proc /proc proc rw 0 0\n", nil},
		"broken": {"x\n\ncgroup2\n", nil},
	} {
		got := hierarchies(tc.mounts)
		if !slices.EqualFunc(got, tc.want, func(a, b hierarchy) bool {
			return a.path == b.path && a.version == b.version && slices.Equal(a.controllers, b.controllers)
		}) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// Where a hierarchy cannot be prepared, as in a container, there is no cgroup and no failure.
func TestPrepareCgroup(t *testing.T) {
	dir := t.TempDir()
	h := hierarchy{path: filepath.Join(dir, "missing"), version: 2}
	if err := h.prepare("memory"); err == nil {
		t.Error("a hierarchy that is not there is prepared")
	}
	for range 2 { // the parent is there the second time
		if err := (hierarchy{path: dir, version: 1}).prepare("memory"); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, cgroupParent)); err != nil || !info.IsDir() {
		t.Errorf("there is no parent: %v", err)
	}
	if err := RemoveCgroups("agentkernel-0000000000000000"); err != nil {
		t.Errorf("remove what is not there: %v", err)
	}
}

func TestMountFlags(t *testing.T) {
	if got := mountFlags(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RDONLY | unix.ST_RELATIME); got != unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RELATIME {
		t.Errorf("%#x", got)
	}
}
