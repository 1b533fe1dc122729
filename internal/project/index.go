package project

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds on what a hostile index can make us keep.
const (
	maxTrackedName  = 4096      // bytes; a path cannot be longer
	maxTrackedBytes = 256 << 20 // of all names
)

var errIndex = errors.New("it is damaged")

// tracked are the paths that a repository tracks, sorted by bytes.
type tracked []string

// file reports whether path is tracked itself: a file, a link, or a submodule.
func (t tracked) file(path string) bool {
	_, ok := slices.BinarySearch(t, path)
	return ok
}

// below reports whether anything in the directory path is tracked.
func (t tracked) below(path string) bool {
	i, _ := slices.BinarySearch(t, path+"/")
	return i < len(t) && strings.HasPrefix(t[i], path+"/")
}

// parseIndex reads the paths from a git index: gitformat-index(5), versions 2 to 4, with SHA-1 or SHA-256.
func parseIndex(data []byte) (tracked, error) {
	if len(data) < 12 || string(data[:4]) != "DIRC" {
		return nil, errIndex
	}
	version := binary.BigEndian.Uint32(data[4:])
	if version < 2 || version > 4 {
		return nil, fmt.Errorf("it has version %d", version)
	}
	count := binary.BigEndian.Uint32(data[8:])
	// Nothing in the file says which hash it was written with; only with the right one do its parts fit.
	names, err := parseEntries(data, version, count, 20)
	if errors.Is(err, errIndex) {
		names, err = parseEntries(data, version, count, 32)
	}
	if err != nil {
		return nil, err
	}
	if !slices.IsSorted(names) {
		slices.Sort(names)
	}
	return slices.Compact(names), nil // a conflict has an entry for each of its sides
}

func parseEntries(data []byte, version, count uint32, hash int) (names tracked, err error) {
	fixed := 40 + hash + 2 // stat data, object name, flags
	pos, total := 12, 0
	previous := ""
	for range count {
		if len(data)-pos < fixed {
			return nil, errIndex
		}
		head := fixed
		if flags := binary.BigEndian.Uint16(data[pos+fixed-2:]); flags&0x4000 != 0 { // extended: more flags
			if version < 3 {
				return nil, errIndex
			}
			head += 2
		}
		if len(data)-pos < head {
			return nil, errIndex
		}
		rest := data[pos+head:]
		prefix, used := "", 0
		if version == 4 {
			drop, n := offsetVarint(rest)
			if n == 0 || drop > uint64(len(previous)) {
				return nil, errIndex
			}
			prefix, used = previous[:len(previous)-int(drop)], n
		}
		end := bytes.IndexByte(rest[used:], 0)
		if end < 0 || len(prefix)+end > maxTrackedName {
			return nil, errIndex
		}
		name := prefix + string(rest[used:used+end])
		if version == 4 {
			pos += head + used + end + 1
		} else {
			pos += (head + end + 8) &^ 7 // 1 to 8 NULs, to a multiple of 8 bytes
		}
		if total += len(name); total > maxTrackedBytes {
			return nil, errors.New("it has too many names")
		}
		previous = name
		if name != "" {
			names = append(names, name)
		}
	}
	// Extensions, then the checksum; this is what tells that hash was right.
	for len(data)-pos > hash {
		if len(data)-pos < hash+8 {
			return nil, errIndex
		}
		size := int64(binary.BigEndian.Uint32(data[pos+4:]))
		if size > int64(len(data)-pos-8-hash) {
			return nil, errIndex
		}
		if string(data[pos:pos+4]) == "link" {
			return nil, errors.New("it is split in two files (git update-index --no-split-index joins them)")
		}
		pos += 8 + int(size)
	}
	if len(data)-pos != hash {
		return nil, errIndex
	}
	return names, nil
}

// offsetVarint reads an integer in the encoding of pack offsets: gitformat-pack(5), "offset encoding". n is 0 when there is
// none.
func offsetVarint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 8 {
			return 0, 0
		}
		if i > 0 {
			v++
		}
		v = v<<7 | uint64(c&0x7f)
		if c&0x80 == 0 {
			return v, i + 1
		}
	}
	return 0, 0
}
