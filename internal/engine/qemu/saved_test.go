package qemu

import (
	"context"
	le "encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// counterAt is where guestCounts counts, in the guest's memory, and filledBytes what it fills meanwhile, four bytes a count.
const (
	counterAt   = 0x200000
	filledBytes = 4 << 20
)

// guestCounts says hello and then counts and fills memory for ever.
var guestCounts = append(hello(),
	0xbf, 0, 0, 0x40, 0, // mov edi, 0x400000
	0xff, 0x05, 0, 0, 0x20, 0, // again: inc dword [counterAt]
	0x89, 0x3f, // mov [edi], edi
	0x83, 0xc7, 0x04, // add edi, 4
	0x81, 0xe7, 0xff, 0xff, 0x3f, 0, // and edi, filledBytes-1
	0x81, 0xcf, 0, 0, 0x40, 0, // or edi, 0x400000
	0xeb, 0xe7, // jmp again
)

// pauseFilled pauses a guest once it has filled its memory.
func pauseFilled(t *testing.T, m *machine) {
	t.Helper()
	for pause(t, m); counter(t, m) < filledBytes/4; pause(t, m) {
		if err := m.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// counter reads where a paused guest has come to.
func counter(t *testing.T, m *machine) uint32 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "counter")
	err := m.currentMonitor().run(t.Context(), qmpCommand{Execute: "pmemsave", Arguments: map[string]any{"val": counterAt, "size": 4, "filename": path}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return le.LittleEndian.Uint32(b)
}

func pause(t *testing.T, m *machine) {
	t.Helper()
	if err := m.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSaveAndRestore(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestCounts)
	spec.Spares = []sandbox.Spare{{}, {ReadOnly: true}}
	parent := launch(t, e, spec)
	if _, err := parent.Save(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "not paused") {
		t.Errorf("a microVM that runs was saved: %v", err)
	}
	pauseFilled(t, parent)
	saved, err := parent.Save(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := counter(t, parent)
	if saved, err = e.Finish(t.Context(), spec, saved); err != nil {
		t.Fatal(err)
	}
	if ids, err := process.FindByArg(marker(finishing(spec.ID))); err != nil || len(ids) != 0 {
		t.Errorf("processes %v are left of Finish, %v", ids, err)
	}
	checkFiles(t, saved)
	if err := parent.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if paused, err := parent.Paused(t.Context()); err != nil || paused {
		t.Errorf("the parent is paused after it was resumed: %v", err)
	}
	var clones []*machine
	for range 2 {
		s := newSpec(t, nil)
		s.Kernel, s.Initrd = sandbox.KernelImage{}, ""
		s.From = &saved
		upper := filepath.Join(s.LogDir, "upper")
		if err := os.WriteFile(upper, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		s.Disks = append(s.Disks, sandbox.Disk{Role: sandbox.Upper, Path: upper, FS: "ext4"})
		m := launch(t, e, s)
		if paused, err := m.Paused(t.Context()); err != nil || paused {
			t.Errorf("a restored guest is paused: %v", err)
		}
		pause(t, m)
		if n := counter(t, m); n < at || n == 0 {
			t.Errorf("a clone has counted to %d, after its parent has to %d", n, at)
		}
		if said := readLog(t, s, "console.log"); said != "" {
			t.Errorf("a restored guest began anew: %q", said)
		}
		if m.Record().LinkToken != parent.Record().LinkToken {
			t.Error("a clone waits for another link token than its parent")
		}
		if d := m.GuestDisks(); len(d) != 2 || d[1].Role != sandbox.Upper || d[1].SizeBytes != 4<<20 || d[1].Rebind {
			t.Errorf("the clone's disks are %+v", d)
		}
		clones = append(clones, m)
	}
	// A clone can be saved as its parent was, but that it has a link from the start, which nobody had with the parent.
	again, err := clones[0].Save(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	was, _ := parseVariant(saved.Variant)
	is, _ := parseVariant(again.Variant)
	if want := (variant{legacy: true}); is != want || was != (variant{legacy: true, unlinked: true}) {
		t.Errorf("the variants are %q and %q", saved.Variant, again.Variant)
	}
	if _, err := e.Finish(t.Context(), spec, again); err != nil {
		t.Error(err)
	}
	for _, m := range append(clones, parent) {
		if err := m.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// checkFiles: the files are all that is there, and the memory's has holes where it is zero.
func checkFiles(t *testing.T, saved sandbox.SavedState) {
	t.Helper()
	entries, err := os.ReadDir(saved.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, saved.Files) {
		t.Errorf("the files %q are there, want %q", names, saved.Files)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(saved.Dir, memoryFile), &st); err != nil {
		t.Fatal(err)
	}
	if n := st.Blocks * 512; n < filledBytes || n > 2*filledBytes {
		t.Errorf("the memory of a guest that has filled %d bytes takes %d bytes of disk", filledBytes, n)
	}
}

// savedCounter is the finished state of a guest that counts.
func savedCounter(t *testing.T, e *Engine) sandbox.SavedState {
	t.Helper()
	spec := newSpec(t, guestCounts)
	m := launch(t, e, spec)
	pause(t, m)
	saved, err := m.Save(t.Context(), t.TempDir())
	if err == nil {
		saved, err = e.Finish(t.Context(), spec, saved)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	return saved
}

// A state that does not fit, or is damaged, is refused in words, and nothing is left of the attempt.
func TestRestoreFails(t *testing.T) {
	e := newEngine(t)
	saved := savedCounter(t, e)
	whole, err := os.ReadFile(filepath.Join(saved.Dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*sandbox.MachineSpec)
		state  []byte // instead of the right one
		want   string
	}{
		{"its end is missing", nil, whole[:len(whole)/2], "QEMU said: "},
		{"it is empty", nil, []byte{}, "is empty"},
		{"it is something else", nil, []byte("not a state at all"), "QEMU said: "},
		{"a byte is another", nil, append([]byte{whole[0] ^ 1}, whole[1:]...), "QEMU said: "},
		{"less memory", func(s *sandbox.MachineSpec) { s.MemoryMiB = 32 }, nil, "the file of its memory has"},
		{"other hardware", func(s *sandbox.MachineSpec) { s.From.Variant = "" }, nil, "QEMU said: "},
		{"another disk", func(s *sandbox.MachineSpec) { s.Disks[0].Role = "other" }, nil, "no free disk"},
		{"a disk too few", func(s *sandbox.MachineSpec) { s.From.Disks, s.Disks = nil, nil }, nil, "QEMU said: "},
		{"one that was not finished", func(s *sandbox.MachineSpec) { s.From.Files = []string{streamFile} }, nil, "not finished"},
		{"of another QEMU", func(s *sandbox.MachineSpec) { s.From.Version = "1.0" }, nil, "was taken by QEMU 1.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec, from := newSpec(t, nil), saved
			from.Disks = slices.Clone(saved.Disks)
			spec.From = &from
			if tc.change != nil {
				tc.change(&spec)
			}
			if tc.state == nil {
				tc.state = whole
			}
			if err := os.WriteFile(filepath.Join(saved.Dir, stateFile), tc.state, 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := e.Launch(t.Context(), spec)
			if err == nil {
				m.Kill(t.Context())
				t.Fatal("it was restored")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
			checkNothingLeft(t, spec)
		})
	}
}

// failing is a disk that is full from the start, or never takes anything.
type failing func() error

func (f failing) Write([]byte) (int, error) { return 0, f() }

// A guest that could not be saved is as it was.
func TestSaveFails(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestCounts)
	m := launch(t, e, spec)
	full := errors.New("the disk is full")
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, tc := range map[string]struct {
		ctx   context.Context
		write failing
		want  error
	}{
		"the disk is full": {t.Context(), func() error { return full }, full},
		"it is cancelled": {ctx, func() error {
			cancel(errTooLong)
			<-ctx.Done()
			return ctx.Err()
		}, errTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			if err := m.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			pauseFilled(t, m)
			at := counter(t, m)
			if err := m.migration.save(tc.ctx, m.currentMonitor(), tc.write, 1<<30, true); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if paused, err := m.Paused(t.Context()); err != nil || !paused {
				t.Errorf("the guest is not paused any more: %v", err)
			}
			for range 2 { // it can go on, be saved after all, and go on
				if err := m.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
				pause(t, m)
				if n := counter(t, m); n < at {
					t.Errorf("the guest counted back from %d to %d", at, n)
				}
				if _, err := m.Save(t.Context(), t.TempDir()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

var errTooLong = errors.New("it takes too long")

// What QEMU writes is bounded, whatever the guest has made of it.
func TestSaveIsBounded(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestCounts)
	m := launch(t, e, spec)
	pause(t, m)
	err := m.migration.save(t.Context(), m.currentMonitor(), io.Discard, 1000, true)
	if err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("%v, want that it is too much", err)
	}
}

// A daemon that comes back learns from QEMU that the guest is paused, also when it was saved.
func TestAdoptPaused(t *testing.T) {
	e := newEngine(t)
	from := savedCounter(t, e)
	spec := newSpec(t, nil)
	spec.From = &from
	m := launch(t, e, spec)
	rec := m.Record()
	pause(t, m)
	for range 2 {
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
		adopted, err := newEngine(t).Adopt(t.Context(), spec, rec)
		if err != nil {
			t.Fatal(err)
		}
		m = adopted.(*machine)
		if paused, err := m.Paused(t.Context()); err != nil || !paused {
			t.Errorf("it is not paused: %v", err)
		}
		saved, err := m.Save(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if !alike(saved.CPU, from.CPU) { // the rate of the counter is measured anew
			t.Errorf("another daemon says that the CPU is %q, and not %q", saved.CPU, from.CPU)
		}
		from.Dir, from.Files, from.CPU = saved.Dir, saved.Files, saved.CPU
		if diff := cmp.Diff(from, saved); diff != "" {
			t.Errorf("another daemon saves something else (-want +got):\n%s", diff)
		}
	}
	if err := m.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if paused, err := m.Paused(t.Context()); err != nil || paused {
		t.Errorf("it is paused still: %v", err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitDone(t, m)
	checkNothingLeft(t, spec)
}

func TestRestorable(t *testing.T) {
	e := newEngine(t)
	bin, err := e.binaries.find(t.Context(), sandbox.X8664)
	if err != nil {
		t.Fatal(err)
	}
	good := sandbox.SavedState{Engine: engineName, Version: bin.build, Arch: sandbox.X8664, Accelerator: accelTCG, CPU: counterCPU(e.tsc.KHz())}
	for name, tc := range map[string]struct {
		change func(*sandbox.SavedState)
		want   string // empty: it can be restored
	}{
		"the same host":         {func(*sandbox.SavedState) {}, ""},
		"another engine":        {func(s *sandbox.SavedState) { s.Engine = "firecracker" }, "one of firecracker"},
		"another QEMU":          {func(s *sandbox.SavedState) { s.Version = "9.9.9" }, "taken by QEMU 9.9.9, and this is QEMU "},
		"another accelerator":   {func(s *sandbox.SavedState) { s.Accelerator = accelKVM }, "accelerator kvm, and here it would be tcg"},
		"another counter":       {func(s *sandbox.SavedState) { s.CPU = counterCPU(e.tsc.KHz() * 2) }, "needs another CPU"},
		"a counter of no sense": {func(s *sandbox.SavedState) { s.CPU = "x" }, "needs another CPU"},
	} {
		s := good
		tc.change(&s)
		err := e.Restorable(t.Context(), s)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestVariant(t *testing.T) {
	for _, v := range []variant{{}, {legacy: true}, {unlinked: true}, {begun: true}, {true, true, true}} {
		if got, err := parseVariant(v.String()); err != nil || got != v {
			t.Errorf("%+v became %+v, %v", v, got, err)
		}
	}
	if _, err := parseVariant("legacy timers, on fire"); err == nil {
		t.Error("a variant that is not known was taken")
	}
}

func TestAlike(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{counterCPU(2_600_000), counterCPU(2_600_000), true},
		{counterCPU(2_600_000), counterCPU(2_600_500), true},
		{counterCPU(2_600_000), counterCPU(2_601_000), false},
		{counterCPU(2_600_000), "QEMU's own", false},
		{"QEMU's own", counterCPU(2_600_000), false},
		{counterCPU(2_600_000) + "x", counterCPU(2_600_000), false},
		{"GenuineIntel 6 143 8", "GenuineIntel 6 143 8", true},
		{"GenuineIntel 6 143 8", "GenuineIntel 6 143 9", false},
	} {
		if got := alike(tc.a, tc.b); got != tc.want {
			t.Errorf("%q and %q: %t", tc.a, tc.b, got)
		}
	}
}
