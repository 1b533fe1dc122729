package archive

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"time"
)

// reader reads the members of an archive. What Pack writes, but for files with holes, it reads by itself, in a tenth of the
// instructions that the standard library takes, which in an emulated microVM is a third of the time of a small file. All else is
// the library's: what comes next is handed to it, one member at a time, whenever it is not plain.
type reader struct {
	r     io.Reader
	count int64 // bytes read of r
	left  int64 // of the plain member's content
	slow  *tar.Reader

	h     tar.Header
	ahead []byte // what was read of the next member: the library gets it again
	block [blockSize]byte
}

func newReader(r io.Reader) *reader { return &reader{r: r} }

// maxPlainPax bounds the records before a plain member, in bytes.
const maxPlainPax = 4096

// next returns the next member's header, which is valid until the next call, and io.EOF at the end.
func (t *reader) next() (*tar.Header, error) {
	if err := t.skip(); err != nil {
		return nil, err
	}
	t.ahead = t.ahead[:0]
	if err := t.header(); err != nil {
		return nil, err
	}
	t.h = tar.Header{}
	rest := t.ahead
	if t.ahead[typeAt] == typePax {
		size, ok := t.paxSize()
		if !ok {
			return t.library()
		}
		if err := t.read((size + blockSize - 1) &^ (blockSize - 1)); err != nil {
			return nil, err
		}
		records := t.ahead[blockSize : blockSize+size]
		if err := t.header(); err != nil {
			return nil, err
		}
		rest = t.ahead[len(t.ahead)-blockSize:]
		if !t.plain(rest) || !t.records(records) {
			return t.library()
		}
	} else if !t.plain(rest) {
		return t.library()
	}
	if t.h.Typeflag == tar.TypeReg {
		t.left = t.h.Size
	} else if t.h.Size != 0 {
		return t.library()
	}
	return &t.h, nil
}

// Read reads the member's content.
func (t *reader) Read(p []byte) (int, error) {
	if t.slow != nil {
		return t.slow.Read(p)
	}
	if t.left == 0 {
		return 0, io.EOF
	}
	n, err := t.r.Read(p[:min(int64(len(p)), t.left)])
	t.count, t.left = t.count+int64(n), t.left-int64(n)
	if errors.Is(err, io.EOF) && t.left > 0 {
		err = io.ErrUnexpectedEOF
	} else if errors.Is(err, io.EOF) {
		err = nil // of the archive, and said again when there is more to be read
	}
	return n, err
}

// skip goes to the next header.
func (t *reader) skip() error {
	if t.slow != nil || t.left > 0 {
		if _, err := io.CopyBuffer(discard{}, struct{ io.Reader }{t}, t.block[:]); err != nil {
			return err
		}
		t.slow = nil
	}
	n, err := io.ReadFull(t.r, t.block[:-t.count&(blockSize-1)])
	t.count += int64(n)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil // some writers leave the last padding out; what is really broken is so for the next read too
	}
	return err
}

// library has the next member read by the standard library.
func (t *reader) library() (*tar.Header, error) {
	t.left = 0
	t.slow = tar.NewReader(io.MultiReader(bytes.NewReader(t.ahead), counter{t}))
	h, err := t.slow.Next()
	return h, err
}

// counter counts what the library reads.
type counter struct{ t *reader }

func (c counter) Read(p []byte) (int, error) {
	n, err := c.t.r.Read(p)
	c.t.count += int64(n)
	return n, err
}

// header reads a block more.
func (t *reader) header() error { return t.read(blockSize) }

// read reads n bytes more of the next member's headers. At the end of the archive there are none.
func (t *reader) read(n int) error {
	have := len(t.ahead)
	if cap(t.ahead) < have+n {
		t.ahead = append(make([]byte, 0, 2*blockSize+maxPlainPax), t.ahead...)
	}
	t.ahead = t.ahead[:have+n]
	k, err := io.ReadFull(t.r, t.ahead[have:])
	t.count += int64(k)
	if errors.Is(err, io.EOF) && have > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Where the fields of a header are: POSIX, pax, "ustar Header Block".
const (
	modeAt, uidAt, gidAt, sizeAt, mtimeAt, sumAt, typeAt = 100, 108, 116, 124, 136, 148, 156
	linkAt, magicAt, unameAt, prefixAt                   = 157, 257, 265, 345
)

// well reports whether a block is a header of the ustar format that has its checksum.
func well(b []byte) bool {
	if string(b[magicAt:unameAt]) != "ustar\x0000" || b[prefixAt] != 0 {
		return false
	}
	want, ok := number(b[sumAt : sumAt+8])
	return ok && want == sum(b)
}

// sum is a header's checksum: that of its bytes, with blanks in its own field.
func sum(b []byte) int64 {
	const even = 0x00ff00ff00ff00ff
	lanes := uint64(0)
	for rest := b[:blockSize]; len(rest) >= 8; rest = rest[8:] { // 128 bytes are added in each of four lanes: no lane overflows
		v := binary.LittleEndian.Uint64(rest)
		lanes += v&even + v>>8&even
	}
	total := lanes&0xffff + lanes>>16&0xffff + lanes>>32&0xffff + lanes>>48
	for _, c := range b[sumAt : sumAt+8] {
		total += ' ' - uint64(c)
	}
	return int64(total)
}

// number reads digits in octal that blanks or NULs follow.
func number(field []byte) (v int64, ok bool) {
	i := 0
	for ; i < len(field) && field[i]-'0' < 8; i++ {
		v = v<<3 | int64(field[i]-'0')
	}
	for _, c := range field[i:] {
		if c != 0 && c != ' ' {
			return 0, false
		}
	}
	return v, i > 0
}

// text reads a field of a name.
func text(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

// plain reads a header into h, when it is one that needs no more than that.
func (t *reader) plain(b []byte) bool {
	switch b[typeAt] {
	case typeFile, typeLink, typeSymlink, typeDir:
	default:
		return false
	}
	mode, modeOK := number(b[modeAt:uidAt])
	uid, uidOK := number(b[uidAt:gidAt])
	gid, gidOK := number(b[gidAt:sizeAt])
	size, sizeOK := number(b[sizeAt:mtimeAt])
	mtime, mtimeOK := number(b[mtimeAt:sumAt])
	if !modeOK || !uidOK || !gidOK || !sizeOK || !mtimeOK || !well(b) {
		return false
	}
	t.h.Typeflag, t.h.Name = b[typeAt], text(b[:modeAt])
	if b[typeAt] == typeLink || b[typeAt] == typeSymlink {
		t.h.Linkname = text(b[linkAt:magicAt])
	}
	t.h.Mode, t.h.Uid, t.h.Gid, t.h.Size, t.h.ModTime = mode, int(uid), int(gid), size, time.Unix(mtime, 0)
	return true
}

// paxSize returns the size of the records that are ahead of a member.
func (t *reader) paxSize() (int, bool) {
	size, ok := number(t.ahead[sizeAt:mtimeAt])
	return int(size), ok && size > 0 && size <= maxPlainPax && well(t.ahead)
}

// records reads pax records into h, when each of them is known and simple.
func (t *reader) records(b []byte) bool {
	for len(b) > 0 {
		n, i := 0, 0
		for ; i < len(b) && i < 5 && b[i]-'0' < 10; i++ {
			n = n*10 + int(b[i]-'0')
		}
		if i == 0 || i >= len(b) || b[i] != ' ' || b[0] == '0' || n > len(b) || n < i+3 || b[n-1] != '\n' {
			return false
		}
		key, value, ok := bytes.Cut(b[i+1:n-1], []byte("="))
		if !ok || len(value) == 0 || !t.set(key, value) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (t *reader) set(key, value []byte) (ok bool) {
	switch string(key) {
	case "mtime":
		t.h.ModTime, ok = seconds(value)
	case "path":
		t.h.Name, ok = string(value), bytes.IndexByte(value, 0) < 0
	case "linkpath":
		t.h.Linkname, ok = string(value), bytes.IndexByte(value, 0) < 0 && t.h.Typeflag != tar.TypeReg && t.h.Typeflag != tar.TypeDir
	case "uid":
		var v int64
		v, ok = decimal(value)
		t.h.Uid = int(v)
	case "gid":
		var v int64
		v, ok = decimal(value)
		t.h.Gid = int(v)
	case "size":
		t.h.Size, ok = decimal(value)
	default:
		if ok = strings.HasPrefix(string(key), xattrPrefix); ok {
			if t.h.PAXRecords == nil {
				t.h.PAXRecords = map[string]string{}
			}
			t.h.PAXRecords[string(key)] = string(value)
		}
	}
	return ok
}

// decimal reads a number without a sign.
func decimal(b []byte) (v int64, ok bool) {
	for _, c := range b {
		if c-'0' > 9 || v > (math.MaxInt64-9)/10 {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, len(b) > 0
}

// seconds reads a time since 1970 with up to nine digits behind the point.
func seconds(b []byte) (time.Time, bool) {
	whole, part, _ := bytes.Cut(b, []byte("."))
	sec, ok := decimal(whole)
	if !ok || len(part) > 9 {
		return time.Time{}, false
	}
	nsec := int64(0)
	for i := range 9 {
		digit := byte('0')
		if i < len(part) {
			digit = part[i]
		}
		if digit-'0' > 9 {
			return time.Time{}, false
		}
		nsec = nsec*10 + int64(digit-'0')
	}
	return time.Unix(sec, nsec), true
}
