package hostvirt

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeGuest takes ns for an instruction and exit for an exit, on a clock of its own.
type fakeGuest struct {
	clock    time.Time
	ns       float64
	exit     time.Duration
	executed uint64
	err      error
}

func (g *fakeGuest) run(iterations uint64) error {
	g.executed += 2 * iterations
	g.clock = g.clock.Add(g.exit + time.Duration(g.ns*float64(2*iterations)))
	return g.err
}

func (g *fakeGuest) now() time.Time { return g.clock }

func TestMeasure(t *testing.T) {
	for _, tc := range []struct {
		name     string
		ns       float64
		exit     time.Duration
		good     bool
		maxTotal time.Duration
	}{
		{"hardware", 0.3, 2 * time.Microsecond, true, time.Millisecond},
		{"nested hardware with dear exits", 0.5, 80 * time.Microsecond, true, 10 * time.Millisecond},
		{"emulated in the kernel", 400, 5 * time.Microsecond, false, 400 * time.Millisecond},
		{"single-stepped", 20_000, 50 * time.Microsecond, false, 400 * time.Millisecond},
		{"hardly moves at all", 1e6, time.Millisecond, false, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := &fakeGuest{clock: time.Unix(0, 0), ns: tc.ns, exit: tc.exit}
			ns, err := measure(t.Context(), g, g.now)
			if err != nil {
				t.Fatal(err)
			}
			if v := verdict(ns, true); v.Good != tc.good || !v.Usable || !v.valid() {
				t.Errorf("%+v, want good = %v", v, tc.good)
			}
			if took := g.clock.Sub(time.Unix(0, 0)); took > tc.maxTotal {
				t.Errorf("the probe takes %v, want at most %v", took, tc.maxTotal)
			}
			if tc.good && g.executed < probeInstructions {
				t.Errorf("a good KVM was judged after %d instructions", g.executed)
			}
		})
	}
}

func TestMeasureEnds(t *testing.T) {
	g := &fakeGuest{ns: 1, err: errors.New("broken")}
	if _, err := measure(t.Context(), g, g.now); !errors.Is(err, g.err) {
		t.Errorf("%v, want the guest's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measure(ctx, &fakeGuest{ns: 1}, time.Now); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
}

// On whatever host this runs: the probe comes to a verdict that says why.
func TestProbeThisHost(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kvm.json")
	v, err := ProbeKVM(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", v)
	if v.Reason == "" || v.Good && !v.Usable {
		t.Errorf("no verdict: %+v", v)
	}
	if v.NsPerInstruction == 0 {
		t.Skip("no guest can be run here, so there is nothing to cache")
	}
	again, err := ProbeKVM(t.Context(), file)
	if err != nil || again != v {
		t.Errorf("the second probe measured anew: %+v, %v; want %+v", again, err, v)
	}
}

func TestCacheIsDistrusted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kvm.json")
	good := verdict(0.5, true)
	write := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !canOpen() {
		t.Skip("/dev/kvm cannot be opened here, so no cached verdict is ever believed")
	}
	write(cached{Key: "k", KVM: good})
	if v, ok := readCache(file, "k"); !ok || v != good {
		t.Fatalf("%+v, %v; want the verdict back", v, ok)
	}
	for name, content := range map[string]any{
		"another host":    cached{Key: "other", KVM: good},
		"no verdict":      cached{Key: "k"},
		"a contradiction": cached{Key: "k", KVM: KVM{Usable: true, Good: true, Reason: "r", NsPerInstruction: 500}},
		"another shape":   []int{1},
	} {
		write(content)
		if v, ok := readCache(file, "k"); ok {
			t.Errorf("%s: believed: %+v", name, v)
		}
	}
	for name, content := range map[string]string{"empty": "", "cut": `{"key":"k","kv`, "binary": "\x00\xff"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := readCache(file, "k"); ok {
			t.Errorf("%s: believed", name)
		}
	}
	if _, ok := readCache(filepath.Join(t.TempDir(), "none"), "k"); ok {
		t.Error("a missing cache was believed")
	}
}
