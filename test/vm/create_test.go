package vm

import (
	"encoding/json"
	"testing"
)

// A sandbox that was never started takes little of the host's disk, and none of it stays when it is removed. The bound is for
// all that the daemon keeps of it.
func TestCreateTakesLittleDisk(t *testing.T) {
	h := newHome(t)
	var r struct {
		BytesEach int64 `json:"bytes_each"`
		Rows      []struct {
			N int `json:"n"`
		}
	}
	const n, bound = 40, 200 << 10
	if err := json.Unmarshal([]byte(h.ok("bench", "create", "-n", "40", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 4 || r.Rows[0].N != n || r.Rows[3].N != n {
		t.Errorf("not %d sandboxes were made and removed: %+v", n, r.Rows)
	}
	if r.BytesEach <= 0 || r.BytesEach >= bound {
		t.Errorf("a sandbox takes %d bytes of the disk, want less than %d", r.BytesEach, bound)
	}
	if left := h.list(); len(left.Sandboxes) != 0 {
		t.Errorf("%d sandboxes are left", len(left.Sandboxes))
	}
}
