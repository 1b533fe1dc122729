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

// The memory of a Firecracker is its guest's, and little more. One that was restored has read its state besides, and the pages of its
// program that it shares with others: there, what is its own is bounded.
func TestIdleOverhead(t *testing.T) {
	h := newHome(t)
	h.create("a")
	h.ok("start", "--cold", "a")
	if sb := h.inspect("a"); *sb.Engine != "firecracker" {
		t.Skipf("the overhead of %s is not bounded", *sb.Engine)
	}
	if resident, _ := h.overhead("a"); resident > maxOverheadKiB {
		t.Errorf("the VMM holds %d KiB beyond its guest's memory, more than %d", resident, maxOverheadKiB)
	}
	h.ok("rm", "--force", "a")
	h.started("b")
	if _, private := h.overhead("b"); private > maxOverheadKiB {
		t.Errorf("the restored VMM has %d KiB of its own beyond its guest's memory, more than %d", private, maxOverheadKiB)
	}
}

// overhead is what the VMM of a sandbox holds beyond its guest's memory, in KiB: what is resident, and what of that is private and was
// written to.
func (h *home) overhead(name string) (resident, private int) {
	t := h.t
	t.Helper()
	sb := h.inspect(name)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", *sb.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, guest int
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
	return resident, private
}
