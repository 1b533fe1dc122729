package vm

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

type statsRow struct {
	client.Stats
	CPU *float64 `json:"cpu_percent"`
}

func (h *home) stats(names ...string) []statsRow {
	h.t.Helper()
	var rows []statsRow
	out := h.ok(append([]string{"stats", "--json", "--interval", "200ms"}, names...)...)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		h.t.Fatal(err)
	}
	return rows
}

func TestStats(t *testing.T) {
	h := newHome(t)
	h.create("idle")
	h.started("a", "--disk", "128M")
	if out := h.ok("stats"); !strings.Contains(out, "\na ") || strings.Contains(out, "idle") || strings.ContainsRune(out, 0x1b) {
		t.Errorf("stats:\n%s", out)
	}
	h.sh("a", "sleep 1000 >/dev/null 2>&1 & dd if=/dev/urandom of=/root/file bs=1M count=20 conv=fsync 2>/dev/null")
	rows := h.stats("a", "idle")
	if len(rows) != 2 || rows[0].Guest == nil || rows[0].Vmm == nil || rows[0].CPU == nil || rows[1].Guest != nil || rows[1].State != "created" {
		t.Fatalf("%+v", rows)
	}
	g := rows[0].Guest
	const mib = 1 << 20
	if g.MemoryTotalBytes < 64*mib || g.MemoryTotalBytes > 128*mib || g.MemoryUsedBytes < mib || g.DiskUsedBytes < 20*mib || g.DiskTotalBytes > 128*mib ||
		g.Processes != 1 || g.Cpus != 1 || len(g.Load) != 3 || g.OomKills != 0 || rows[0].DiskAllocatedBytes < 20*mib || rows[0].Vmm.RssBytes < 20*mib {
		t.Errorf("%+v, %+v, %d bytes of disk", *g, *rows[0].Vmm, rows[0].DiskAllocatedBytes)
	}
	h.fails(125, []string{"no sandbox"}, "stats", "nobody")

	t.Run("metrics", func(t *testing.T) {
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.dir, "run", "daemon.sock"))
		}}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("http://agentkernel/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`agentkernel_sandboxes{state="running"} 1`, `agentkernel_sandboxes{state="created"} 1`, `agentkernel_sandbox_starts_total{result="ok"} 1`,
			`agentkernel_sandbox_start_stage_seconds_count{stage="fork"} 1`, `agentkernel_execs_total{result="zero"} 1`,
			`agentkernel_exec_duration_seconds_count 1`, `agentkernel_vmm_resident_memory_bytes{sandbox="a"} `,
		} {
			if !strings.Contains(string(text), "\n"+line) {
				t.Errorf("the metrics lack %q:\n%s", line, text)
			}
		}
	})
}

// A program that takes all memory is killed by the guest's kernel, and the host hears of it.
func TestOOM(t *testing.T) {
	h := newHome(t)
	h.started("a")
	next := h.follow(client.EventOptions{Sandboxes: []string{"a"}})
	h.run("exec", "a", "sh", "-c", `x=$(yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa); echo not here`)
	ev := next(ofType("guest.oom"))
	if ev.Process == nil || ev.Pid == nil || ev.Count == nil || *ev.Count < 1 {
		t.Errorf("%+v", ev)
	}
	if rows := h.stats("a"); rows[0].Guest == nil || rows[0].Guest.OomKills < 1 {
		t.Errorf("%+v", rows)
	}
	h.ok("exec", "a", "true")
	// The next daemon watches as well.
	h.killDaemon()
	h.ok("exec", "a", "true")
	next = h.follow(client.EventOptions{Sandboxes: []string{"a"}, Types: []string{"guest.oom"}})
	h.run("exec", "a", "sh", "-c", `x=$(yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa); echo not here`)
	next(ofType("guest.oom"))
}

// The size of the sandbox's own disk is a limit: programs get ENOSPC, and the sandbox stays usable.
func TestFullDisk(t *testing.T) {
	h := newHome(t)
	h.started("a", "--disk", "64M")
	r := h.run("exec", "a", "dd", "if=/dev/zero", "of=/root/file", "bs=1M")
	if r.code == 0 || !strings.Contains(r.stderr, "No space left on device") {
		t.Errorf("%+v", r)
	}
	if got := h.sh("a", "echo x > /root/other 2>/dev/null; sync; echo alive > /tmp/file && cat /tmp/file"); got != "alive" {
		t.Errorf("a full sandbox says %q", got)
	}
	g := h.stats("a")[0].Guest
	if g == nil || g.DiskUsedBytes*10 < g.DiskTotalBytes*8 {
		t.Errorf("the full disk is said to have %+v", g)
	}
	h.sh("a", "rm /root/file; sync; echo room > /root/other")
	h.ok("stop", "a")
	h.ok("start", "a")
	if got := h.sh("a", "cat /root/other"); got != "room" {
		t.Errorf("after a restart: %q", got)
	}
}
