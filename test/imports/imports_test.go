// Package imports checks the direction of the dependencies between the project's packages: docs/ARCHITECTURE.md.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/agentkernel/agentkernel/"

// rules say what a package (and every package below it) may import of this module. A package that has no rule, and an
// import that its rule does not name, fail the test: whoever adds an edge decides about it here.
var rules = map[string][]string{
	"cmd/agentkernel":     {"internal/cli"},
	"cmd/akguest":         {"internal/guest", "internal/transport", "api/guest"},
	"api":                 {},
	"images":              {},
	"pkg/client":          {"api/v1", "internal/unixsock", "internal/transport/wsstream"},
	"internal/cli":        {"internal/portforward", "internal/transport/duplex", "internal/archive", "internal/app", "internal/paths", "internal/config", "internal/sandbox", "internal/bench", "internal/kernel", "internal/image", "internal/terminal", "internal/asciicast", "pkg/client", "api/v1"},
	"internal/terminal":   {},
	"internal/asciicast":  {},
	"internal/bench":      {"internal/bench", "internal/procusage", "internal/sandbox", "pkg/client", "api/v1"},
	"internal/app":        {"internal/pressure", "internal/transport/bulk", "internal/config", "internal/hostcheck", "internal/vmmrelease", "internal/paths", "internal/hangup", "internal/httpapi", "internal/manager", "internal/sandbox", "internal/store", "internal/snapshot", "internal/engine", "internal/hostvirt", "internal/image", "internal/kernel", "internal/disk", "internal/project", "internal/initramfs", "internal/icount", "internal/unixsock", "pkg/client", "api/v1"},
	"internal/httpapi":    {"internal/snapshot", "internal/transport/duplex", "internal/transport/wsstream", "internal/events", "internal/manager", "internal/sandbox", "internal/guestrpc", "api/v1"},
	"internal/events":     {},
	"internal/procusage":  {},
	"internal/pressure":   {},
	"internal/metrics":    {},
	"internal/manager":    {"internal/transport/bulk", "internal/snapshot", "internal/portforward", "internal/transport/duplex", "internal/metrics", "internal/procusage", "internal/events", "internal/sandbox", "internal/store", "internal/guestrpc", "internal/transport/chunk", "api/guest"},
	"internal/sandbox":    {},
	"internal/store":      {"internal/sandbox"},
	"internal/snapshot":   {"internal/filelock", "internal/sandbox", "internal/store", "internal/disk"},
	"internal/paths":      {},
	"internal/config":     {"internal/sandbox"},
	"internal/engine":     {"internal/sandbox", "internal/hostvirt", "internal/process", "internal/unixsock", "internal/transport", "internal/icount", "internal/engine"},
	"internal/hostvirt":   {"internal/sandbox"},
	"internal/process":    {"internal/sandbox"},
	"internal/unixsock":   {},
	"internal/hangup":     {},
	"internal/icount":     {"internal/sandbox"},
	"internal/transport":  {"internal/transport"},
	"internal/guestrpc":   {"api/guest", "internal/sandbox", "internal/transport/chunk", "internal/transport/pieces", "internal/transport/bulk"},
	"internal/archive":    {},
	"internal/initramfs":  {"internal/sandbox"},
	"internal/guest":      {"internal/guest", "internal/transport", "internal/archive", "api/guest"},
	"internal/image":      {"internal/sandbox", "internal/disk", "internal/filelock", "internal/image", "images"},
	"internal/kernel":     {"internal/sandbox", "internal/filelock", "internal/download", "images"},
	"internal/download":   {},
	"internal/vmmrelease": {"internal/download", "internal/filelock", "internal/sandbox"},
	"internal/hostcheck":  {},
	"internal/filelock":   {},
	"internal/disk":       {"internal/sandbox"},
	"internal/project":    {"internal/sandbox", "internal/disk"},
	"test":                nil, // anything
	"internal/vmtest":     nil,
	"internal/guest/boot": {"internal/guest"},

	// It copies what a VMM has saved.
	"internal/engine/firecracker": {"internal/sandbox", "internal/hostvirt", "internal/process", "internal/unixsock", "internal/transport", "internal/disk", "internal/engine"},

	"internal/portforward": {"internal/sandbox", "internal/transport/duplex"},
}

type listed struct {
	ImportPath string
	Imports    []string
}

func TestDependencyRule(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	seen := 0
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := ruleOf(name)
		if !ok {
			t.Errorf("%s has no rule", name)
			continue
		}
		if allowed == nil {
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if ours && !within(imp, allowed) {
				t.Errorf("%s must not import %s", name, imp)
			}
			if !ours && name == "internal/sandbox" && strings.Contains(strings.Split(imp, "/")[0], ".") {
				t.Errorf("%s must not import %s: standard library only", name, imp)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list found %d packages", seen)
	}
}

// ruleOf is the rule of the longest prefix of a package's path.
func ruleOf(name string) ([]string, bool) {
	for {
		if rule, ok := rules[name]; ok {
			return rule, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return nil, false
		}
		name = name[:i]
	}
}

func within(name string, roots []string) bool {
	for _, root := range roots {
		if name == root || strings.HasPrefix(name, root+"/") {
			return true
		}
	}
	return false
}
