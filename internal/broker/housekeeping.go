package broker

import (
	"container/heap"
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
const housekeepingEvery = 500 * time.Millisecond

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
		b.expireMessages(&batch)
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
		if s.conn != nil || s.busy != nil || !s.exists || s.deadline != d.at {
			s.mu.Unlock()
			continue
		}
		s.end(batch)
	}
}

// expireMessages removes messages whose expiry or retention is over, also of
// clients that never come back.
func (b *Broker) expireMessages(batch *Batch) {
	type gone struct {
		id  string
		seq uint64
	}
	var list []gone
	b.store.Expired(time.UnixMilli(batch.now), func(id string, seq uint64) bool {
		list = append(list, gone{id, seq})
		return len(list) < 10_000
	})
	for _, g := range list {
		s := b.lockedSession([]byte(g.id))
		s.expire(g.seq)
		s.unlock()
	}
}

// expire removes one stored entry, unless it was sent and its acknowledgement
// is awaited [MQTT-3.3.2-5].
func (s *Session) expire(seq uint64) {
	if e := s.win.findSeq(seq); e != nil {
		return
	}
	if q := s.tail.find(seq); q != nil {
		return // the pump looks at it
	}
	found, size, ok := s.b.store.Oldest(s.inbox, seq-1)
	if !ok || found != seq {
		return
	}
	s.b.drop(mq.DropExpired)
	s.forget(seq, size)
}
