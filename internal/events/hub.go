package events

import (
	"context"
	"sync"
	"time"
)

// Kept is how many events a Hub of the daemon remembers.
const Kept = 2048

// Hub keeps the last events and wakes its readers. Its methods may be called from any goroutine, and never wait for a
// reader. A Hub has no goroutine of its own.
type Hub struct {
	mu      sync.Mutex
	ring    []Event // of fixed capacity; event seq is at (seq-first) % cap
	first   uint64  // the number of the first event ever
	next    uint64  // the number of the next event
	readers map[*Reader]struct{}
}

// NewHub returns a Hub that remembers the last kept events. Its events are numbered from the time in microseconds on, so
// that numbers go on growing over restarts of the daemon.
func NewHub(kept int) *Hub {
	seq := uint64(time.Now().UnixMicro())
	return &Hub{ring: make([]Event, 0, kept), first: seq, next: seq, readers: map[*Reader]struct{}{}}
}

// Publish gives ev its number, and its time unless it has one, and shows it to all readers.
func (h *Hub) Publish(ev Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ev.Time.IsZero() {
		ev.Time = time.Now().UTC()
	}
	ev.Seq = h.next
	if len(h.ring) < cap(h.ring) {
		h.ring = append(h.ring, ev)
	} else {
		h.ring[h.index(ev.Seq)] = ev
	}
	h.next++
	for r := range h.readers {
		select {
		case r.wake <- struct{}{}:
		default: // it has not yet looked since the last one
		}
	}
}

func (h *Hub) index(seq uint64) int { return int((seq - h.first) % uint64(cap(h.ring))) }

// oldest is the number of the oldest event that is kept; next when there is none. The caller holds mu.
func (h *Hub) oldest() uint64 { return h.next - uint64(len(h.ring)) }

// Start says where a Reader begins. The zero value is: with the next event that comes.
type Start struct {
	Seq  uint64    // after the event of this number
	Time time.Time // with the first event that is kept and not before this time
}

// Filter says which events a Reader returns. A nil function means all.
type Filter func(*Event) bool

// Reader follows a Hub. It is for one goroutine, and has to be closed.
type Reader struct {
	hub    *Hub
	wake   chan struct{}
	next   uint64
	lost   bool // an unknown number was missed before the first one
	filter Filter
}

// Reader returns a reader of the events that filter accepts. Every event that is published after this call is before it.
func (h *Hub) Reader(from Start, filter Filter) *Reader {
	r := &Reader{hub: h, wake: make(chan struct{}, 1), filter: filter}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers[r] = struct{}{}
	switch {
	case from.Seq != 0:
		r.next = min(from.Seq+1, h.next)
		if r.next < h.first { // of a daemon before this one, whose last events nobody knows
			r.lost, r.next = true, h.first
		}
	case !from.Time.IsZero():
		for r.next = h.oldest(); r.next < h.next && h.ring[h.index(r.next)].Time.Before(from.Time); r.next++ {
		}
	default:
		r.next = h.next
	}
	return r
}

// Next waits for the next event, until ctx ends. An event of type Lost says that others were missed.
func (r *Reader) Next(ctx context.Context) (Event, error) {
	for {
		if ev, ok := r.TryNext(); ok {
			return ev, nil
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// TryNext returns the next event if there is one.
func (r *Reader) TryNext() (Event, bool) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.lost {
		r.lost = false
		return Event{Seq: r.next - 1, Time: time.Now().UTC(), Type: Lost}, true
	}
	if oldest := h.oldest(); r.next < oldest {
		missed := oldest - r.next
		r.next = oldest
		return Event{Seq: oldest - 1, Time: time.Now().UTC(), Type: Lost, Count: missed}, true
	}
	for r.next < h.next {
		ev := &h.ring[h.index(r.next)]
		r.next++
		if r.filter == nil || r.filter(ev) {
			return *ev, true
		}
	}
	return Event{}, false
}

// Close lets go of the Hub.
func (r *Reader) Close() {
	r.hub.mu.Lock()
	defer r.hub.mu.Unlock()
	delete(r.hub.readers, r)
}
