package transport

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/agentkernel/agentkernel/internal/transport/yamuxconn"
)

// guard reads yamux frames from a guest and refuses those that an honest guest does not send and that cost the host memory:
// yamux starts a goroutine for each ping, and keeps a stream for each SYN.
type guard struct {
	r      io.Reader
	rest   []byte // was read before
	header [yamuxconn.HeaderSize]byte
	have   int    // bytes of header
	body   uint32 // bytes still to come of the body
	err    error
}

func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	var n int
	var err error
	if len(g.rest) > 0 {
		n = copy(p, g.rest)
		if g.rest = g.rest[n:]; len(g.rest) == 0 {
			g.rest = nil
		}
	} else {
		n, err = g.r.Read(p)
	}
	if g.err = g.check(p[:n]); g.err != nil {
		return 0, g.err
	}
	return n, err
}

func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(p)))
			p = p[n:]
			g.body -= uint32(n)
			continue
		}
		n := copy(g.header[g.have:], p)
		p = p[n:]
		if g.have += n; g.have < len(g.header) {
			return nil
		}
		g.have = 0
		if err := g.frame(); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) frame() error {
	kind, flags := g.header[1], binary.BigEndian.Uint16(g.header[2:])
	length := binary.BigEndian.Uint32(g.header[8:])
	switch {
	case g.header[0] != 0:
		return fmt.Errorf("the guest sent a frame of version %d", g.header[0])
	case flags&yamuxconn.FlagSYN != 0:
		return fmt.Errorf("the guest tried to open a stream")
	case kind == yamuxconn.TypeData:
		if length > yamuxconn.Window {
			return fmt.Errorf("the guest sent a frame of %d bytes, more than a stream may hold", length)
		}
		g.body = length
	case kind != yamuxconn.TypeWindow && kind != yamuxconn.TypeGoAway:
		return fmt.Errorf("the guest sent a frame of type %d", kind)
	}
	return nil
}
