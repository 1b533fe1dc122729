package vm

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// maxOverheadKiB is what a VMM of one vCPU may hold beyond its guest's memory.
const maxOverheadKiB = 5 << 10

// mapping is the first line of one in /proc/pid/smaps: proc(5).
var mapping = regexp.MustCompile(`^[0-9a-f]+-[0-9a-f]+ `)

// The memory of a Firecracker is its guest's, and little more, whether it booted or was restored.
func TestIdleOverhead(t *testing.T) {
	h := newHome(t)
	h.create("a")
	h.ok("start", "--cold", "a")
	if sb := h.inspect("a"); *sb.Engine != "firecracker" {
		t.Skipf("the overhead of %s is not bounded", *sb.Engine)
	}
	h.started("b")
	for _, name := range []string{"a", "b"} {
		if resident := h.overhead(name); resident > maxOverheadKiB {
			t.Errorf("%s: the VMM holds %d KiB beyond its guest's memory, more than %d", name, resident, maxOverheadKiB)
		}
	}
}

// overhead is what the VMM of a sandbox holds beyond its guest's memory, in KiB.
func (h *home) overhead(name string) (resident int) {
	t := h.t
	t.Helper()
	sb := h.inspect(name)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", *sb.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, guest, private int
	for line := range strings.Lines(string(b)) {
		if mapping.MatchString(line) {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "kB" {
			continue
		}
		n, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatal(err)
		}
		switch isGuest := size >= sb.MemoryMib<<10; {
		case f[0] == "Size:": // the first of each
			size = n
		case f[0] == "Rss:" && isGuest:
			guest += n
		case f[0] == "Rss:":
			resident += n
		case f[0] == "Private_Dirty:" && !isGuest:
			private += n
		}
	}
	t.Logf("resident: guest %d KiB of %d MiB, VMM %d KiB, of which %d KiB private and written to", guest, sb.MemoryMib, resident, private)
	if guest == 0 {
		t.Error("no mapping is the guest's memory")
	}
	return resident
}
