package erofs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// xattrPrefixes are the numbers that stand for the beginnings of attributes' names.
var xattrPrefixes = []struct {
	prefix string
	index  byte
	whole  bool // the prefix is the whole name
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

const (
	xattrHeader = 12
	maxXattrs   = (1<<16 - 2) * 4 // bytes: their count of 4-byte units has 16 bits
)

// xattrSize is how many bytes encodeXattrs makes of attributes.
func xattrSize(attrs map[string]string) int {
	if len(attrs) == 0 {
		return 0
	}
	n := xattrHeader
	for name, value := range attrs {
		_, rest, _ := splitXattr(name)
		n += alignUp(4+len(rest)+len(value), 4)
	}
	return n
}

func splitXattr(name string) (index byte, rest string, err error) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && (!p.whole || rest == "") {
			return p.index, rest, nil
		}
	}
	return 0, name, fmt.Errorf("no file system keeps the extended attribute %q", name)
}

// encodeXattrs appends the attributes of an inode, in the order of their names.
func encodeXattrs(b []byte, attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return b, nil
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[name]
		index, rest, err := splitXattr(name)
		if err != nil {
			return nil, err
		}
		if len(rest) > 255 || len(value) > 65535 {
			return nil, fmt.Errorf("the extended attribute %.100q is too long: %d bytes", name, len(value))
		}
		b = append(b, byte(len(rest)), index)
		b = le.AppendUint16(b, uint16(len(value)))
		b = append(b, rest...)
		b = append(b, value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b, nil
}
