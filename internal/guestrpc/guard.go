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

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if broken := g.scan(p[:n]); broken != nil {
		g.mu.Lock()
		g.err = broken
		g.mu.Unlock()
		return 0, broken
	}
	return n, err
}

// broken returns the rule that the guest broke, if it did.
func (g *guard) broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *guard) scan(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(p)))
			p = p[n:]
			g.body -= uint32(n)
			continue
		}
		n := copy(g.header[g.have:], p)
		p = p[n:]
		if g.have += n; g.have < headerSize {
			return nil
		}
		g.have = 0
		g.body = binary.BigEndian.Uint32(g.header[:])
		if g.body > maxFrame {
			return fmt.Errorf("the guest sent a frame of %d bytes, more than the %d allowed", g.body, maxFrame)
		}
		if err := g.check(binary.BigEndian.Uint32(g.header[4:]), g.header[8], g.header[9]); err != nil {
			return err
		}
	}
	return nil
}
