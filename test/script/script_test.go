// Package script runs testdata/*.txt, sessions of the command line, with the built binary (make build). Scripts whose name
// begins with vm boot microVMs and need a kernel and the base image (make ready).
//
// In $ENGINE they find the engine that they can ask for: qemu where it is installed. Besides testscript's own commands there is
// `exits CODE PROGRAM ARG…`: it runs a program that must end with that exit code.
package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentkernel/agentkernel/internal/paths"
)

// machine is the architecture in the name of QEMU's program.
var machine = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

func TestScripts(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err == nil {
		_, err = os.Stat(filepath.Join(bin, "agentkernel"))
	}
	if err != nil {
		t.Fatal("build it first with make ready: ", err)
	}
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			if err := os.Mkdir(home, 0o700); err != nil {
				return err
			}
			if err := os.Symlink(dirs.Data, filepath.Join(home, "data")); err != nil {
				return err
			}
			env.Setenv(paths.HomeVariable, home)
			env.Setenv("ENGINE", "qemu")
			if _, err := exec.LookPath("qemu-system-" + machine[runtime.GOARCH]); err != nil {
				env.Setenv("ENGINE", "firecracker")
			}
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Defer(func() {
				run := func(args ...string) string {
					cmd := exec.Command(filepath.Join(bin, "agentkernel"), args...)
					cmd.Env = append(os.Environ(), paths.HomeVariable+"="+home)
					out, err := cmd.CombinedOutput()
					if err != nil {
						t.Errorf("after a script: agentkernel %v: %v %s", args, err, out)
					}
					return string(out)
				}
				if left := strings.Fields(run("list", "-q")); len(left) > 0 { // as when the script fails in the middle
					t.Errorf("sandboxes left over after a script: %v", left)
					run(append([]string{"rm", "--force"}, left...)...)
				}
				run("daemon", "stop")
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("%q is not an exit code", args[0])
	}
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if code != want {
		ts.Fatalf("%s", fmt.Sprintf("exit code %d, want %d", code, want))
	}
}
