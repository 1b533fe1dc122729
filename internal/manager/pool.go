package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Pool says how many microVMs wait for sandboxes that are made later.
type Pool struct {
	Size   int // for each image
	Max    int // in all
	Images []string
}

const (
	// claimTimeout is how long a microVM from the pool waits for its sandbox, once made, to be started.
	claimTimeout = 10 * time.Second
	// poolTimeout bounds the making of one.
	poolTimeout = 5 * time.Minute
	// After a failure an image is left alone for a time that doubles each time.
	firstPoolPause, longestPoolPause = 5 * time.Second, 10 * time.Minute
	// pressurePause is how long no microVM is made after the host was short of memory.
	pressurePause = 30 * time.Second
	// poolReserve is the part of the host's memory that the pool leaves free: one in poolReserve.
	poolReserve = 8
)

// pool keeps microVMs that have been started, each with a disk of its own, and that no sandbox has yet. Each is used for one
// sandbox at most. One goroutine makes them, one at a time, while no sandbox is being started.
type pool struct {
	Pool
	wake   chan struct{} // holds a token when there may be something to do
	stocks []*stock      // guarded by Manager.mu, as what follows
	busy   int           // starts of sandboxes that are under way
	until  time.Time     // nothing is made before
	why    string        // why not
}

// stock is what the pool has for an image.
type stock struct {
	image  string
	ready  []*pooled // the oldest first
	making bool
	failed int // times, one after another
	retry  time.Time
	err    error
}

// pooled is a microVM in the pool. Its sandbox is to have its id, and the directory that is staged for it.
type pooled struct {
	rec     sandbox.Record
	machine sandbox.Machine
	guest   *guest
}

func newPool(o Pool) *pool {
	p := &pool{Pool: o, wake: make(chan struct{}, 1)}
	if o.Size > 0 {
		for _, image := range o.Images {
			p.stocks = append(p.stocks, &stock{image: image})
		}
	}
	return p
}

// starting keeps the pool quiet until the returned function is called.
func (m *Manager) starting() (done func()) {
	p := m.pool
	m.mu.Lock()
	p.busy++
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		p.busy--
		m.mu.Unlock()
		p.poke()
	}
}

func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// fillPool begins to keep microVMs ready, when there are any to be kept.
func (m *Manager) fillPool() {
	if len(m.pool.stocks) == 0 || !m.inBackground() {
		return
	}
	if err := m.d.WatchMemory(m.ctx, m.shortOfMemory); err != nil {
		m.log.Info("the pool does not learn when memory gets short", "err", err)
	}
	go m.runPool()
}

// runPool fills the pool until the daemon ends.
func (m *Manager) runPool() {
	defer m.background.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s, wait := m.nextStock()
		if s == nil {
			if wait > 0 {
				timer.Reset(wait)
			}
			select {
			case <-m.ctx.Done():
				return
			case <-m.pool.wake:
			case <-timer.C:
			}
			continue
		}
		p, err := m.makePooled(m.ctx, s.image)
		m.mu.Lock()
		s.making = false
		if m.ctx.Err() != nil {
			m.mu.Unlock()
			if err == nil {
				m.discard(p)
			}
			return
		}
		if err != nil {
			pause := min(firstPoolPause<<min(s.failed, 20), longestPoolPause)
			s.failed, s.retry, s.err = s.failed+1, time.Now().Add(pause), err
			m.log.Warn("the pool cannot keep a microVM ready", "image", s.image, "next_try_in", pause, "err", err)
		} else {
			s.failed, s.err = 0, nil
			s.ready = append(s.ready, p)
		}
		m.mu.Unlock()
		if err == nil {
			m.watchPooled(s, p)
		}
	}
}

// nextStock chooses what to make a microVM for, the emptiest first. When there is nothing to do, wait is when to look again; 0: when
// something happens.
func (m *Manager) nextStock() (_ *stock, wait time.Duration) {
	available, memErr := m.d.AvailableMiB()
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pool
	if p.busy > 0 {
		return nil, 0
	}
	now := time.Now()
	if d := p.until.Sub(now); d > 0 {
		return nil, d
	}
	total := 0
	for _, s := range p.stocks {
		total += len(s.ready)
	}
	var next *stock
	for _, s := range p.stocks {
		if len(s.ready) >= p.Size {
			continue
		}
		if d := s.retry.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if next == nil || len(s.ready) < len(next.ready) {
			next = s
		}
	}
	if next == nil || total >= p.Max {
		return nil, wait
	}
	if free := available - sandbox.DefaultMemoryMiB; memErr == nil && free < m.d.Host.MemoryMiB/poolReserve {
		p.hold(fmt.Sprintf("the host has only %d MiB of memory left", available))
		return nil, pressurePause
	}
	p.why, next.making = "", true
	return next, 0
}

// hold stops the making for a while. The caller holds Manager.mu.
func (p *pool) hold(why string) { p.until, p.why = time.Now().Add(pressurePause), why }

// watchPooled takes a microVM out of the pool when it ends by itself.
func (m *Manager) watchPooled(s *stock, p *pooled) {
	if !m.inBackground() {
		return // Close has emptied the pool, or will
	}
	go func() {
		defer m.background.Done()
		select {
		case <-p.machine.Done():
		case <-m.ctx.Done():
			return
		}
		m.mu.Lock()
		i := slices.Index(s.ready, p)
		if i >= 0 {
			s.ready = slices.Delete(s.ready, i, i+1)
			s.failed, s.err = s.failed+1, fmt.Errorf("it ended while it waited: %s", exitReason(p.machine.Exit()))
			s.retry = time.Now().Add(min(firstPoolPause<<min(s.failed, 20), longestPoolPause))
		}
		m.mu.Unlock()
		if i >= 0 {
			m.discard(p)
			m.pool.poke()
		}
	}()
}

// discard ends a microVM that no sandbox gets, and deletes its files.
func (m *Manager) discard(p *pooled) {
	p.guest.close()
	err := errors.Join(p.machine.Kill(context.WithoutCancel(m.ctx)), m.removeRuntimeDir(p.rec.ID), m.d.Store.Discard(p.rec.ID))
	if err != nil {
		m.log.Warn("clear up after a microVM of the pool", "id", p.rec.ID, "err", err)
	}
	m.mu.Lock()
	delete(m.cids, p.rec.Spec.VsockCID)
	m.mu.Unlock()
}

// takePooled takes a microVM for a sandbox out of the pool, or returns nil when there is none that is as spec asks.
func (m *Manager) takePooled(spec sandbox.Spec, image sandbox.Image, anyCID bool) *pooled {
	if !anyCID || spec.Project != "" || len(spec.Volumes) > 0 || spec.Engine != "" && spec.Engine != sandbox.EngineAuto {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.pool.stocks {
		for i, p := range s.ready {
			have := p.rec.Spec
			if have.Arch != spec.Arch || have.VCPUs != spec.VCPUs || have.MemoryMiB != spec.MemoryMiB || have.DiskMiB != spec.DiskMiB || p.rec.Image.Digest != image.Digest {
				continue
			}
			select {
			case <-p.machine.Done():
				continue // watchPooled is about to find out
			default:
			}
			s.ready = slices.Delete(s.ready, i, i+1)
			m.pool.poke()
			return p
		}
	}
	return nil
}

// emptyPool discards microVMs, the newest first, until at most keep are left.
func (m *Manager) emptyPool(keep int) {
	for {
		m.mu.Lock()
		total, most := 0, (*stock)(nil)
		for _, s := range m.pool.stocks {
			total += len(s.ready)
			if most == nil || len(s.ready) > len(most.ready) {
				most = s
			}
		}
		if total <= keep {
			m.mu.Unlock()
			return
		}
		last := len(most.ready) - 1
		p := most.ready[last]
		most.ready = most.ready[:last]
		m.mu.Unlock()
		m.discard(p)
	}
}

// shortOfMemory gives half of the pool back to the host.
func (m *Manager) shortOfMemory() {
	m.mu.Lock()
	m.pool.hold("the host was short of memory")
	total := 0
	for _, s := range m.pool.stocks {
		total += len(s.ready)
	}
	m.mu.Unlock()
	if total > 0 {
		m.log.Warn("the host is short of memory: the pool yields", "ready", total, "left", total/2)
		m.emptyPool(total / 2)
	}
}
