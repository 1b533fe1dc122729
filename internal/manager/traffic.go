package manager

import "sync/atomic"

// Traffic is what the connections to servers in a guest have carried since the daemon began: published ports, port forwards,
// and connections of API clients.
type Traffic struct {
	Connections uint64 // how many there were
	Open        int    // how many there are
	ToGuest     uint64 // bytes
	FromGuest   uint64 // bytes
}

// traffic counts while it happens.
type traffic struct{ connections, toGuest, fromGuest atomic.Uint64 }

func (b *box) traffic() Traffic {
	b.mu.Lock()
	open := b.connections
	b.mu.Unlock()
	return Traffic{b.carried.connections.Load(), open, b.carried.toGuest.Load(), b.carried.fromGuest.Load()}
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.b.carried.fromGuest.Add(uint64(n))
	return n, err
}

func (c *connection) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.b.carried.toGuest.Add(uint64(n))
	return n, err
}
