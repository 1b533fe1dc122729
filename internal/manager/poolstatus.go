package manager

import "time"

// PoolStatus says what is ready.
type PoolStatus struct {
	Size, Max int
	OnHold    string // why nothing is made now; empty when nothing is in the way
	Images    []PoolImage
}

// PoolImage is what is ready of one image.
type PoolImage struct {
	Image   string
	Ready   int
	Making  bool
	Err     error     // of the last attempt; nil when it succeeded
	RetryAt time.Time // when Err is not nil
}

// PoolStatus describes the pool.
func (m *Manager) PoolStatus() PoolStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pool
	s := PoolStatus{Size: p.Size, Max: p.Max}
	if time.Now().Before(p.until) {
		s.OnHold = p.why
	}
	for _, k := range p.stocks {
		s.Images = append(s.Images, PoolImage{Image: k.image, Ready: len(k.ready), Making: k.making, Err: k.err, RetryAt: k.retry})
	}
	return s
}
