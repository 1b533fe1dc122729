package manager

import (
	"io"
	"os"
	"runtime"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/metrics"
	"github.com/agentkernel/agentkernel/internal/procusage"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// meters counts what happens, from the start of the daemon on.
type meters struct {
	starts     metrics.Counters // by result
	execs      metrics.Counters // by result
	kills      metrics.Counters // of the guests' kernels; one value, ""
	idleStops  metrics.Counters // one value, ""
	execBegins metrics.Counters // one value, ""
	stages     *metrics.Histograms
	durations  *metrics.Histograms
}

// The results of starts and of commands.
const (
	startOK, startFailed, startCancelled                         = "ok", "failed", "cancelled"
	execZero, execNonZero, execSignal, execTimeout, execNotKnown = "zero", "nonzero", "signal", "timeout", "unknown"
)

func newMeters() *meters {
	return &meters{
		stages:    metrics.NewHistograms(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30),
		durations: metrics.NewHistograms(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
	}
}

func (t *meters) stage(s sandbox.Stage) { t.stages.Observe(s.Name, s.Duration.Seconds()) }

// event counts what is told anyway.
func (t *meters) event(ev events.Event) {
	switch ev.Type {
	case events.IdleTimeout:
		t.idleStops.Add("", 1)
	case events.OOMKill:
		t.kills.Add("", float64(ev.Count))
	case events.ExecStart:
		t.execBegins.Add("", 1)
	case events.ExecEnd:
		result := execNotKnown
		switch {
		case ev.TimedOut:
			result = execTimeout
		case ev.Signal != 0:
			result = execSignal
		case ev.ExitCode != nil && *ev.ExitCode == 0:
			result = execZero
		case ev.ExitCode != nil:
			result = execNonZero
		}
		t.execs.Add(result, 1)
		t.durations.Observe("", ev.Duration.Seconds())
	}
}

// WriteMetrics writes the daemon's counters in the text format of Prometheus, with what VMMs use now.
func (m *Manager) WriteMetrics(to io.Writer) error {
	w := metrics.NewWriter(to)
	all := m.HostStats()
	states := map[sandbox.State]float64{}
	var cpu, memory, disk, connections, toGuest, fromGuest []metrics.Value
	for _, s := range all {
		name := s.Record.Spec.Name
		states[s.Record.State]++
		disk = append(disk, metrics.Value{Label: name, Value: float64(s.DiskAllocated)})
		connections = append(connections, metrics.Value{Label: name, Value: float64(s.Traffic.Connections)})
		toGuest = append(toGuest, metrics.Value{Label: name, Value: float64(s.Traffic.ToGuest)})
		fromGuest = append(fromGuest, metrics.Value{Label: name, Value: float64(s.Traffic.FromGuest)})
		if s.VMM != nil {
			cpu = append(cpu, metrics.Value{Label: name, Value: s.VMM.CPU.Seconds()})
			memory = append(memory, metrics.Value{Label: name, Value: float64(s.VMM.RSS)})
		}
	}
	var byState []metrics.Value
	for _, s := range sandbox.States() {
		byState = append(byState, metrics.Value{Label: string(s), Value: states[s]})
	}
	w.Family("agentkernel_sandboxes", "gauge", "Sandboxes by state.", "state", byState)
	t := m.meters
	w.Counters("agentkernel_sandbox_starts_total", "Starts of sandboxes by result.", "result", &t.starts, startOK, startFailed, startCancelled)
	w.Histograms("agentkernel_sandbox_start_stage_seconds", "Where the time of successful starts went.", "stage", t.stages)
	w.One("agentkernel_sandbox_idle_stops_total", "counter", "Sandboxes that were stopped as nothing happened in them.", t.idleStops.Get(""))
	w.One("agentkernel_guest_oom_kills_total", "counter", "Processes that guests' kernels have killed for want of memory, as guests say.", t.kills.Get(""))
	w.One("agentkernel_execs_started_total", "counter", "Commands that have begun to run.", t.execBegins.Get(""))
	w.Counters("agentkernel_execs_total", "Commands that have ended, by result.", "result", &t.execs, execZero, execNonZero, execSignal, execTimeout, execNotKnown)
	w.Histograms("agentkernel_exec_duration_seconds", "How long commands took, from the request on.", "", t.durations)
	w.Family("agentkernel_vmm_cpu_seconds_total", "counter", "CPU time of the VMM.", "sandbox", cpu)
	w.Family("agentkernel_vmm_resident_memory_bytes", "gauge", "Resident memory of the VMM, with that of the guest.", "sandbox", memory)
	w.Family("agentkernel_sandbox_disk_allocated_bytes", "gauge", "What the sandbox's own disk takes on the host.", "sandbox", disk)
	w.Family("agentkernel_forwarded_connections_total", "counter", "Connections to servers in the guest.", "sandbox", connections)
	w.Family("agentkernel_forwarded_to_guest_bytes_total", "counter", "What clients sent over those connections.", "sandbox", toGuest)
	w.Family("agentkernel_forwarded_from_guest_bytes_total", "counter", "What the servers sent over those connections.", "sandbox", fromGuest)
	w.One("go_goroutines", "gauge", "Goroutines of the daemon.", float64(runtime.NumGoroutine()))
	if u, err := procusage.Of(os.Getpid(), 0, false); err == nil {
		w.One("process_cpu_seconds_total", "counter", "CPU time of the daemon.", u.CPU.Seconds())
		w.One("process_resident_memory_bytes", "gauge", "Resident memory of the daemon.", float64(u.RSS))
	}
	w.One("process_start_time_seconds", "gauge", "When the daemon began, in seconds since 1970.", float64(m.since.UnixMilli())/float64(time.Second/time.Millisecond))
	return w.Flush()
}
