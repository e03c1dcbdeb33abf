package broker

import (
	"container/heap"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// timeQueue orders what is due at some time.
type timeQueue struct {
	mu   sync.Mutex
	heap timers
}

// timer is when something of a session is due. It is in one queue or in none.
type timer struct {
	at    int64 // the server's time, Unix ms
	id    string
	place int // in the heap, from 1; 0: in none
}

type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].place, t[j].place = i+1, j+1
}

func (t *timers) Push(x any) {
	one := x.(*timer)
	*t = append(*t, one)
	one.place = len(*t)
}

func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	last.place = 0
	return last
}

// set puts the timer into the queue, or moves it.
func (q *timeQueue) set(t *timer, at int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.at = at; t.place > 0 {
		heap.Fix(&q.heap, t.place-1)
		return
	}
	heap.Push(&q.heap, t)
}

// remove takes the timer out of the queue, if it is there.
func (q *timeQueue) remove(t *timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.place > 0 {
		heap.Remove(&q.heap, t.place-1)
	}
}

// next takes out the first whose time has come, or returns nil.
func (q *timeQueue) next(now int64) *timer {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 || q.heap[0].at > now {
		return nil
	}
	return heap.Pop(&q.heap).(*timer)
}

// expireAt sets the deadline of an offline session. Its timer stays in the
// queue while the client comes and goes, and is moved only to be earlier.
func (s *Session) expireAt(at int64) {
	s.deadline = at
	switch {
	case s.expiring == nil:
		s.expiring = &timer{id: s.id}
	case s.expiring.at <= at:
		return
	}
	s.b.expiries.set(s.expiring, at)
}

// housekeepingEvery is the pace of session and message expiry.
const housekeepingEvery = 200 * time.Millisecond

// runHousekeeping ends sessions and removes messages whose time is over.
func (b *Broker) runHousekeeping() {
	tick := time.NewTicker(housekeepingEvery)
	defer tick.Stop()
	var batch Batch
	for {
		select {
		case <-tick.C:
		case <-b.stop:
			return
		}
		b.clock.Check()
		batch.Begin()
		b.endSessions(&batch)
		b.fireWills(b.Now(&batch))
		b.expireMessages(&batch)
		b.retryStalled(&batch)
		b.forgetOwners()
		batch.Flush()
	}
}

func (b *Broker) endSessions(batch *Batch) {
	for {
		t := b.expiries.next(b.Now(batch))
		if t == nil {
			return
		}
		s := b.lockedIfKnown([]byte(t.id))
		if s == nil {
			continue
		}
		if s.expiring != t { // of a session before it
			s.unlock()
			continue
		}
		s.expiring = nil
		switch {
		case s.conn != nil || !s.exists || s.deadline == 0:
			s.unlock()
		case s.busy != nil, s.deadline > b.Now(batch): // it came back, and left again
			s.expiring = &timer{id: s.id}
			b.expiries.set(s.expiring, max(s.deadline, b.Now(batch)+200))
			s.mu.Unlock()
		default:
			s.mu.Unlock()
			b.background(s.endOverdue)
		}
	}
}

// endOverdue ends the session if its deadline has passed and nothing has
// happened meanwhile. While it has not ended its deadline stays in the queue.
// [MQTT-4.1.0-2] [MQTT-4.1.0-1]
func (s *Session) endOverdue(batch *Batch) {
	s.mu.Lock()
	if s.dead || s.conn != nil || !s.exists || s.busy != nil || s.deadline == 0 || s.deadline > s.b.Now(batch) {
		s.unlock()
		return
	}
	s.end(batch)
}

// expireMessages removes messages whose expiry or retention is over, also of
// clients that never come back.
func (b *Broker) expireMessages(batch *Batch) {
	var list []expired
	b.store.Expired(time.UnixMilli(b.Now(batch)), func(id string, seq uint64) bool {
		list = append(list, expired{id, seq})
		return len(list) < 10_000
	})
	for from := 0; from < len(list); {
		to := from + 1
		for to < len(list) && list[to].id == list[from].id {
			to++
		}
		if strings.HasPrefix(list[from].id, mq.RetainedInbox) {
			for _, e := range list[from:to] {
				b.expireRetained(e.id, e.seq)
			}
			from = to
			continue
		}
		s := b.lockedSession([]byte(list[from].id))
		s.expire(list[from:to])
		s.unlock()
		from = to
	}
}

// expired is an entry whose time is over.
type expired struct {
	id  string
	seq uint64
}

// expire removes entries whose time is over. While the store may still show
// what was removed before, or the pump reads, nothing is: they come again.
func (s *Session) expire(list []expired) {
	if !s.confirmed() {
		s.confirmSoon()
		return
	}
	if s.pumping {
		return
	}
	s.forgetPurged()
	var gone []uint64
	for _, e := range list {
		if s.expireEntry(e.seq) {
			gone = append(gone, e.seq)
		}
	}
	if len(gone) == 0 {
		return
	}
	slices.Sort(gone)
	s.purged = true
	p := &s.b.purged
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seqs == nil {
		p.seqs = make(map[*Session][]uint64)
	}
	p.seqs[s] = gone
}

// purged has, by session, the seqs ascending of what has expired and may show in
// the store yet. It is not in the session because few have any, for moments. mu
// is a leaf.
type purged struct {
	mu   sync.Mutex
	seqs map[*Session][]uint64
}

// wasPurged reports whether an entry has expired, though the store may show it. s
// is locked.
func (s *Session) wasPurged(seq uint64) bool {
	if !s.purged {
		return false
	}
	if s.confirmed() {
		s.forgetPurged()
		return false
	}
	p := &s.b.purged
	p.mu.Lock()
	defer p.mu.Unlock()
	_, gone := slices.BinarySearch(p.seqs[s], seq)
	return gone
}

// forgetPurged is called when the store shows nothing that has expired. s is
// locked.
func (s *Session) forgetPurged() {
	if !s.purged {
		return
	}
	s.purged = false
	p := &s.b.purged
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.seqs, s)
}

// expireEntry removes one stored entry, unless it was sent and its acknowledgement
// is awaited [MQTT-4.3.3-7]: then the exchange goes on. It reports whether it has.
func (s *Session) expireEntry(seq uint64) bool {
	if s.win.findSeq(seq) != nil || s.tail.find(seq) != nil {
		return false // the pump looks at the latter
	}
	en, size, ok := s.stored(seq)
	if !ok {
		return false
	}
	flags := en.Flags
	begun := flags&(mq.FlagSent|mq.FlagReceived) != 0 || seq <= s.sentTo
	if begun && flags&mq.FlagQoS == 2 {
		return false // only the session's end ends it
	}
	s.b.drop(mq.DropExpired)
	s.forget(seq, size)
	return true
}
