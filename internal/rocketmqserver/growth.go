package rocketmqserver

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// A compressed body of 400 bytes can become one of 4 MiB, which is then sent,
// stored and counted like any other of 4 MiB. So who has next to no bandwidth could
// keep the processors, the disk and the inboxes as busy as who has ten thousand
// times as much. What bodies grow by is therefore bounded for each sender, in bytes
// a second.
//
// Considered: to keep compressed what came compressed. It would spare disk and
// memory, but not the processors: the limits count what a body becomes, so it has to
// be decompressed when it comes, and each time again that it is sent; and a target
// that is offline, or slow, would make of its inbox what p2p.inbox-bytes is to
// prevent.

// freeGrowth is how many times its size a body may become without being counted:
// text and JSON become 3 to 15 times as large.
const freeGrowth = 16

// growthWait is how long a request waits for its sender's turn before it is
// refused. It holds its memory meanwhile.
const growthWait = time.Second

// maxGrown is how many senders are remembered before those are forgotten that owe
// nothing.
const maxGrown = 1024

// grower is whose bodies grow: an access key, or the address of who has none
// (IPv6: its /64).
type grower struct {
	key  string
	addr netip.Addr
}

func growerOf(who *mq.Principal, remote netip.Addr) grower {
	if who.AccessKey != "" {
		return grower{key: who.AccessKey}
	}
	remote = remote.Unmap().WithZone("")
	if remote.Is6() {
		if p, err := remote.Prefix(64); err == nil {
			remote = p.Addr()
		}
	}
	return grower{addr: remote}
}

// growth bounds what the bodies of each sender grow by. A second's worth may come
// at once.
type growth struct {
	rate     int64         // bytes a second; 0: no limit
	inflated atomic.Uint64 // bytes that compressed bodies have become

	mu   sync.Mutex
	paid map[grower]int64 // when, in ns of now, what has come is paid for
}

// wait returns for how long the sender's next body must wait at now, ns; 0: it
// need not.
func (g *growth) wait(by grower, now int64) time.Duration {
	if g.rate == 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Duration(max(g.paid[by]-now, 0))
}

// charge takes note of a body of so many bytes that has become more.
func (g *growth) charge(by grower, came, became int, now int64) {
	g.inflated.Add(uint64(became))
	more := int64(became) - freeGrowth*int64(came)
	if g.rate == 0 || more <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	paid, known := g.paid[by]
	if !known && len(g.paid) >= maxGrown {
		for other, paid := range g.paid {
			if paid < now-int64(time.Second) {
				delete(g.paid, other)
			}
		}
	}
	// In ns, without overflow: both are below 2^31 or so.
	took := int64(float64(more) / float64(g.rate) * float64(time.Second))
	if !known {
		paid = now - int64(time.Second)
	}
	g.paid[by] = max(paid, now-int64(time.Second)) + took
}

// errGrowth refuses what its sender has no turn for. It is counted as too_large.
var errGrowth = refuse(growthFull,
	"the compressed bodies of this sender become more than the server takes of one (rocketmq.inflate-rate); send again later, or compress less")

// inflatingFor is inflating for a sender, when its turn comes. Its error refuses the
// request: its turn does not come soon, or the server closes.
func (s *Server) inflatingFor(by grower) (done func(), err error) {
	for end := now() + int64(growthWait); ; {
		wait := s.growth.wait(by, now())
		if wait == 0 {
			done := s.inflating()
			if wait = s.growth.wait(by, now()); wait == 0 { // no other request of it came first
				return done, nil
			}
			done()
		}
		if s.closing.Load() {
			return nil, errClosing
		}
		if now() > end {
			return nil, errGrowth
		}
		s.Stats.Slowed.Add(1)
		time.Sleep(min(wait, growthWait/20))
	}
}
