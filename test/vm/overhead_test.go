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

// The memory of a Firecracker is its guest's, and little more.
func TestIdleOverhead(t *testing.T) {
	h := newHome(t)
	h.started("a")
	sb := h.inspect("a")
	if *sb.Engine != "firecracker" {
		t.Skipf("the overhead of %s is not bounded", *sb.Engine)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", *sb.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, guest, other, private int
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
			other += n
		case f[0] == "Private_Dirty:" && !isGuest:
			private += n
		}
	}
	t.Logf("resident: guest %d KiB of %d MiB, VMM %d KiB, of which %d KiB private and written to", guest, sb.MemoryMib, other, private)
	if guest == 0 {
		t.Error("no mapping is the guest's memory")
	}
	if other > maxOverheadKiB {
		t.Errorf("the VMM holds %d KiB beyond its guest's memory, more than %d", other, maxOverheadKiB)
	}
}
