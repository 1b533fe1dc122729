package guestrpc

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// statsGuest says of itself what a test wants.
type statsGuest struct {
	sample func() (*guestv1.SampleResponse, error)
	watch  func(guestv1.Stats_WatchServer) error
}

func (g *statsGuest) Sample(context.Context, *guestv1.SampleRequest) (*guestv1.SampleResponse, error) {
	return g.sample()
}

func (g *statsGuest) Watch(_ context.Context, _ *guestv1.KernelEventsRequest, s guestv1.Stats_WatchServer) error {
	return g.watch(s)
}

func serveStats(t *testing.T, g *statsGuest) func(context.Context) (Conn, error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	guestv1.RegisterStatsService(server, g)
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(context.Background(), l) }()
	t.Cleanup(func() { server.Close(); <-served })
	return func(ctx context.Context) (Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
}

func goodSample() *guestv1.SampleResponse {
	return &guestv1.SampleResponse{
		UptimeNs: 10e9, Cpus: 2, CpuBusyNs: 15e9, MemoryTotal: 1 << 30, MemoryAvailable: 1 << 29, MemoryCache: 1 << 28,
		DiskTotal: 1 << 30, DiskUsed: 1 << 20, InodesTotal: 100, InodesUsed: 7, Processes: 3, LoadMilli: []uint32{500, 20, 10}, OomKills: 1,
		Pressure: []*guestv1.Pressure{{Resource: "io", SomeAvg10Centi: 1234}},
	}
}

func TestSample(t *testing.T) {
	s, err := Sample(t.Context(), serveStats(t, &statsGuest{sample: func() (*guestv1.SampleResponse, error) { return goodSample(), nil }}))
	if err != nil || s.CPUs != 2 || s.Load[0] != 0.5 || s.Pressure[0].Some != 12.34 || s.DiskUsed != 1<<20 {
		t.Errorf("%+v, %v", s, err)
	}
	for name, change := range map[string]func(*guestv1.SampleResponse){
		"negative uptime":   func(r *guestv1.SampleResponse) { r.UptimeNs = -1 },
		"long uptime":       func(r *guestv1.SampleResponse) { r.UptimeNs = 1 << 62 },
		"no CPU":            func(r *guestv1.SampleResponse) { r.Cpus = 0 },
		"many CPUs":         func(r *guestv1.SampleResponse) { r.Cpus = 1 << 31 },
		"negative CPU time": func(r *guestv1.SampleResponse) { r.CpuBusyNs = -1 },
		"much CPU time":     func(r *guestv1.SampleResponse) { r.CpuBusyNs = 1 << 62 },
		"much memory":       func(r *guestv1.SampleResponse) { r.MemoryTotal = 1 << 63 },
		"available":         func(r *guestv1.SampleResponse) { r.MemoryAvailable = r.MemoryTotal + 1 },
		"cache":             func(r *guestv1.SampleResponse) { r.MemoryCache = r.MemoryTotal + 1 },
		"disk":              func(r *guestv1.SampleResponse) { r.DiskTotal = 1 << 60 },
		"disk used":         func(r *guestv1.SampleResponse) { r.DiskUsed = r.DiskTotal + 1 },
		"inodes":            func(r *guestv1.SampleResponse) { r.InodesUsed = r.InodesTotal + 1 },
		"processes":         func(r *guestv1.SampleResponse) { r.Processes = 1 << 31 },
		"kills":             func(r *guestv1.SampleResponse) { r.OomKills = 1 << 63 },
		"no load":           func(r *guestv1.SampleResponse) { r.LoadMilli = nil },
		"four loads":        func(r *guestv1.SampleResponse) { r.LoadMilli = append(r.LoadMilli, 1) },
		"high load":         func(r *guestv1.SampleResponse) { r.LoadMilli[2] = 1 << 31 },
		"resource":          func(r *guestv1.SampleResponse) { r.Pressure[0].Resource = "\x1b[2J" },
		"pressure":          func(r *guestv1.SampleResponse) { r.Pressure[0].FullAvg10Centi = 10001 },
		"much pressure":     func(r *guestv1.SampleResponse) { r.Pressure = make([]*guestv1.Pressure, 4) },
	} {
		r := goodSample()
		change(r)
		if s, err := checkStats(r); err == nil {
			t.Errorf("%s: accepted as %+v", name, s)
		}
	}
	for name, sample := range map[string]func() (*guestv1.SampleResponse, error){
		"error": func() (*guestv1.SampleResponse, error) { return nil, errors.New("bad \x1b[2Jnews") },
		"oversized": func() (*guestv1.SampleResponse, error) {
			return &guestv1.SampleResponse{LoadMilli: make([]uint32, 1<<20)}, nil
		},
	} {
		_, err := Sample(t.Context(), serveStats(t, &statsGuest{sample: sample}))
		if err == nil || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSampleEndsWithContext(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	ctx, cancel := context.WithCancel(t.Context())
	dial := serveStats(t, &statsGuest{sample: func() (*guestv1.SampleResponse, error) { cancel(); <-block; return goodSample(), nil }})
	if _, err := Sample(ctx, dial); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func kill(pid, count uint32, name string) *guestv1.KernelEvent {
	return &guestv1.KernelEvent{Event: &guestv1.KernelEvent_OomKill{OomKill: &guestv1.OOMKill{Pid: pid, Count: count, Process: name}}}
}

func TestWatch(t *testing.T) {
	for name, tc := range map[string]struct {
		event *guestv1.KernelEvent
		times int
		want  string
		seen  int // at least
	}{
		"good":    {kill(7, 1, "hog"), 2, "ended the stream", 2},
		"flood":   {kill(7, 1, "hog"), 1000, "faster than it may", 1},
		"empty":   {&guestv1.KernelEvent{}, 1, "unknown type", 0},
		"PID":     {kill(1<<31, 1, "hog"), 1, "cannot be", 0},
		"none":    {kill(7, 0, "hog"), 1, "cannot be", 0},
		"billion": {kill(7, 1<<31, "hog"), 1, "cannot be", 0},
		"name":    {kill(7, 1, strings.Repeat("x", 100)), 1, "cannot be", 0},
		"large":   {kill(7, 1, strings.Repeat("x", maxFrame)), 1, "frame of", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dial := serveStats(t, &statsGuest{watch: func(s guestv1.Stats_WatchServer) error {
				for range tc.times {
					if err := s.Send(tc.event); err != nil {
						return err
					}
				}
				return nil
			}})
			seen := 0
			err := Watch(t.Context(), dial, func(k OOMKill) {
				seen++
				if k != (OOMKill{7, "hog", 1}) {
					t.Errorf("%+v", k)
				}
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) || seen < tc.seen || seen > 2*maxEvents {
				t.Errorf("%v after %d events; want %q", err, seen, tc.want)
			}
		})
	}
}

func TestWatchEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dial := serveStats(t, &statsGuest{watch: func(s guestv1.Stats_WatchServer) error {
		_ = s.Send(kill(7, 1, "hog\x1b"))
		<-ctx.Done()
		return nil
	}})
	err := Watch(ctx, dial, func(k OOMKill) {
		if k.Process != "hog?" {
			t.Errorf("%q", k.Process)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Whatever bytes a guest answers with, what is accepted is within its bounds.
func FuzzStats(f *testing.F) {
	good, err := proto.Marshal(goodSample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		var r guestv1.SampleResponse
		if proto.Unmarshal(data, &r) == nil {
			s, err := checkStats(&r)
			if err == nil && (s.MemoryAvail > s.MemoryTotal || s.DiskUsed > s.DiskTotal || s.DiskTotal > 1<<53 || s.CPUs < 1 || s.Load[0] < 0 || s.CPUBusy < 0) {
				t.Errorf("%+v", s)
			}
		}
		var ev guestv1.KernelEvent
		if proto.Unmarshal(data, &ev) == nil {
			if k, err := checkKill(&ev); err == nil && (k.Count < 1 || k.PID < 0 || strings.ContainsFunc(k.Process, func(r rune) bool { return r < ' ' })) {
				t.Errorf("%+v", k)
			}
		}
	})
}
