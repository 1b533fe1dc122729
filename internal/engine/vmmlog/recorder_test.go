package vmmlog

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A guest that prints without end fills neither the disk nor the daemon's memory, and is never made to wait.
func TestRecorderIsBounded(t *testing.T) {
	const max = 64 << 10
	path := filepath.Join(t.TempDir(), "console.log")
	to, err := open(t, path, max, true)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ours, guest := io.Pipe()
	r := Record(ours, to, slog.New(slog.DiscardHandler))
	chunk := bytes.Repeat([]byte("all work and no play\n"), 100)
	for range 500 {
		if _, err := guest.Write(chunk); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() > max {
			t.Fatalf("%d bytes, %v", info.Size(), err)
		}
	}
	guest.Close()
	r.Finish()
	if info, err := os.Stat(path); err != nil || info.Size() < max/3 {
		t.Errorf("%d bytes, %v; want the end of it", info.Size(), err)
	}
}

// A log that cannot be written loses the output and does not hold up the guest.
func TestRecorderGoesOnWithoutLog(t *testing.T) {
	to, err := open(t, filepath.Join(t.TempDir(), "console.log"), 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	to.Close()
	ours, guest := io.Pipe()
	r := Record(ours, to, slog.New(slog.DiscardHandler))
	for range 10 {
		if _, err := guest.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
	}
	r.Stop()
	if _, err := guest.Write([]byte("x")); err == nil {
		t.Error("a stopped Recorder still reads")
	}
}

func TestAllowance(t *testing.T) {
	now := time.Unix(1000, 0)
	a := newAllowance(now)
	reads := 0
	for a.take(now) {
		reads++
	}
	if reads < readBurst-2 || reads > readBurst {
		t.Errorf("a burst has %d reads, want %d", reads, readBurst)
	}
	// From then on, a guest that floods is read at the rate, whatever it does.
	reads = 0
	for i := range 200 {
		now = now.Add(readPause)
		for a.take(now) {
			reads++
		}
		if i == 0 && reads == 0 {
			t.Error("nothing is read after a pause")
		}
	}
	if most := int(200*readPause.Seconds()*readRate) + 200; reads > most {
		t.Errorf("%d reads in 10 s, want at most %d", reads, most)
	}
	// Silence makes up for it, but not without end.
	now = now.Add(time.Hour)
	for reads = 0; a.take(now); reads++ {
	}
	if reads > readBurst {
		t.Errorf("a burst of %d after an hour", reads)
	}
}
