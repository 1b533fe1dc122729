package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/paths"
)

// What the README says about the inside of a sandbox works as it stands there.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## Inside the sandbox\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	for ok {
		_, rest, found := strings.Cut(section, "\n```sh\n")
		if !found {
			break
		}
		var block string
		block, section, ok = strings.Cut(rest, "\n```\n")
		script.WriteString(block + "\n")
	}
	if !ok || script.Len() == 0 {
		t.Fatal("the README has no commands about the inside of a sandbox")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Symlink(dirs.Data, filepath.Join(home, "data")); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) string {
		t.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), paths.HomeVariable+"="+home, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, script, out)
		}
		return string(out)
	}
	t.Cleanup(func() { sh("agentkernel rm -f my-project; agentkernel daemon stop") })
	sh("agentkernel create my-project --memory 128M; agentkernel start my-project")
	out := sh(script.String())
	for _, want := range []string{"hello from microVM", "143", "remember the milk"} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands do not print %q:\n%s", want, out)
		}
	}
}
