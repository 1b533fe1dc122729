package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// confinementVariable says which confinement of Firecracker a machine that was made for these tests has to have: jailer or
// namespaces.
const confinementVariable = "AGENTKERNEL_TEST_CONFINEMENT"

// A VMM of Firecracker has nothing but what it needs, and inspect says so, also after the daemon has come back.
func TestConfinement(t *testing.T) {
	h := newHome(t)
	h.started("a")
	sb := h.inspect("a")
	if *sb.Engine != "firecracker" {
		t.Skipf("the engine %s is confined by what its command line says", *sb.Engine)
	}
	if sb.Confinement == nil {
		t.Fatal("inspect does not say what confines the VMM")
	}
	said := strings.Join(*sb.Confinement, "\n")
	t.Log("\n" + said)
	want := os.Getenv(confinementVariable)
	if want == "" {
		t.Logf("%s does not say what this host has to have", confinementVariable)
	}
	proc := fmt.Sprintf("/proc/%d", *sb.Pid)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(status), "\n")
	has := func(line string) {
		t.Helper()
		if !slices.Contains(lines, line) {
			t.Errorf("its status has no line %q:\n%s", line, status)
		}
	}
	says := func(what string) {
		t.Helper()
		if !strings.Contains(said, what) {
			t.Errorf("inspect does not say %q", what)
		}
	}
	has("Seccomp:\t2")
	has("NoNewPrivs:\t1")
	says("seccomp filters in 3 of 3 threads") // of one vCPU
	if want != "" {
		has("CapEff:\t0000000000000000")
		has("CapPrm:\t0000000000000000")
		says("a root directory of its own")
		says("no network")
		entries, err := os.ReadDir(filepath.Join(proc, "root"))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		t.Log("its root directory has", names)
		if err != nil || len(names) == 0 || slices.Contains(names, "etc") || slices.Contains(names, "proc") {
			t.Errorf("its root directory has %v, %v", names, err)
		}
		if want == "jailer" {
			says("cgroup with limits: memory (")
		}
		for _, ns := range []string{"mnt", "net", "pid"} {
			theirs, err := os.Readlink(filepath.Join(proc, "ns", ns))
			ours, _ := os.Readlink("/proc/self/ns/" + ns)
			if err != nil || theirs == ours {
				t.Errorf("its %s namespace is %s, and ours %s: %v", ns, theirs, ours, err)
			}
		}
	}
	h.killDaemon()
	if again := h.inspect("a"); again.Confinement == nil || !slices.Equal(*again.Confinement, *sb.Confinement) {
		t.Errorf("after an adoption inspect says %v", again.Confinement)
	}
	h.ok("exec", "a", "true")
	h.ok("stop", "a")
	if left, _ := filepath.Glob("/sys/fs/cgroup/agentkernel/agentkernel-" + sb.Id); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	// The disk belongs to it, and can be used again.
	h.ok("start", "a")
	h.ok("exec", "a", "true")
}
