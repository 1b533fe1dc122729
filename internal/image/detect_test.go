package image

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// superblocks of the three file systems, each of 1 MiB.
func erofsHead() []byte {
	b := make([]byte, headLen)
	binary.LittleEndian.PutUint32(b[1024:], 0xe0f5e1e2)
	b[1024+12] = 12
	binary.LittleEndian.PutUint32(b[1024+36:], 256)
	return b
}

func squashfsHead() []byte {
	b := make([]byte, headLen)
	copy(b, "hsqs")
	binary.LittleEndian.PutUint16(b[28:], 4)
	binary.LittleEndian.PutUint64(b[40:], 1<<20)
	return b
}

func ext4Head() []byte {
	b := make([]byte, headLen)
	binary.LittleEndian.PutUint16(b[1024+0x38:], 0xef53)
	binary.LittleEndian.PutUint32(b[1024+0x18:], 2)
	binary.LittleEndian.PutUint32(b[1024+0x4:], 256)
	return b
}

func edit(b []byte, off int, with ...byte) []byte {
	copy(b[off:], with)
	return b
}

func TestDetect(t *testing.T) {
	for name, tc := range map[string]struct {
		head []byte
		size int64
		want string // file system, or part of the error
	}{
		"erofs":                {erofsHead(), 1 << 20, Erofs},
		"squashfs":             {squashfsHead(), 1 << 20, Squashfs},
		"ext4":                 {ext4Head(), 1 << 20, Ext4},
		"padded":               {squashfsHead(), 1<<20 + 4096, Squashfs},
		"truncated erofs":      {erofsHead(), 1<<20 - 1, "truncated: its erofs file system has 1048576 bytes, and the file only 1048575"},
		"truncated squashfs":   {squashfsHead(), 1<<20 - 1, "truncated: its squashfs"},
		"truncated ext4":       {ext4Head(), 4096, "truncated: its ext4"},
		"cut in superblock":    {ext4Head()[:1500], 1500, "none of the superblocks"},
		"empty":                {nil, 0, "none of the superblocks"},
		"text":                 {[]byte("#!/bin/sh\n"), 10, "none of the superblocks"},
		"zeros":                {make([]byte, headLen), 1 << 20, "none of the superblocks"},
		"old squashfs":         {edit(squashfsHead(), 28, 3), 1 << 20, "version 3"},
		"erofs of no size":     {edit(erofsHead(), 1024+12, 0), 1 << 20, "damaged"},
		"erofs of huge blocks": {edit(erofsHead(), 1024+12, 63), 1 << 20, "damaged"},
		"ext4 of huge blocks":  {edit(ext4Head(), 1024+0x18, 0xff, 0xff, 0xff, 0xff), 1 << 20, "damaged"},
		"ext4 without blocks":  {edit(ext4Head(), 1024+0x4, 0, 0), 1 << 20, "damaged"},
		"64-bit ext4":          {edit(edit(ext4Head(), 1024+0x60, 0x80), 1024+0x150, 1), 1 << 20, "truncated"},
		"squashfs of 2^64":     {edit(squashfsHead(), 40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 1 << 20, "truncated"},
		"ext4 of 2^64 blocks":  {edit(edit(edit(ext4Head(), 1024+0x60, 0x80), 1024+0x150, 0xff, 0xff, 0xff, 0xff), 1024+0x18, 6), 1 << 20, "damaged"},
	} {
		got, err := detect(bytes.NewReader(tc.head), tc.size)
		if err == nil && got != tc.want || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

func FuzzDetect(f *testing.F) {
	f.Add(erofsHead(), int64(1<<20))
	f.Add(squashfsHead(), int64(1<<20))
	f.Add(ext4Head(), int64(1<<20))
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		fs, err := detect(bytes.NewReader(head), size)
		if known := fs == Erofs || fs == Squashfs || fs == Ext4; known != (err == nil) {
			t.Fatalf("%q, %v", fs, err)
		}
	})
}
