package confine

import (
	"strings"
	"testing"
)

func TestOwner(t *testing.T) {
	seen := map[int]bool{}
	for id, ok := range map[string]bool{
		"0000000000000000": true, "ffffffffffffffff": true, "00000000000000ff": true, "9db35bfe72e5511a": true, "": false, "nothex": false,
	} {
		uid, gid, err := Owner(id)
		if (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
		if !ok {
			continue
		}
		if uid <= FirstOwner || uid > lastOwner || gid != FirstOwner || seen[uid] {
			t.Errorf("%q has user %#x and group %#x", id, uid, gid)
		}
		seen[uid] = true
		if again, _, _ := Owner(id); again != uid {
			t.Errorf("%q has users %d and %d", id, uid, again)
		}
	}
}

func TestMainRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"marker"}, {"marker", "not a plan"}, {"marker", "{}", "more"}} {
		var out, said strings.Builder
		if code := Main(args, &out, &said); code == 0 || said.Len() == 0 || out.Len() > 0 {
			t.Errorf("%q: code %d, %q, %q", args, code, out.String(), said.String())
		}
	}
}
