// Package nested runs the suites of microVM tests (test/vm, test/script) on a given Firecracker, on any x86_64 machine:
//
//	make test-firecracker FIRECRACKER=/path/to/firecracker [JAILER=/path/to/jailer]
//
// Where the host's KVM is good, they run on the host. Elsewhere QEMU emulates a machine that has AMD's virtualization, with a
// kernel of the distribution and a disk with our binary, kernel, image and the given Firecracker; the suites run in that
// outer guest, and their microVMs inside it. That is real Firecracker on real KVM code, slowly. There root runs them, with the jailer
// if one is given, and an ordinary user some once more.
package nested

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/paths"
)

var (
	firecracker = flag.String("firecracker", "", "the Firecracker to test, an absolute path")
	jailer      = flag.String("jailer", "", "its jailer, an absolute path")
	only        = flag.String("suite.run", "", "run only those tests of the suites that match this regular expression")
)

// suites are directories beside this one, and which of their tests run: of the scripts those that boot microVMs, as the others
// have nothing to do with the engine; as an ordinary user, those that show whether one can run microVMs at all, and what they cost.
var suites = []struct{ name, run, user string }{
	{"vm", ".", "^(TestConfinement|TestVMMKilledDuringExec|TestSavedStates|TestIdleOverhead)$"},
	{"script", "^TestScripts$/^vm", ""},
}

// suiteTimeout bounds one suite; with emulation a start takes seconds.
const suiteTimeout = 60 * time.Minute

func TestSuitesOnFirecracker(t *testing.T) {
	switch {
	case *firecracker == "":
		t.Skip("no Firecracker was given: make test-firecracker FIRECRACKER=/path/to/firecracker")
	case runtime.GOOS != "linux" || runtime.GOARCH != "amd64":
		t.Skipf("the suites run on Firecracker on linux/amd64, and this is %s/%s", runtime.GOOS, runtime.GOARCH)
	case !filepath.IsAbs(*firecracker):
		t.Fatalf("-firecracker %s is not an absolute path", *firecracker)
	case *jailer != "" && !filepath.IsAbs(*jailer):
		t.Fatalf("-jailer %s is not an absolute path", *jailer)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(len(suites)+1)*suiteTimeout)
	defer cancel()
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	programs := compile(ctx, t)
	kvm, err := hostvirt.ProbeKVM(ctx, filepath.Join(t.TempDir(), "kvm.json"))
	if err != nil {
		t.Fatal(err)
	}
	if kvm.Good {
		t.Logf("on this host: %s", kvm.Reason)
		onHost(ctx, t, programs)
		return
	}
	t.Logf("in an emulated machine, as this host's KVM is not good: %s", kvm.Reason)
	inGuest(ctx, t, dirs, programs)
}

// compile builds the suites' test programs without cgo, so that they need no library, and returns their paths by suite.
func compile(ctx context.Context, t *testing.T) map[string]string {
	t.Helper()
	programs := map[string]string{}
	for _, suite := range suites {
		program := filepath.Join(t.TempDir(), suite.name+".test")
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "../"+suite.name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the suite %s: %v\n%s", suite.name, err, out)
		}
		programs[suite.name] = program
	}
	return programs
}

// selected is the regular expression of the tests to run.
func selected(run string) string {
	if *only != "" {
		return *only
	}
	return run
}

// onHost runs the suites with the given Firecracker first in PATH, where the engine looks for it.
func onHost(ctx context.Context, t *testing.T, programs map[string]string) {
	bin := t.TempDir()
	if err := os.Symlink(*firecracker, filepath.Join(bin, "firecracker")); err != nil {
		t.Fatal(err)
	}
	if *jailer != "" {
		if err := os.Symlink(*jailer, filepath.Join(bin, "jailer")); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	doctor := exec.CommandContext(ctx, "../../bin/agentkernel", "doctor")
	doctor.Env = env
	out, _ := doctor.CombinedOutput() // it fails when anything is missing, needed here or not
	if !strings.Contains(string(out), chosen) {
		t.Fatalf("agentkernel would not run its microVMs on %s:\n%s", *firecracker, out)
	}
	for _, suite := range suites {
		t.Run(suite.name, func(t *testing.T) {
			args := []string{"-test.v", "-test.timeout", suiteTimeout.String(), "-test.run", selected(suite.run)}
			if suite.name == "vm" { // the scripts name no engine, and run on what is chosen
				args = append(args, "-engine", "firecracker")
			}
			cmd := exec.CommandContext(ctx, programs[suite.name], args...)
			cmd.Dir, cmd.Env = filepath.Join("..", suite.name), env
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			if err := cmd.Run(); err != nil {
				t.Errorf("the suite %s: %v", suite.name, err)
			}
		})
	}
}
