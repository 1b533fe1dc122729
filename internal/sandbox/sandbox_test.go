package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestValidateName(t *testing.T) {
	for _, name := range []string{"a", "my-project", "a.b_c-1", strings.Repeat("a", 64)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "/", "a/b", "..", "a..b", ".a", "-a", "a-", "A", "a b", "a\n", "ä", "a\x00", strings.Repeat("a", 65)} {
		if err := ValidateName(name); KindOf(err) != Invalid {
			t.Errorf("%q: %v, want an invalid error", name, err)
		}
	}
}

func TestValidateSpec(t *testing.T) {
	good := Spec{Name: "a", Arch: X8664, Image: "base", VCPUs: 1, MemoryMiB: 128, DiskMiB: 1024}
	host := Host{MemoryMiB: 4096}
	if err := good.Validate(host); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"unknown arch":     func(s *Spec) { s.Arch = "vax" },
		"no vcpus":         func(s *Spec) { s.VCPUs = 0 },
		"1000 vcpus":       func(s *Spec) { s.VCPUs = 1000 },
		"no memory":        func(s *Spec) { s.MemoryMiB = 0 },
		"8 MiB":            func(s *Spec) { s.MemoryMiB = 8 },
		"more than host":   func(s *Spec) { s.MemoryMiB = 4097 },
		"negative memory":  func(s *Spec) { s.MemoryMiB = -1 },
		"no disk":          func(s *Spec) { s.DiskMiB = 0 },
		"unknown agent":    func(s *Spec) { s.Agent = "hal" },
		"idle at once":     func(s *Spec) { s.IdleTimeoutMs = 999 },
		"idle before":      func(s *Spec) { s.IdleTimeoutMs = -1000 },
		"idle in 2 years":  func(s *Spec) { s.IdleTimeoutMs = 2 * 365 * 24 * 3600 * 1000 },
		"CID of the host":  func(s *Spec) { s.VsockCID = 2 },
		"CID of everybody": func(s *Spec) { s.VsockCID = 0xffffffff },
	} {
		s := good
		change(&s)
		err := s.Validate(host)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Invalid || e.Hint == "" {
			t.Errorf("%s: %#v, want an invalid error with a hint", name, err)
		}
	}
}

func TestTransitions(t *testing.T) {
	if len(States()) != len(transitions) {
		t.Errorf("%d states are listed, of %d", len(States()), len(transitions))
	}
	for from, tos := range transitions {
		for _, to := range tos {
			if !to.Valid() {
				t.Errorf("%s → %s: no such state", from, to)
			}
			if err := Next("a", from, to); err != nil {
				t.Error(err)
			}
		}
		if from != Removing && Next("a", from, Removing) != nil {
			t.Errorf("%s cannot be removed", from)
		}
	}
	for _, tc := range [][2]State{{Created, Running}, {Running, Starting}, {Stopped, Stopping}, {Removing, Starting}, {Removing, Removing}, {"", Starting}} {
		err := Next("a", tc[0], tc[1])
		var te *TransitionError
		if !errors.As(err, &te) || te.From != tc[0] || te.To != tc[1] || KindOf(err) != Conflict {
			t.Errorf("%v: %v, want a transition error", tc, err)
		}
	}
}

func TestErrorKeepsItsCause(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("outer: %w", Errorf(NotFound, "hint", "look for it: %w", cause))
	if KindOf(err) != NotFound || !errors.Is(err, cause) {
		t.Error(err)
	}
	if KindOf(cause) != Internal || KindOf(nil) != Internal {
		t.Error("an unknown error has a kind of its own")
	}
}

func TestHygieneAfter(t *testing.T) {
	old := &Hygiene{From: FromBoot, Items: []HygieneItem{{Name: "clock", Result: HygieneFail}, {Name: "hostname", Result: HygienePass}}}
	itself := &Hygiene{From: FromItself, Items: []HygieneItem{{Name: "clock", Result: HygienePass}}}
	if got := itself.After(old); len(got.Items) != 2 || got.Failed() || got.Items[1].Name != "hostname" {
		t.Errorf("%+v", got)
	}
	copied := &Hygiene{From: FromSnapshot}
	if got := copied.After(old); len(got.Items) != 0 {
		t.Errorf("%+v", got)
	}
}
