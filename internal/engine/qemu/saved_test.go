package qemu

import (
	le "encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// counterAt is where guestCounts counts, in the guest's memory.
const counterAt = 0x200000

// guestCounts says hello and then counts for ever: again: inc dword [counterAt]; jmp again.
var guestCounts = append(hello(), 0xff, 0x05, 0, 0, 0x20, 0, 0xeb, 0xf8)

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
	for pause(t, parent); counter(t, parent) == 0; pause(t, parent) { // it has yet to begin
		if err := parent.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
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
	// A clone can be saved as its parent was.
	again, err := clones[0].Save(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
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
	if n := st.Blocks * 512; n == 0 || n > 4<<20 {
		t.Errorf("the memory of a guest of a few pages takes %d bytes of disk", n)
	}
}
