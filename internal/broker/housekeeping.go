package broker

import (
	"container/heap"
	"strings"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// expiryQueue holds the deadlines of offline sessions. An entry may be stale:
// the session tells.
type expiryQueue struct {
	mu   sync.Mutex
	heap deadlines
}

type deadline struct {
	at int64 // Unix ms
	id string
}

type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = deadline{}
	*d = old[:len(old)-1]
	return last
}

func (q *expiryQueue) add(at int64, id string) {
	q.mu.Lock()
	heap.Push(&q.heap, deadline{at, id})
	q.mu.Unlock()
}

// expireAt sets the deadline of an offline session. There is one entry in the
// queue for it, however often it comes and goes.
func (s *Session) expireAt(at int64) {
	s.deadline = at
	if !s.expiring {
		s.expiring = true
		s.b.expiries.add(at, s.id)
	}
}

// next takes the first deadline that has passed.
func (q *expiryQueue) next(now int64) (deadline, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.heap) == 0 || q.heap[0].at > now {
		return deadline{}, false
	}
	return heap.Pop(&q.heap).(deadline), true
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
		batch.Begin()
		b.endSessions(&batch)
		b.fireWills(batch.now)
		b.expireMessages(&batch)
		b.retryShares(&batch)
		batch.Flush()
	}
}

func (b *Broker) endSessions(batch *Batch) {
	for {
		d, ok := b.expiries.next(batch.now)
		if !ok {
			return
		}
		s := b.lockedIfKnown([]byte(d.id))
		if s == nil {
			continue
		}
		s.expiring = false
		switch {
		case s.conn != nil || !s.exists || s.deadline == 0:
			s.unlock()
		case s.busy != nil, s.deadline > batch.now: // it came back, and left again
			s.expiring = true
			b.expiries.add(max(s.deadline, batch.now+1000), s.id)
			s.mu.Unlock()
		default:
			s.expireAt(s.deadline)
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
	if s.dead || s.conn != nil || !s.exists || s.busy != nil || s.deadline == 0 || s.deadline > batch.now {
		s.unlock()
		return
	}
	s.end(batch)
}

// expireMessages removes messages whose expiry or retention is over, also of
// clients that never come back.
func (b *Broker) expireMessages(batch *Batch) {
	var list []expired
	b.store.Expired(time.UnixMilli(batch.now), func(id string, seq uint64) bool {
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
		s.expire(list[from:to], batch)
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
func (s *Session) expire(list []expired, b *Batch) {
	if !s.confirmed() || s.pumping {
		return
	}
	for _, e := range list {
		s.expireEntry(e.seq, b)
	}
}

// expireEntry removes one stored entry, unless it was sent and its acknowledgement
// is awaited [MQTT-4.3.3-7]: then the exchange goes on.
func (s *Session) expireEntry(seq uint64, b *Batch) {
	if s.win.findSeq(seq) != nil || s.tail.find(seq) != nil {
		return // the pump looks at the latter
	}
	entries, buf, err := s.b.store.Read(s.inbox, seq-1, seq, 1, b.entries[:0], b.buf[:0])
	b.entries, b.buf = entries, buf
	if err != nil || len(entries) == 0 || entries[0].Seq != seq {
		return
	}
	flags := entries[0].Flags
	begun := flags&(mq.FlagSent|mq.FlagReceived) != 0 || seq <= s.sentTo
	if begun && flags&mq.FlagQoS == 2 {
		return // only the session's end ends it
	}
	s.b.drop(mq.DropExpired)
	s.forget(seq, len(entries[0].Record))
}
