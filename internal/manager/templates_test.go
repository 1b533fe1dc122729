package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// withTemplates lets managers keep templates.
func withTemplates(h *host) {
	kernel := filepath.Join(h.dir, "kernel")
	if err := os.WriteFile(kernel, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.wire = func(d *Deps) {
		templates, err := snapshot.OpenShared(filepath.Join(h.dir, "templates"))
		if err != nil {
			h.t.Fatal(err)
		}
		d.Templates, d.TemplateBytes, d.TemplateAge = templates, 1<<30, time.Hour
		d.ChooseEngine = func(context.Context, string, sandbox.Arch) (string, error) { return "fake", nil }
		d.Kernel = func(sandbox.Arch) (sandbox.KernelImage, error) {
			return sandbox.KernelImage{Path: kernel, Version: "6.1"}, nil
		}
		d.Initrd = func(context.Context, sandbox.Arch) (string, error) { return kernel, nil }
	}
}

func from(t *testing.T, rec sandbox.Record) string {
	t.Helper()
	if rec.Hygiene == nil {
		t.Fatal("nothing is known of its hygiene")
	}
	return rec.Hygiene.From
}

// Many starts at once want one template: one takes it, all go on from it, and nothing but their microVMs runs then.
func TestTemplate(t *testing.T) {
	h := newHost(t)
	withTemplates(h)
	m := h.boot()
	const n = 50
	var all sync.WaitGroup
	for i := range n {
		name := string(rune('a'+i%26)) + string(rune('0'+i/26))
		h.create(m, name)
		all.Go(func() {
			rec, err := m.Start(context.Background(), name, StartOptions{Timeout: time.Minute})
			if err != nil {
				t.Error(err)
			} else if rec.Hygiene.From != sandbox.FromTemplate || rec.Kernel != "6.1" {
				t.Errorf("%s: %+v", name, rec)
			}
		})
	}
	all.Wait()
	if h.engine.templates != 1 || h.engine.running() != n || len(m.Templates()) != 1 {
		t.Errorf("%d templates were taken, and %d VMMs run", h.engine.templates, h.engine.running())
	}

	// It is for all first starts of what it was made of, those of another daemon too, and for nothing else. Later starts, whose upper
	// disk is not new, have another.
	if _, err := m.Stop(t.Context(), "a0", time.Second); err != nil {
		t.Fatal(err)
	}
	m.Close()
	m = h.boot()
	if got := from(t, h.start(m, "a0")); got != sandbox.FromBoot { // which does not wait for that
		t.Error(got)
	}
	eventually(t, func() bool { return len(m.Templates()) == 2 })
	if _, err := m.Stop(t.Context(), "a0", time.Second); err != nil {
		t.Fatal(err)
	}
	if got := from(t, h.start(m, "a0")); got != sandbox.FromTemplate || h.engine.templates != 2 {
		t.Errorf("%s, %d templates were taken", got, h.engine.templates)
	}
	h.create(m, "new")
	if got := from(t, h.start(m, "new")); got != sandbox.FromTemplate || h.engine.templates != 2 {
		t.Errorf("%s, %d templates were taken", got, h.engine.templates)
	}
	cold := h.create(m, "cold")
	rec, err := m.Start(t.Context(), cold.Spec.Name, StartOptions{Timeout: time.Minute, Cold: true})
	if err != nil || from(t, rec) != sandbox.FromBoot || h.engine.templates != 2 {
		t.Errorf("%+v, %v, %d", rec.Hygiene, err, h.engine.templates)
	}
	larger := spec("larger")
	larger.MemoryMiB++
	if _, err := m.Create(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	if got := from(t, h.start(m, "larger")); got != sandbox.FromTemplate || h.engine.templates != 3 || len(m.Templates()) != 3 {
		t.Errorf("%s, %d templates were taken", got, h.engine.templates)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it does not come to that")
		}
	}
}

// Whatever is wrong with a template, the sandbox starts.
func TestTemplateFails(t *testing.T) {
	broken := errors.New("it is broken")
	for name, tc := range map[string]struct {
		step   string // of the engine, that fails
		damage func(*host)
		from   string
	}{
		"save":              {step: "save", from: sandbox.FromBoot},
		"finish":            {step: "finish", from: sandbox.FromBoot},
		"restorable":        {step: "restorable", from: sandbox.FromBoot},
		"guest":             {step: "disks", from: sandbox.FromBoot},
		"a damaged one":     {damage: func(h *host) { h.damage("*/state/" + memoryFile) }, from: sandbox.FromTemplate},
		"half a manifest":   {damage: func(h *host) { h.damage("*/manifest.json") }, from: sandbox.FromTemplate},
		"one that was left": {damage: func(h *host) { h.leave() }, from: sandbox.FromTemplate},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			withTemplates(h)
			m := h.boot()
			h.create(m, "a")
			name := "a"
			if tc.damage != nil {
				h.start(m, "a")
				if _, err := m.Stop(t.Context(), "a", 0); err != nil {
					t.Fatal(err)
				}
				m.Close()
				tc.damage(h)
				m = h.boot()
				name = "new"
				h.create(m, name)
			}
			h.engine.mu.Lock()
			h.engine.fails = func(step string) error {
				if step == tc.step {
					return broken
				}
				return nil
			}
			h.engine.mu.Unlock()
			if got := from(t, h.start(m, name)); got != tc.from {
				t.Errorf("it goes on from %s, want %s", got, tc.from)
			}
			if n := h.engine.running(); n != 1 {
				t.Errorf("%d VMMs run", n)
			}
			if entries, _ := os.ReadDir(filepath.Join(h.dir, "run")); len(entries) != 1 {
				t.Errorf("%v is left", entries)
			}
			if left, _ := filepath.Glob(filepath.Join(h.dir, "templates", ".*")); len(left) > 0 {
				t.Errorf("%v is left", left)
			}
			tried := h.engine.templates
			h.create(m, "b")
			if h.start(m, "b"); tc.from == sandbox.FromBoot && h.engine.templates > tried {
				t.Error("it is tried again at once")
			}
		})
	}
}

func (h *host) damage(pattern string) {
	files, err := filepath.Glob(filepath.Join(h.dir, "templates", pattern))
	if err != nil || len(files) != 1 {
		h.t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("{"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// leave is what a daemon leaves that dies while it takes a template.
func (h *host) leave() {
	dirs, err := filepath.Glob(filepath.Join(h.dir, "templates", "?*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range dirs {
		if filepath.Base(d) != "lock" {
			if err := os.Rename(d, filepath.Join(filepath.Dir(d), ".new-"+filepath.Base(d))); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	spec := sandbox.MachineSpec{ID: newID()}
	if err := os.Mkdir(filepath.Join(h.dir, "run", spec.ID), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.engine.Launch(context.Background(), spec); err != nil {
		h.t.Fatal(err)
	}
}

func TestTemplatesArePruned(t *testing.T) {
	h := newHost(t)
	withTemplates(h)
	m := h.boot()
	for i, name := range []string{"a", "b", "c"} {
		s := spec(name)
		s.MemoryMiB += i
		if _, err := m.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		h.start(m, name)
	}
	old, small := m.Templates()[1].ID, m.Templates()[2].ID
	then := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(h.dir, "templates", old, "manifest.json"), then, then); err != nil {
		t.Fatal(err)
	}
	m.pruneTemplates("")
	if list := m.Templates(); len(list) != 2 || list[0].ID == old || list[1].ID == old {
		t.Errorf("the one that was not used for long is not the one that is gone: %+v", list)
	}
	m.Close()
	inner := h.wire
	h.wire = func(d *Deps) {
		inner(d)
		d.TemplateBytes = 1
	}
	m = h.boot()
	m.pruneTemplates(small)
	if list := m.Templates(); len(list) != 1 || list[0].ID != small {
		t.Errorf("%+v", list)
	}
	if err := m.RemoveTemplate(small); err != nil || len(m.Templates()) != 0 {
		t.Error(err)
	}
	if err := m.RemoveTemplate("x"); sandbox.KindOf(err) != sandbox.NotFound {
		t.Error(err)
	}
}
