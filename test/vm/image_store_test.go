package vm

import (
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
)

// An image in use cannot be removed, by whatever name; by force its name can, and its sandboxes go on using it.
func TestImageInUse(t *testing.T) {
	h := newImageHome(t)
	file := save(t, "test.invalid/one:1", imagetest.Image(t, runtime.GOARCH, v1.Config{Cmd: []string{"true"}}, userland(t)))
	h.ok("image", "load", file)
	h.ok("image", "load", "--name", "alias", file)
	h.create("a", "--image", "test.invalid/one:1")
	for _, name := range []string{"test.invalid/one:1", "alias"} {
		h.fails(125, []string{"in use by a", "--force"}, "image", "rm", name)
	}
	var list []struct {
		Path      string
		Sandboxes []string
	}
	if err := json.Unmarshal([]byte(h.ok("image", "inspect", "--json", "alias")), &list); err != nil || len(list) != 1 || len(list[0].Sandboxes) != 1 || list[0].Sandboxes[0] != "a" {
		t.Fatalf("inspect: %+v, %v", list, err)
	}
	for _, name := range []string{"test.invalid/one:1", "alias"} {
		if r := h.run("image", "rm", "--force", name); r.code != 0 || !strings.Contains(r.stderr, "in use by a") {
			t.Errorf("rm --force: %+v", r)
		}
	}
	h.fails(125, []string{"there is no image"}, "image", "inspect", "alias")
	h.ok("image", "prune")
	h.ok("start", "a")
	if got := h.sh("a", "echo here"); got != "here" {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(list[0].Path); err != nil {
		t.Error(err)
	}
}
