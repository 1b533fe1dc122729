package vm

import (
	"strings"
	"testing"
)

// A paused sandbox does nothing, keeps its memory and its commands, is found paused by the next daemon, and ends as any other.
func TestPause(t *testing.T) {
	h := newHome(t)
	h.started("a")
	id := strings.TrimSpace(h.ok("exec", "-d", "a", "sh", "-c", "echo here >/tmp/memory; while [ ! -e /tmp/end ]; do sleep 0.1; done; echo over"))
	h.waitFor("the command", func() bool { return h.sh("a", "cat /tmp/memory 2>/dev/null; true") == "here" })
	pid := *h.inspect("a").Pid
	if got := strings.TrimSpace(h.ok("pause", "a")); got != "a" {
		t.Errorf("pause prints %q", got)
	}
	h.expectState("a", "paused")
	says := []string{`sandbox "a" is paused`, "agentkernel unpause a"}
	for _, args := range [][]string{{"exec", "a", "true"}, {"start", "a"}, {"ps", "a"}, {"cp", "a:/etc/passwd", "-"}} {
		h.fails(125, says, args...)
	}
	h.ok("stats", "--no-stream", "a")
	h.killDaemon()
	h.expectState("a", "paused")
	h.fails(125, says, "exec", "a", "true")
	h.ok("unpause", "a")
	h.expectState("a", "running")
	if got := h.sh("a", "touch /tmp/end; cat /tmp/memory"); got != "here" {
		t.Errorf("the guest says %q", got)
	}
	h.ok("wait", "a", id)
	if got := strings.TrimSpace(h.ok("logs", "a", "--exec", id)); got != "over" {
		t.Errorf("the command said %q", got)
	}
	if now := *h.inspect("a").Pid; now != pid {
		t.Errorf("another VMM: %d, not %d", now, pid)
	}

	h.sh("a", "echo kept >/root/file")
	h.ok("pause", "a")
	h.ok("stop", "a")
	h.ok("start", "a")
	if got := h.sh("a", "cat /root/file"); got != "kept" {
		t.Errorf("the disk says %q", got)
	}
	h.ok("pause", "a")
	h.killDaemon()
	h.fails(125, []string{"agentkernel stop a", "--force"}, "rm", "a")
	h.ok("rm", "--force", "a")
}
