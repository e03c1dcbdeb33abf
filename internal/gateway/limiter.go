package gateway

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Places are those for the connections of a process: as many as there are file
// descriptors for, besides those that the store needs.
type Places struct {
	most int // 0: no limit

	mu      sync.Mutex // guards the rest, and the limiters
	taken   int
	waiting int
	freed   chan struct{} // closed when a place gets free; nil: nobody waits
}

// NewPlaces makes places for most connections; 0: for any number.
func NewPlaces(most int) *Places { return &Places{most: most} }

// Taken is how many places are in use.
func (p *Places) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// Limiter bounds the open connections of one protocol. Its methods may be called
// concurrently.
type Limiter struct {
	places           *Places
	most, perAddress int // 0: no limit

	// Guarded by places.mu.
	open      int
	addresses map[netip.Addr]int // only if perAddress is set
}

// Limiter makes a limiter with limits of its own; 0: none. Its connections take
// places of p.
func (p *Places) Limiter(most, perAddress int) *Limiter {
	return &Limiter{places: p, most: most, perAddress: perAddress, addresses: make(map[netip.Addr]int)}
}

const (
	// comeBackTime is how long a connection over a limit waits for a place. A
	// client that has closed one and opens the next at once has its place as
	// soon as the server has seen the end of the first, which may be later.
	comeBackTime = time.Second
	// maxWaiting is how many wait at a time: each has a file descriptor. Where
	// there are few places, fewer do.
	maxWaiting = 16
)

// room is how many may wait. Locked: mu.
func (p *Places) room() int {
	if p.most == 0 {
		return maxWaiting
	}
	return min(max(p.most/8, 1), maxWaiting)
}

// Enter takes a place for a connection from an address, and reports whether
// there was one. Then Leave must follow.
func (l *Limiter) Enter(a netip.Addr) bool {
	l.places.mu.Lock()
	defer l.places.mu.Unlock()
	return l.enter(a)
}

// enter is Enter. Locked: places.mu.
func (l *Limiter) enter(a netip.Addr) bool {
	p := l.places
	switch {
	case p.most > 0 && p.taken >= p.most, l.most > 0 && l.open >= l.most, l.full(a):
		return false
	}
	p.taken++
	l.open++
	l.count(a)
	return true
}

// full reports whether an address has all the connections that it may have. The
// zero address stands for all whose address is not known yet. Locked: places.mu.
func (l *Limiter) full(a netip.Addr) bool {
	return l.perAddress > 0 && a.IsValid() && l.addresses[a] >= l.perAddress
}

// count counts a connection of an address. Locked: places.mu.
func (l *Limiter) count(a netip.Addr) {
	if l.perAddress > 0 {
		l.addresses[a]++
	}
}

// discount is the opposite of count. Locked: places.mu.
func (l *Limiter) discount(a netip.Addr) {
	if l.perAddress > 0 {
		if l.addresses[a]--; l.addresses[a] == 0 {
			delete(l.addresses, a)
		}
	}
}

// Await is Enter that waits a moment for a place. It reports false at once if
// many wait already.
func (l *Limiter) Await(ctx context.Context, a netip.Addr) bool {
	return l.await(ctx, func() bool { return l.enter(a) })
}

// Identify says which address a connection has that has entered with the zero
// address. It waits as Await does; when it reports false, the connection still has
// the place with the zero address.
func (l *Limiter) Identify(ctx context.Context, a netip.Addr) bool {
	return l.await(ctx, func() bool {
		if l.full(a) {
			return false
		}
		l.discount(netip.Addr{})
		l.count(a)
		return true
	})
}

// await calls enter, with places.mu locked, until it reports true, or the time is
// over.
func (l *Limiter) await(ctx context.Context, enter func() bool) bool {
	p := l.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if enter() {
		return true
	}
	if p.waiting >= p.room() {
		return false
	}
	p.waiting++
	defer func() { p.waiting-- }()
	ctx, cancel := context.WithTimeout(ctx, comeBackTime)
	defer cancel()
	for !enter() {
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return enter()
		}
	}
	return true
}

// Leave gives a place back.
func (l *Limiter) Leave(a netip.Addr) {
	p := l.places
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	l.open--
	l.discount(a)
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
}

// Open counts the connections that have a place.
func (l *Limiter) Open() int {
	l.places.mu.Lock()
	defer l.places.mu.Unlock()
	return l.open
}

// Waiting counts the connections that wait for a place, of all protocols.
func (l *Limiter) Waiting() int {
	l.places.mu.Lock()
	defer l.places.mu.Unlock()
	return l.places.waiting
}
