package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// unfinished is what Save would have left in dir.
func unfinished(t *testing.T, e *Engine, dir string) sandbox.SavedState {
	t.Helper()
	bin, err := e.binaries.find(t.Context(), sandbox.X8664)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, streamFile), []byte("not a stream"), 0o600); err != nil {
		t.Fatal(err)
	}
	return sandbox.SavedState{
		Dir: dir, Files: []string{streamFile}, Engine: engineName, Version: bin.build, Arch: sandbox.X8664, Accelerator: accelTCG,
		CPU: counterCPU(e.tsc.KHz()), LinkToken: strings.Repeat("0", 32),
	}
}

func TestFinishFails(t *testing.T) {
	e := newEngine(t)
	spec := newSpec(t, nil)
	for name, tc := range map[string]struct {
		change func(*sandbox.SavedState)
		want   string
	}{
		"damaged":      {func(*sandbox.SavedState) {}, "Not a migration stream"},
		"finished":     {func(s *sandbox.SavedState) { s.Files = []string{memoryFile, stateFile} }, "not one that was just saved"},
		"another QEMU": {func(s *sandbox.SavedState) { s.Version = "1.0" }, "taken by QEMU 1.0"},
		"empty":        {func(s *sandbox.SavedState) { os.Truncate(filepath.Join(s.Dir, streamFile), 0) }, "is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			saved := unfinished(t, e, t.TempDir())
			tc.change(&saved)
			if _, err := e.Finish(t.Context(), spec, saved); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want an error with %q", err, tc.want)
			}
		})
	}
}

// A disk of the host that has no room for the memory is told as that.
func TestFinishOnFullDisk(t *testing.T) {
	e, spec := newEngine(t), newSpec(t, guestCounts)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, fmt.Sprintf("size=%d", filledBytes+filledBytes/2)); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	m := launch(t, e, spec)
	pauseFilled(t, m)
	saved, err := m.Save(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(t.Context(), spec, saved); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want that there is no space", err)
	}
}

const finishIn = "AGENTKERNEL_TEST_FINISH_IN"

// TestFinishHelper is the daemon of TestFinishEndsWithDaemon.
func TestFinishHelper(t *testing.T) {
	dir := os.Getenv(finishIn)
	if dir == "" {
		t.Skip("it is for another test")
	}
	e := New(Options{Log: slog.New(slog.DiscardHandler), CacheDir: dir, ForceAccel: accelTCG})
	_, err := e.Finish(context.Background(), sandbox.MachineSpec{ID: filepath.Base(dir), Arch: sandbox.X8664, VCPUs: 1, MemoryMiB: 64}, unfinished(t, e, dir))
	t.Fatal(err)
}

// A daemon that is killed while it finishes a state leaves no process.
func TestFinishEndsWithDaemon(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends a child with its parent")
	}
	id := newID()
	dir := filepath.Join(t.TempDir(), id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// This QEMU says that it runs, and then waits for ever.
	fifo := filepath.Join(dir, "fifo")
	for _, path := range []string{fifo, fifo + "2"} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := fakeQEMU(t, fmt.Sprintf(`case "$*" in *--version*) echo "QEMU emulator version 8.2.1"; exit;; esac; echo runs >%s; read -r x <%[1]s2`, fifo))
	helper := exec.Command(os.Args[0], "-test.run=^TestFinishHelper$")
	helper.Env = append(os.Environ(), finishIn+"="+dir, "PATH="+bin+":"+os.Getenv("PATH"))
	helper.Stdout, helper.Stderr = io.Discard, io.Discard
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	defer helper.Wait()
	f, err := os.Open(fifo) // waits for the QEMU
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := bufio.NewReader(f).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ids, err := process.FindByArg(marker(finishing(id)))
	if err != nil || len(ids) != 1 {
		t.Fatalf("the QEMUs are %v, %v", ids, err)
	}
	proc, err := process.Open(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-proc.Done():
	case <-time.After(time.Minute):
		t.Error("the QEMU outlives its daemon")
		proc.Kill()
	}
}
