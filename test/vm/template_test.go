package vm

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// from is what the microVM of a sandbox goes on from.
func (h *home) from(name string) string {
	h.t.Helper()
	var list []client.Sandbox
	if err := json.Unmarshal([]byte(h.ok("inspect", "--json", name)), &list); err != nil || len(list) != 1 || list[0].Hygiene == nil {
		h.t.Fatalf("inspect: %v, %+v", err, list)
	}
	return string(list[0].Hygiene.From)
}

// Each start goes on from a template, which has nothing of the sandbox in it, and what a sandbox has on its disks is its own.
func TestTemplates(t *testing.T) {
	h := newHome(t)
	const marker = "a-secret-of-the-project-0x5f3759df"
	project := t.TempDir()
	if err := os.WriteFile(filepath.Join(project, "secret"), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	h.ok("volume", "create", "kept")
	h.ok("create", "one", "--project", project, "--volume", "kept:/kept")
	h.ok("create", "two", "--project", project)
	h.ok("start", "one", "two")
	for _, name := range []string{"one", "two"} {
		if got := h.from(name); got != "template" {
			t.Errorf("%s goes on from %s", name, got)
		}
		if got := h.ok("exec", name, "--", "sh", "-c", "cat /workspace/secret; hostname; echo "+name+" >/etc/mark; echo >/workspace/new"); got != marker+name+"\n" {
			t.Errorf("%s: %q", name, got)
		}
		h.ok("inspect", "--hygiene", name)
	}
	h.ok("exec", "one", "--", "sh", "-c", "echo kept >/kept/file")
	ids := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		ids[h.ok("exec", name, "--", "sh", "-c", "cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1")] = true
	}
	if len(ids) != 2 {
		t.Errorf("they are alike: %v", ids)
	}

	// A later start goes on from a template too, with the disks as they are; the first of these boots, as its template is taken meanwhile.
	h.ok("restart", "one")
	h.waitFor("another template", func() bool { return h.ok("restart", "one") != "" && h.from("one") == "template" })
	if got := h.from("one"); got != "template" {
		t.Errorf("the second start goes on from %s", got)
	}
	if got := h.ok("exec", "one", "--", "cat", "/etc/mark", "/kept/file"); got != "one\nkept\n" {
		t.Errorf("%q", got)
	}
	h.ok("stop", "one")
	h.ok("start", "--cold", "one")
	if got := h.from("one"); got != "boot" {
		t.Errorf("a cold start goes on from %s", got)
	}
	if got := h.ok("exec", "one", "--", "cat", "/etc/mark", "/kept/file"); got != "one\nkept\n" {
		t.Errorf("%q", got)
	}

	// What is deleted while it is used is deleted when it is used no more.
	for _, id := range strings.Fields(h.ok("template", "ls", "-q")) {
		for _, file := range []string{"memory", "state"} {
			data, err := os.ReadFile(filepath.Join(hostData, "templates", id, "state", file))
			if err != nil {
				continue // another engine's names
			}
			if bytes.Contains(data, []byte(marker)) {
				t.Errorf("template %s has what is in a project", id)
			}
		}
	}
	h.ok("exec", "two", "--", "true")
}

// A microVM of the pool is ready for a sandbox before that is made.
func TestPool(t *testing.T) {
	h := newHome(t)
	if err := os.WriteFile(filepath.Join(h.dir, "config.toml"), []byte("[pool]\nsize = 2\nimages = \"base\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.ok("list") // starts the daemon
	h.waitFor("the pool is full", func() bool { return strings.Contains(h.ok("pool"), "2 of 2") })
	h.ok("create", "one")
	h.ok("create", "two")
	h.ok("start", "one", "two")
	pids := map[string]bool{}
	for _, name := range []string{"one", "two"} {
		if got := h.from(name); got != "pool" {
			t.Errorf("%s goes on from %s", name, got)
		}
		if got := h.ok("exec", name, "--", "sh", "-c", "hostname; echo $HOME >/root/f; ls /root"); got != name+"\nf\n" {
			t.Errorf("%q", got)
		}
		h.ok("inspect", "--hygiene", name)
		pids[h.ok("exec", name, "--", "sh", "-c", "cat /etc/machine-id; head -c 16 /dev/urandom | od -An -tx1")] = true
	}
	if len(pids) != 2 {
		t.Errorf("they are alike: %v", pids)
	}
	if got := h.ok("run", "--", "hostname"); !strings.HasPrefix(got, "run-") {
		t.Errorf("%q", got)
	}
	// The daemon dies: its pool is swept by the next, and sandboxes go on.
	h.killDaemon()
	h.ok("exec", "one", "--", "true")
	h.waitFor("the pool is full again", func() bool { return strings.Contains(h.ok("pool"), "2 of 2") })
	if n := h.vmms(); n != 4 {
		t.Errorf("%d VMMs run", n)
	}
}
