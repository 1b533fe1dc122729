package archive

import (
	"io"
	"strconv"
	"strings"
	"time"
)

// Types of members: ustar's typeflag.
const (
	typeFile    = '0'
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFIFO    = '6'
	typePax     = 'x'
)

const blockSize = 512

// member is what a header says.
type member struct {
	name, link   string
	kind         byte
	mode         uint32 // permissions, set-id and sticky bits
	uid, gid     uint32
	size         int64
	modified     time.Time
	major, minor uint32
	xattrs       []Xattr
	data         []extent // of a file with holes; nil for one without
}

// extent is a part of a file that is no hole.
type extent struct{ offset, length int64 }

// writer writes an archive in large pieces. The caller puts a member's bytes straight into its buffer.
type writer struct {
	w   io.Writer
	buf []byte // what is to be written; its capacity is that of one write
	pax []byte
}

// newWriter returns a writer to w, with memory for one write, or nil for its own.
func newWriter(w io.Writer, memory []byte) *writer {
	if memory == nil {
		memory = make([]byte, bufferSize)
	}
	return &writer{w: w, buf: memory[:0]}
}

func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// space returns where at least want bytes (at most bufferSize) may be put; advance takes them over.
func (w *writer) space(want int) ([]byte, error) {
	if cap(w.buf)-len(w.buf) < want {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	return w.buf[len(w.buf):cap(w.buf)], nil
}

func (w *writer) advance(n int) { w.buf = w.buf[:len(w.buf)+n] }

// write copies p.
func (w *writer) write(p []byte) error {
	for len(p) > 0 {
		room, err := w.space(1)
		if err != nil {
			return err
		}
		n := copy(room, p)
		w.advance(n)
		p = p[n:]
	}
	return nil
}

// zeros writes n zero bytes.
func (w *writer) zeros(n int64) error {
	for n > 0 {
		room, err := w.space(1)
		if err != nil {
			return err
		}
		room = room[:min(int64(len(room)), n)]
		clear(room)
		w.advance(len(room))
		n -= int64(len(room))
	}
	return nil
}

// pad fills the last block of a member of n bytes.
func (w *writer) pad(n int64) error { return w.zeros(-n & (blockSize - 1)) }

// close writes the end of the archive.
func (w *writer) close() error {
	if err := w.zeros(2 * blockSize); err != nil {
		return err
	}
	return w.flush()
}

// header writes the header of m, and its map when m.data is set. The bytes of m.data, or m.size bytes, are to follow, and
// the padding.
func (w *writer) header(m *member) error {
	w.pax = w.pax[:0]
	name, size := m.name, m.size
	var sparse []byte
	if m.data != nil {
		sparse = sparseMap(m.data)
		size = int64(len(sparse))
		for _, e := range m.data {
			size += e.length
		}
		w.record("GNU.sparse.major", "1")
		w.record("GNU.sparse.minor", "0")
		w.record("GNU.sparse.name", m.name)
		w.record("GNU.sparse.realsize", strconv.FormatInt(m.size, 10))
		name = "GNUSparseFile.0"
	} else if !fits(m.name) {
		w.record("path", m.name)
	}
	if !fits(m.link) {
		w.record("linkpath", m.link)
	}
	if m.uid > maxOctal7 {
		w.record("uid", strconv.FormatUint(uint64(m.uid), 10))
	}
	if m.gid > maxOctal7 {
		w.record("gid", strconv.FormatUint(uint64(m.gid), 10))
	}
	if size > maxOctal11 {
		w.record("size", strconv.FormatInt(size, 10))
	}
	if sec, nsec := m.modified.Unix(), m.modified.Nanosecond(); nsec != 0 || sec < 0 || sec > maxOctal11 {
		w.record("mtime", paxTime(sec, nsec))
	}
	for _, x := range m.xattrs {
		w.record(xattrPrefix+x.Name, x.Value)
	}
	if len(w.pax) > 0 {
		if err := w.block(&member{name: "PaxHeader", kind: typePax, mode: 0o644}, "PaxHeader", int64(len(w.pax))); err != nil {
			return err
		}
		if err := w.write(w.pax); err != nil {
			return err
		}
		if err := w.pad(int64(len(w.pax))); err != nil {
			return err
		}
	}
	if err := w.block(m, name, size); err != nil {
		return err
	}
	return w.write(sparse)
}

// What the numbers of a ustar header hold.
const (
	maxOctal7  = 1<<21 - 1
	maxOctal11 = 1<<33 - 1
	nameField  = 100
)

// block writes a ustar header block. What does not fit in a field is in a pax record, and cut here.
func (w *writer) block(m *member, name string, size int64) error {
	b, err := w.space(blockSize)
	if err != nil {
		return err
	}
	b = b[:blockSize]
	clear(b)
	copy(b[0:nameField], name)
	octal(b[100:108], uint64(m.mode))
	octal(b[108:116], uint64(min(m.uid, maxOctal7)))
	octal(b[116:124], uint64(min(m.gid, maxOctal7)))
	octal(b[124:136], uint64(min(size, maxOctal11)))
	octal(b[136:148], uint64(min(max(m.modified.Unix(), 0), maxOctal11)))
	b[156] = m.kind
	copy(b[157:157+nameField], m.link)
	copy(b[257:], "ustar\x0000")
	octal(b[329:337], uint64(min(m.major, maxOctal7)))
	octal(b[337:345], uint64(min(m.minor, maxOctal7)))
	sum := uint64(8 * ' ')
	for _, c := range b {
		sum += uint64(c)
	}
	octal(b[148:155], sum)
	b[155] = ' '
	w.advance(blockSize)
	return nil
}

// octal fills a field of a header with digits, and ends it with NUL.
func octal(field []byte, v uint64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// fits reports whether s can stand in a header's field as it is: readers disagree about bytes that are not ASCII.
func fits(s string) bool {
	if len(s) > nameField {
		return false
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// record adds a pax record, whose length counts its own digits.
func (w *writer) record(key, value string) {
	const extra = 3 // blank, equals sign, newline
	n := len(key) + len(value) + extra
	total := n + len(strconv.Itoa(n))
	total = n + len(strconv.Itoa(total))
	w.pax = strconv.AppendInt(w.pax, int64(total), 10)
	w.pax = append(w.pax, ' ')
	w.pax = append(w.pax, key...)
	w.pax = append(w.pax, '=')
	w.pax = append(w.pax, value...)
	w.pax = append(w.pax, '\n')
}

// paxTime is a time as a decimal number, with the sign before both of its parts.
func paxTime(sec int64, nsec int) string {
	sign := ""
	if sec < 0 {
		sign, sec = "-", -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	s := sign + strconv.FormatInt(sec, 10)
	if nsec == 0 {
		return s
	}
	frac := strconv.Itoa(nsec)
	return s + "." + strings.TrimRight(strings.Repeat("0", 9-len(frac))+frac, "0")
}

// sparseMap is the map before the data of a sparse member in GNU tar's format 1.0: decimal numbers, one a line, padded to
// whole blocks.
func sparseMap(data []extent) []byte {
	b := strconv.AppendInt(nil, int64(len(data)), 10)
	b = append(b, '\n')
	for _, e := range data {
		b = strconv.AppendInt(b, e.offset, 10)
		b = append(b, '\n')
		b = strconv.AppendInt(b, e.length, 10)
		b = append(b, '\n')
	}
	return append(b, make([]byte, -len(b)&(blockSize-1))...)
}
