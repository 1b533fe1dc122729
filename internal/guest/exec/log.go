package exec

import (
	"sort"
	"sync"
)

// What is kept of the output of a command in the background, in bytes, and in how many pieces. A piece costs some 64 bytes
// beside its data.
const (
	logSize   = 128 << 10
	logPieces = 1024
)

// piece is output that came at once, or shortly after other output of the same stream.
type piece struct {
	stderr bool
	start  uint64 // position of its first byte
	data   []byte
}

// outputLog keeps the end of a command's output, in the order in which it came. Positions count all bytes since its start.
type outputLog struct {
	mu      sync.Mutex
	pieces  []piece
	size    int
	end     uint64 // position of the next byte
	ended   bool
	changed chan struct{} // closed at the next change; nil when nobody waits
}

// add appends a copy of p. It never blocks.
func (l *outputLog) add(stderr bool, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.pieces); n > 0 && l.pieces[n-1].stderr == stderr && len(l.pieces[n-1].data)+len(p) <= pieceSize {
		l.pieces[n-1].data = append(l.pieces[n-1].data, p...)
	} else {
		l.pieces = append(l.pieces, piece{stderr, l.end, append([]byte(nil), p...)})
	}
	l.end += uint64(len(p))
	l.size += len(p)
	drop := 0
	for l.size > logSize || len(l.pieces)-drop > logPieces {
		l.size -= len(l.pieces[drop].data)
		l.pieces[drop].data = nil
		drop++
	}
	l.pieces = l.pieces[drop:]
	l.wake()
}

// finish says that nothing more comes.
func (l *outputLog) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.wake()
}

func (l *outputLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// bounds returns the positions of what is kept.
func (l *outputLog) bounds() (from, to uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end - uint64(l.size), l.end
}

// read copies output from a position on into buf: n bytes of one stream, after a gap of so many that are not kept any more.
// Without any, more is closed when there may be some; it is nil when nothing more comes.
func (l *outputLog) read(at uint64, buf []byte) (n int, stderr bool, gap uint64, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.end - uint64(l.size); at < first {
		gap, at = first-at, first
	}
	i := sort.Search(len(l.pieces), func(i int) bool { return l.pieces[i].start+uint64(len(l.pieces[i].data)) > at })
	if i < len(l.pieces) {
		p := l.pieces[i]
		return copy(buf, p.data[at-p.start:]), p.stderr, gap, nil
	}
	if l.ended {
		return 0, false, gap, nil
	}
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return 0, false, gap, l.changed
}
