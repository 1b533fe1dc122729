package guestrpc

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
)

// Frame layout: github.com/containerd/ttrpc/blob/main/PROTOCOL.md.
const (
	headerSize   = 10
	typeResponse = 2
	typeData     = 3
	remoteClosed = 1 // flag
	// maxFrame bounds one frame from the guest, in bytes: 32 KiB of output and what is wrapped around them.
	maxFrame = 34 << 10
)

// guard looks at each frame's header before the RPC library does. The library takes frames of 4 MiB, keeps dozens of them,
// and writes to a global log what it finds odd. For the same reason a client of the library is ended by closing the guard:
// the library then finds out in the goroutine that handles frames, with none at hand that it would complain about.
type guard struct {
	net.Conn
	check func(stream uint32, kind, flags byte) error

	header [headerSize]byte
	have   int    // bytes of header
	body   uint32 // bytes still to come of the body

	mu  sync.Mutex
	err error // the first rule that was broken
}

// Read hands on the frames before one that breaks a rule, and nothing after.
func (g *guard) Read(p []byte) (int, error) {
	if err := g.broken(); err != nil {
		return 0, err
	}
	n, err := g.Conn.Read(p)
	good, broken := g.scan(p[:n])
	if broken == nil {
		return n, err
	}
	g.mu.Lock()
	g.err = broken
	g.mu.Unlock()
	if good == 0 {
		return 0, broken
	}
	return good, nil
}

// broken returns the rule that the guest broke, if it did.
func (g *guard) broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// scan looks at the next bytes. When there is a header in them that breaks a rule, good is how many bytes come before it.
func (g *guard) scan(p []byte) (good int, err error) {
	for at := 0; at < len(p); {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(p)-at))
			at += int(n)
			g.body -= uint32(n)
			continue
		}
		if g.have == 0 {
			good = at
		}
		n := copy(g.header[g.have:], p[at:])
		at += n
		if g.have += n; g.have < headerSize {
			break
		}
		g.have = 0
		g.body = binary.BigEndian.Uint32(g.header[:])
		if g.body > maxFrame {
			return good, fmt.Errorf("the guest sent a frame of %d bytes, more than the %d allowed", g.body, maxFrame)
		}
		if err := g.check(binary.BigEndian.Uint32(g.header[4:]), g.header[8], g.header[9]); err != nil {
			return good, err
		}
	}
	return len(p), nil
}
