package vm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// fsck checks the file system of a volume that nobody uses.
func (h *home) fsck(volume string) {
	h.t.Helper()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		tool = "/usr/sbin/e2fsck"
		if _, err := os.Stat(tool); err != nil {
			h.t.Log("there is no e2fsck here: the file system is not checked")
			return
		}
	}
	file := filepath.Join(h.dir, "state", "volumes", h.volume(volume).Id, "disk.ext4")
	if out, err := exec.Command(tool, "-f", "-n", file).CombinedOutput(); err != nil {
		h.t.Errorf("e2fsck %s: %v\n%s", file, err, out)
	}
}

func (h *home) volume(name string) client.Volume {
	h.t.Helper()
	var list []client.Volume
	if err := json.Unmarshal([]byte(h.ok("volume", "inspect", "--json", name)), &list); err != nil || len(list) != 1 {
		h.t.Fatal(err, len(list))
	}
	return list[0]
}

// What one sandbox writes to a volume another finds, and nobody can have it in a way that destroys it.
func TestVolume(t *testing.T) {
	h := newHome(t)
	h.ok("volume", "create", "data", "--size", "256M")
	h.fails(125, []string{`no volume "nothing"`, "volume create nothing"}, "create", "x", "-v", "nothing:/a")

	// A mount point that the image lacks, and one that only an encoded path can name.
	h.ok("volume", "create", "other", "--size", "64M")
	h.started("a", "-v", "data:/data/of mine", "--volume", "other:/tmp/other")
	if got := h.sh("a", "cd '/data/of mine' && ls -A && stat -c %U:%a . && echo first > f && echo second > /tmp/other/f && umount -l /tmp/other"); got != "root:755" {
		t.Errorf("a new volume is %q", got)
	}
	h.create("b", "-v", "data:/mnt")
	h.create("c", "-v", "data:/srv:ro")
	h.create("d", "-v", "data:/srv:ro")
	for _, name := range []string{"b", "c"} {
		h.fails(125, []string{`volume "data"`, `sandbox "a"`, "agentkernel stop a"}, "start", name)
	}
	h.fails(125, []string{`volume "data" belongs to a, b, c, d`}, "volume", "rm", "data")
	// Who has a volume is known to the next daemon as well.
	h.killDaemon()
	h.fails(125, []string{`volume "data"`, `sandbox "a"`}, "start", "b")
	h.ok("stop", "a")
	h.fsck("data")
	h.fsck("other") // unmounted in the guest, and clean all the same

	h.ok("start", "b")
	if got := h.sh("b", "cat /mnt/f; chown 1000:1000 /mnt; chmod 2770 /mnt"); got != "first" {
		t.Errorf("the volume has %q", got)
	}
	h.ok("stop", "b")

	// Several may read, and then nobody may write.
	h.ok("start", "c", "d")
	for _, name := range []string{"c", "d"} {
		if got := h.sh(name, "cat /srv/f; stat -c %u:%g:%a /srv; echo x 2>&1 > /srv/f; mount -o remount,rw /srv 2>&1; echo x > /srv/g"+"; ls /srv"); !strings.HasPrefix(got, "first\n1000:1000:2770") || !strings.HasSuffix(got, "\nf") {
			t.Errorf("%s reads %q", name, got)
		}
	}
	h.fails(125, []string{`sandbox "c"`, "reads it"}, "start", "b")
	if v := h.volume("data"); len(v.Sandboxes) != 4 || v.Sandboxes[1].InUse || !v.Sandboxes[2].InUse || !*v.Sandboxes[2].ReadOnly || v.UsedBytes == 0 {
		t.Errorf("inspect: %+v", v)
	}
	if sb := h.inspect("c"); sb.Volumes == nil || (*sb.Volumes)[0].Path != "/srv" {
		t.Errorf("inspect of the sandbox: %+v", sb.Volumes)
	}
	h.ok("rm", "-f", "a", "b", "c", "d")
	h.ok("volume", "rm", "data", "other")
	if entries, err := os.ReadDir(filepath.Join(h.dir, "state", "volumes")); err != nil || len(entries) != 0 {
		t.Error("left over:", entries, err)
	}
}

// The VMM is killed while the guest writes: what was synced is there, the file system is whole after the next mount that can
// repair it, and until then nobody gets to read it as it is.
func TestVolumeVMMKilled(t *testing.T) {
	h := newHome(t)
	h.ok("volume", "create", "v", "--size", "128M")
	h.started("a", "-v", "v:/v")
	h.sh("a", "echo kept > /v/kept && sync && for i in $(seq 200); do echo $i > /v/$i; done")
	kill(t, *h.inspect("a").Pid)
	h.create("reader", "-v", "v:/v:ro")
	h.fails(125, []string{"was not unmounted", "-v v:/v -- true"}, "start", "reader")
	h.started("b", "-v", "v:/v")
	if got := h.sh("b", "cat /v/kept"); got != "kept" {
		t.Errorf("the volume has %q", got)
	}
	h.ok("stop", "b")
	h.fsck("v")
	h.ok("start", "reader")
	if got := h.sh("reader", "cat /v/kept"); got != "kept" {
		t.Errorf("read-only, the volume has %q", got)
	}
}

// A sandbox that is removed by force, as run does it, leaves in its volume all that was written.
func TestVolumeRun(t *testing.T) {
	h := newHome(t)
	h.ok("volume", "create", "v", "--size", "64M")
	h.ok("run", "--memory", "128M", "-v", "v:/v", "--", "sh", "-c", "echo hello > /v/f")
	h.fsck("v")
	if got := h.ok("run", "--memory", "128M", "-v", "v:/v:ro", "--", "cat", "/v/f"); got != "hello\n" {
		t.Errorf("the volume has %q", got)
	}
}

// As many as can be named can be had, beside a project; a link of the image is not followed, and the start says so.
func TestVolumeMountPoints(t *testing.T) {
	h := newHome(t)
	var args []string
	for _, n := range []string{"v1", "v2", "v3", "v4"} {
		h.ok("volume", "create", n, "--size", "64M")
		args = append(args, "-v", n+":/"+strings.Repeat("x", 194)+n)
	}
	h.started("a", append(args, "--project", t.TempDir())...)
	if got := h.sh("a", "grep -c ' /xxx' /proc/mounts; grep -c ' /workspace ' /proc/mounts"); got != "4\n1" {
		t.Errorf("mounted: %q", got)
	}
	h.ok("rm", "-f", "a")
	// Whom the image has write there, may.
	h.started("c", "-v", "v2:/home/agent")
	if got := strings.TrimSpace(h.ok("exec", "-u", "agent", "c", "sh", "-c", "echo x > /home/agent/f && stat -c %U /home/agent/f && ls -A /home/agent")); got != "agent\nf" {
		t.Errorf("in the home of agent: %q", got)
	}
	h.create("b", "-v", "v1:/var/run/x") // in the image base, /var/run is a link
	h.fails(125, []string{"/var/run/x: run is a link or a file"}, "start", "b")
}
