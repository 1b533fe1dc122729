package vm

import "testing"

// A sandbox that was never started takes little of the host's disk, and none of it stays when it is removed. The bound is for
// all that the daemon keeps of it.
func TestCreateTakesLittleDisk(t *testing.T) {
	h := newHome(t)
	const n, bound = 40, 200 // KiB
	s := h.bench("create", "-n", "40")
	if len(s.Times) != 4 || s.Times[0].N != n || s.Times[3].N != n {
		t.Errorf("not %d sandboxes were made and removed: %+v", n, s.Times)
	}
	if kib := s.Values[len(s.Values)-1]; kib.Value <= 0 || kib.Value >= bound || kib.Unit != "KiB" {
		t.Errorf("a sandbox takes %v of the disk, want less than %d KiB", kib, bound)
	}
	if left := h.list(); len(left.Sandboxes) != 0 {
		t.Errorf("%d sandboxes are left", len(left.Sandboxes))
	}
}
