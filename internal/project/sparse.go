package project

import (
	"errors"
	"io"
	"os"
)

// sparseFile is a new file that is written from front to back with a few seeks, in which blocks of zeros become holes.
type sparseFile struct {
	f   *os.File
	pos int64
	end int64 // nothing at or after it has been written
}

const block = 4096

var zeros [block]byte

func (s *sparseFile) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		// Up to the next boundary of a block, or, with data, as many blocks as have some.
		n := s.span(b[written:])
		chunk := b[written : written+n]
		if s.pos < s.end || !isZero(chunk) {
			if _, err := s.f.WriteAt(chunk, s.pos); err != nil {
				return written, err
			}
		}
		written += n
		s.pos += int64(n)
		s.end = max(s.end, s.pos)
	}
	return written, nil
}

// span is how many bytes of b can be treated alike.
func (s *sparseFile) span(b []byte) int {
	next := func(from int) int { return min(from+block-int((s.pos+int64(from))%block), len(b)) }
	n := next(0)
	if isZero(b[:n]) {
		return n
	}
	for n < len(b) {
		end := next(n)
		if isZero(b[n:end]) {
			break
		}
		n = end
	}
	return n
}

func isZero(b []byte) bool { return string(b) == string(zeros[:min(len(b), block)]) }

func (s *sparseFile) Read(b []byte) (int, error) {
	n, err := s.f.ReadAt(b, s.pos)
	s.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (s *sparseFile) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.end
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of the file")
	}
	s.pos = offset
	return offset, nil
}

// finish gives the file its length, to whole blocks.
func (s *sparseFile) finish() (int64, error) {
	size := (s.end + block - 1) / block * block
	return size, s.f.Truncate(size)
}
