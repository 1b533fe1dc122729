package httpapi

import (
	"net/http"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/manager"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// GetStats says what a sandbox uses, once or again and again.
func (h *handler) GetStats(w http.ResponseWriter, r *http.Request, name apiv1.Name, params apiv1.GetStatsParams) {
	interval := or(params.IntervalMs, 1000)
	if interval < 100 || interval > 3_600_000 {
		h.fail(w, r, sandbox.Errorf(sandbox.Invalid, "use 100 to 3600000", "interval_ms %d is out of range", interval))
		return
	}
	stats, err := h.Manager.Stats(r.Context(), name)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if !deref(params.Watch) {
		h.reply(w, r, http.StatusOK, statsView(stats))
		return
	}
	ticker := time.NewTicker(time.Duration(interval) * time.Millisecond)
	defer ticker.Stop()
	s := newLineStream(w)
	for err == nil {
		if s.send(statsView(stats)) != nil || s.flush() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
		stats, err = h.Manager.Stats(r.Context(), name) // an error: it is removed, or the client is gone
	}
}

func statsView(s manager.Stats) apiv1.Stats {
	v := apiv1.Stats{
		Name: s.Record.Spec.Name, Id: s.Record.ID, State: string(s.Record.State), Time: s.Time,
		MemoryLimitBytes: int64(s.Record.Spec.MemoryMiB) << 20, DiskLimitBytes: int64(s.Record.Spec.DiskMiB) << 20,
		DiskAllocatedBytes: int64(s.DiskAllocated), GuestProblem: optional(s.GuestProblem),
		Forwarded: apiv1.Forwarded{
			Connections: int64(s.Traffic.Connections), Open: s.Traffic.Open, ToGuestBytes: int64(s.Traffic.ToGuest), FromGuestBytes: int64(s.Traffic.FromGuest),
		},
	}
	if u := s.VMM; u != nil {
		v.Vmm = &apiv1.ProcessUsage{CpuMs: u.CPU.Milliseconds(), RssBytes: int64(u.RSS)}
		if u.PSS != 0 {
			v.Vmm.PssBytes = ptr(int64(u.PSS))
		}
	}
	if s.Guest != nil {
		v.Guest = guestView(*s.Guest)
	}
	return v
}

func guestView(g guestrpc.Stats) *apiv1.GuestStats {
	v := &apiv1.GuestStats{
		UptimeMs: g.Uptime.Milliseconds(), Cpus: g.CPUs, CpuBusyMs: g.CPUBusy.Milliseconds(),
		MemoryTotalBytes: int64(g.MemoryTotal), MemoryAvailableBytes: int64(g.MemoryAvail), MemoryUsedBytes: int64(g.MemoryTotal - g.MemoryAvail),
		MemoryCacheBytes: int64(g.MemoryCache), DiskTotalBytes: int64(g.DiskTotal), DiskUsedBytes: int64(g.DiskUsed),
		InodesTotal: int64(g.InodesTotal), InodesUsed: int64(g.InodesUsed), Processes: g.Processes, Load: g.Load[:], OomKills: int64(g.OOMKills),
	}
	if g.Pressure != nil {
		list := make([]apiv1.Pressure, len(g.Pressure))
		for i, p := range g.Pressure {
			list[i] = apiv1.Pressure{Resource: apiv1.PressureResource(p.Resource), SomePercent: p.Some, FullPercent: p.Full}
		}
		v.Pressure = &list
	}
	return v
}
