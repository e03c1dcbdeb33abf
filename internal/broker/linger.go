package broker

import (
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// slowTarget is the acknowledgement time in microseconds from which waiting
// for the target does not pay: the store is written at once.
const slowTarget = 10_000

// minLinger is the shortest wait, microseconds: one tick of the wheel.
const minLinger = 1_000

// linger is how long a message that was sent now waits for the target's
// acknowledgement before it is stored, microseconds. 0: do not wait.
func (s *Session) linger() int64 {
	most := s.b.opt.StoreAfter.Microseconds()
	switch {
	case s.ackTime >= slowTarget || most == 0:
		return 0
	case s.ackTime == 0:
		return most
	}
	return min(max(2*s.ackTime, minLinger), most)
}

// observeAck takes a new acknowledgement time into the moving average.
func (s *Session) observeAck(us int64) {
	us = max(us, 1)
	if s.ackTime == 0 {
		s.ackTime = us
		return
	}
	s.ackTime = max(s.ackTime+(us-s.ackTime)/8, 1)
}

// flushPending submits every pending entry of the window up to a seq, in
// order. It comes before any put with a higher seq.
func (s *Session) flushPending(upTo uint64, b *Batch) {
	if s.unsafe > upTo || s.traffic == &noTraffic {
		return
	}
	for i := s.win.search(s.unsafe); i < s.win.n; i++ {
		e := s.win.at(i)
		if e.seq > upTo {
			break
		}
		if e.state == pending {
			s.storePending(e, b)
		}
	}
	s.unsafe = min(upTo, s.nextSeq-1) + 1
}

// storePending submits a pending entry of the window. It reports false if it is
// over a limit: then its sender is told that it is not safe, and it stays in memory
// until the target, which it was sent to, has acknowledged it or is gone.
func (s *Session) storePending(e *inflight, b *Batch) bool {
	in, err := s.occupied(func() mq.Account {
		if sender := senderOf(e.origin); sender != nil {
			return sender.account
		}
		return mq.Nobody
	})
	if err != nil {
		b.complete(e.origin, e.token, codeOf(err))
		e.origin, e.state = nil, volatile
		return false
	}
	var m mq.Message
	_ = mq.DecodeRecord(&m, e.rec) // our own record; for its expiry
	e.state = writing
	s.hold(-len(e.rec))
	s.count++
	s.bytes += int64(e.size)
	s.held++
	s.heldBytes += int64(e.size)
	s.b.submitted(1)
	s.b.store.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: e.seq, Flags: e.flags, Expiry: m.Expiry, Record: e.rec,
		Owner: s, Token: uint64(monotonic())})
	return true
}

// wheel fires sessions whose oldest pending entry is due: 1 ms slots, one
// goroutine, no timer per message.
type wheel struct {
	mu    sync.Mutex
	slots [64][]*Session
	next  int64 // first tick not fired yet, ms on the batch clock
	n     int
	wake  chan struct{}
}

func (w *wheel) init() { w.wake = make(chan struct{}, 1) }

// armLinger puts the session on the wheel, once.
func (s *Session) armLinger(due int64) {
	if s.lingering {
		return
	}
	s.lingering = true
	w := &s.b.wheel
	tick := due/1000 + 1
	w.mu.Lock()
	if w.n == 0 {
		w.next = monotonic() / 1000
	}
	tick = min(max(tick, w.next), w.next+int64(len(w.slots))-1)
	w.slots[tick%int64(len(w.slots))] = append(w.slots[tick%int64(len(w.slots))], s)
	w.n++
	first := w.n == 1
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// due moves the sessions to fire up to tick now into dst and tells whether
// some are left.
func (w *wheel) due(now int64, dst []*Session) (fired []*Session, left bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; w.next <= now && w.n > 0; w.next++ {
		slot := &w.slots[w.next%int64(len(w.slots))]
		dst = append(dst, *slot...)
		w.n -= len(*slot)
		clear(*slot)
		*slot = (*slot)[:0]
	}
	return dst, w.n > 0
}

func monotonic() int64 { return time.Since(epoch).Microseconds() }

// runLinger is the goroutine of the wheel.
func (b *Broker) runLinger() {
	var fired []*Session
	var left bool
	var batch Batch
	for {
		if !left {
			select {
			case <-b.wheel.wake:
			case <-b.stop:
				return
			}
		}
		select {
		case <-b.stop:
			return
		default:
		}
		time.Sleep(time.Millisecond)
		now := monotonic()
		fired, left = b.wheel.due(now/1000, fired[:0])
		batch.Begin()
		for _, s := range fired {
			s.fire(now, &batch)
		}
		batch.Flush()
		clear(fired)
	}
}

// fire stores what is due.
func (s *Session) fire(now int64, b *Batch) {
	s.mu.Lock()
	defer s.unlock()
	s.lingering = false
	var upTo uint64
	for i := s.win.search(s.unsafe); i < s.win.n; i++ {
		e := s.win.at(i)
		if e.state != pending {
			continue
		}
		if e.due > now {
			s.armLinger(e.due)
			break
		}
		upTo = e.seq
	}
	if upTo > 0 {
		s.flushPending(upTo, b)
	}
}
