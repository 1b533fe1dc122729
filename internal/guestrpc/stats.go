package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// StatsCapability is what a guest agent names that answers Sample and Watch.
const StatsCapability = "stats"

// Stats is what a guest said that it uses. Each number is within its bounds, and that is all that is known of it.
type Stats struct {
	Uptime                   time.Duration
	CPUs                     int
	CPUBusy                  time.Duration // of all CPUs together since the start
	MemoryTotal, MemoryAvail uint64        // bytes; available is not more than the total
	MemoryCache              uint64
	DiskTotal, DiskUsed      uint64
	InodesTotal, InodesUsed  uint64
	Processes                int // without the kernel's and the guest agent
	Load                     [3]float64
	OOMKills                 uint64
	Pressure                 []Pressure // empty where the guest's kernel has none
}

// Pressure is how long processes waited for a resource, in percent of the last 10 seconds.
type Pressure struct {
	Resource   string // cpu, memory, io
	Some, Full float64
}

// OOMKill says that the guest's kernel has killed processes for want of memory.
type OOMKill struct {
	PID     int    // of the last one
	Process string // its name; printable
	Count   int    // since the last OOMKill
}

// Bounds of what a guest may say.
const (
	maxBytes     = 1 << 52 // so that sums fit, and JSON's numbers are exact
	maxCPUs      = 1024
	maxProcesses = 1 << 22 // PID_MAX_LIMIT
	maxLoadMilli = 1e9
	maxPercent   = 100_00
	maxKills     = 1 << 30
)

// Sample asks a guest agent, on a connection of its own, what is used.
func Sample(ctx context.Context, dial func(context.Context) (Conn, error)) (Stats, error) {
	conn, err := dial(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("connect to the guest agent: %w", err)
	}
	answered := false
	g := &guard{Conn: conn, check: func(stream uint32, kind, _ byte) error {
		if stream != 1 || kind != typeResponse || answered {
			return fmt.Errorf("the guest sent a message of type %d on stream %d instead of its statistics", kind, stream)
		}
		answered = true
		return nil
	}}
	defer g.Close()
	stop := context.AfterFunc(ctx, func() { g.Close() })
	resp, err := guestv1.NewStatsClient(ttrpc.NewClient(g)).Sample(context.WithoutCancel(ctx), &guestv1.SampleRequest{})
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil {
		var s Stats
		if s, err = checkStats(resp); err == nil {
			return s, nil
		}
	}
	return Stats{}, fmt.Errorf("ask the guest what it uses: %w", explain(g, err))
}

func checkStats(r *guestv1.SampleResponse) (Stats, error) {
	s := Stats{
		Uptime: time.Duration(r.GetUptimeNs()), CPUs: int(min(r.GetCpus(), maxCPUs+1)), CPUBusy: time.Duration(r.GetCpuBusyNs()),
		MemoryTotal: r.GetMemoryTotal(), MemoryAvail: r.GetMemoryAvailable(), MemoryCache: r.GetMemoryCache(),
		DiskTotal: r.GetDiskTotal(), DiskUsed: r.GetDiskUsed(), InodesTotal: r.GetInodesTotal(), InodesUsed: r.GetInodesUsed(),
		Processes: int(min(r.GetProcesses(), maxProcesses+1)), OOMKills: r.GetOomKills(),
	}
	bad := func(what string) (Stats, error) {
		return Stats{}, fmt.Errorf("the guest says of its %s what cannot be", what)
	}
	switch {
	case s.Uptime < 0 || s.Uptime > maxUptime:
		return bad("uptime")
	case s.CPUs < 1 || s.CPUs > maxCPUs:
		return bad("number of CPUs")
	case s.CPUBusy < 0 || s.CPUBusy/time.Duration(s.CPUs) > 2*s.Uptime+time.Second: // ticks are coarse
		return bad("CPU time")
	case s.MemoryTotal > maxBytes || s.MemoryAvail > s.MemoryTotal || s.MemoryCache > s.MemoryTotal:
		return bad("memory")
	case s.DiskTotal > maxBytes || s.DiskUsed > s.DiskTotal || s.InodesTotal > maxBytes || s.InodesUsed > s.InodesTotal:
		return bad("disk")
	case s.Processes > maxProcesses:
		return bad("processes")
	case s.OOMKills > maxBytes:
		return bad("killed processes")
	case len(r.GetLoadMilli()) != len(s.Load) || len(r.GetPressure()) > 3:
		return bad("load")
	}
	for i, l := range r.GetLoadMilli() {
		if l > maxLoadMilli {
			return bad("load")
		}
		s.Load[i] = float64(l) / 1000
	}
	for _, p := range r.GetPressure() {
		switch p.GetResource() {
		case "cpu", "memory", "io":
		default:
			return bad("pressure")
		}
		if p.GetSomeAvg10Centi() > maxPercent || p.GetFullAvg10Centi() > maxPercent {
			return bad("pressure")
		}
		s.Pressure = append(s.Pressure, Pressure{p.GetResource(), float64(p.GetSomeAvg10Centi()) / 100, float64(p.GetFullAvg10Centi()) / 100})
	}
	return s, nil
}

const (
	// maxEvents bounds the events that may wait to be taken.
	maxEvents = 16
	// pace is the least time between two events that are taken. An honest guest sends them half as fast.
	pace = 200 * time.Millisecond
)

// Watch calls f for what a guest agent tells of itself, on a connection of its own, until ctx ends, the connection breaks,
// or the guest breaks the rules. It does nothing while the guest is silent, and takes five events a second at most.
func Watch(ctx context.Context, dial func(context.Context) (Conn, error), f func(OOMKill)) error {
	conn, err := dial(ctx)
	if err != nil {
		return fmt.Errorf("connect to the guest agent: %w", err)
	}
	var waiting atomic.Int64
	g := &guard{Conn: conn, check: func(stream uint32, kind, _ byte) error {
		if stream != 1 || kind != typeData && kind != typeResponse {
			return fmt.Errorf("the guest sent a message of type %d on stream %d instead of an event", kind, stream)
		}
		if waiting.Add(1) > maxEvents {
			return errors.New("the guest sends events faster than it may")
		}
		return nil
	}}
	defer g.Close()
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { g.Close() })
	defer stop()
	err = watch(ctx, life, g, &waiting, f)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("watch the guest: %w", explain(g, err))
}

func watch(ctx, life context.Context, g *guard, waiting *atomic.Int64, f func(OOMKill)) error {
	stream, err := guestv1.NewStatsClient(ttrpc.NewClient(g)).Watch(life, &guestv1.KernelEventsRequest{})
	if err != nil {
		return err
	}
	var timer *time.Timer
	for {
		ev, err := stream.Recv()
		waiting.Add(-1)
		if errors.Is(err, io.EOF) {
			return errors.New("the guest ended the stream")
		}
		if err != nil {
			return err
		}
		k, err := checkKill(ev)
		if err != nil {
			return err
		}
		f(k)
		if timer == nil {
			timer = time.NewTimer(pace)
			defer timer.Stop()
		} else {
			timer.Reset(pace)
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func checkKill(ev *guestv1.KernelEvent) (OOMKill, error) {
	k := ev.GetOomKill()
	if k == nil {
		return OOMKill{}, errors.New("the guest sent an event of an unknown type")
	}
	if k.GetPid() > maxProcesses || k.GetCount() == 0 || k.GetCount() > maxKills {
		return OOMKill{}, errors.New("the guest says of killed processes what cannot be")
	}
	name := clean(k.GetProcess())
	if len(name) > 64 { // TASK_COMM_LEN is 16
		return OOMKill{}, errors.New("the guest says of killed processes what cannot be")
	}
	return OOMKill{PID: int(k.GetPid()), Process: name, Count: int(k.GetCount())}, nil
}
