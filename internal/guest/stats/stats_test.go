package stats

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSample(t *testing.T) {
	proc := t.TempDir()
	for name, text := range map[string]string{
		"stat":            "cpu  100 20 30 5000 400 5 6 7 50 0\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 5\n",
		"meminfo":         "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\nBuffers: 1 kB\nCached: 20 kB\nSwapCached: 7 kB\nSReclaimable: 300 kB\n",
		"loadavg":         "0.50 1.25 10.00 1/70 123\n",
		"vmstat":          "nr_free_pages 1\noom_kill 3\n",
		"pressure/memory": "some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=1\n",
		"1/stat":          "1 (akguest) S 0 1",
		"2/stat":          "2 (kthreadd) S 0 0",
		"3/stat":          "3 (kworker) S 2 0",
		"40/stat":         "40 (a) b) 2) S 1 40",
		"41/stat":         "41 (sh) S 40 40",
	} {
		path := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := unix.Open(proc, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	got, err := Source{Proc: proc, Upper: func() int { return dir }}.Sample()
	if err != nil {
		t.Fatal(err)
	}
	if got.UptimeNs <= 0 || got.DiskTotal == 0 || got.DiskUsed > got.DiskTotal || got.InodesUsed > got.InodesTotal {
		t.Errorf("%v", got)
	}
	want := &guestv1.SampleResponse{
		UptimeNs: got.UptimeNs, DiskTotal: got.DiskTotal, DiskUsed: got.DiskUsed, InodesTotal: got.InodesTotal, InodesUsed: got.InodesUsed,
		Cpus: 2, CpuBusyNs: 168 * 10_000_000, MemoryTotal: 1000 << 10, MemoryAvailable: 600 << 10, MemoryCache: 321 << 10,
		Processes: 2, LoadMilli: []uint32{500, 1250, 10000}, OomKills: 3,
		Pressure: []*guestv1.Pressure{{Resource: "memory", SomeAvg10Centi: 1234, FullAvg10Centi: 100}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	if _, err := (Source{Proc: t.TempDir(), Upper: func() int { return dir }}).Sample(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestParseKill(t *testing.T) {
	for text, want := range map[string]string{
		"3,451,9876543,-;Out of memory: Killed process 123 (a) b) total-vm:10kB, anon-rss:3kB\n SUBSYSTEM=x": "a) b",
		"3,451,9876543,-;Memory cgroup out of memory: Killed process 123 (sh) total-vm:10kB":                 "sh",
		"11,451,9876543,-;Out of memory: Killed process 123 (liar) total-vm:10kB":                            "",
		"3,451,9876543,-;Out of memory: Killed process x (sh) total-vm:10kB":                                 "",
		"3,451,9876543,-;oom_reaper: reaped process 123 (sh), now anon-rss:0kB":                              "",
		"Out of memory: Killed process 123 (sh) total-vm:1":                                                  "",
		"": "",
	} {
		pid, name, ok := parseKill([]byte(text))
		if name != want || ok != (want != "") || ok && pid != 123 {
			t.Errorf("%q: %d %q %v", text, pid, name, ok)
		}
	}
}

func TestWatchOOM(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan *guestv1.OOMKill, 10)
	ended := make(chan error)
	go func() {
		ended <- WatchOOM(ctx, path, func(k *guestv1.OOMKill) error { got <- k; return nil })
	}()
	const record = "3,1,1,-;Out of memory: Killed process 7 (hog) total-vm:1kB"
	if _, err := log.WriteString(record); err != nil {
		t.Fatal(err)
	}
	if k := <-got; k.Pid != 7 || k.Process != "hog" || k.Count != 1 {
		t.Errorf("%v", k)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
