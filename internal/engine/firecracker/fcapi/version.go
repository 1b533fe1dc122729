package fcapi

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version of Firecracker. What follows the patch level (e.g. "-dev") is ignored.
type Version struct{ Major, Minor, Patch int }

// ParseVersion reads e.g. "1.16.1" or "v1.17.0-dev".
func ParseVersion(s string) (Version, error) {
	number, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	parts := strings.Split(number, ".")
	var n [3]int
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 16)
		if err != nil || len(parts) != len(n) {
			return Version{}, fmt.Errorf("%.40q is not a version", s)
		}
		n[i] = int(v)
	}
	return Version{n[0], n[1], n[2]}, nil
}

// Compare returns -1, 0 or 1 when v is older than, the same as, or newer than w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }
