package broker

import (
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

// limit sets the limits of what the core counts. Inboxes are counted by the store.
func (b *Broker) limit() {
	o := &b.opt
	b.retained.count.Limit = mq.Limit{Max: int64(o.RetainedLimit), Share: o.Share}
	b.retained.bytes.Limit = mq.Limit{Max: o.RetainedBytes, Share: o.Share}
	b.delays.count.Limit = mq.Limit{Max: int64(o.DelayedLimit), Share: o.Share}
	b.delays.bytes.Limit = mq.Limit{Max: o.DelayedBytes, Share: o.Share}
	b.willed.count.Limit = mq.Limit{Max: int64(o.WillLimit), Share: o.Share}
	b.willed.bytes.Limit = mq.Limit{Max: o.WillBytes, Share: o.Share}
	b.willed.stats = &b.Stats
	b.filters.used.Limit = mq.Limit{Max: o.SubscriptionAll, Share: o.Share}
	b.memory.used.Limit = mq.Limit{Max: o.PendingAll, Share: o.Share}
}

// willed counts the wills of all sessions, connected and offline: from CONNECT
// until a will is published and safe, or will never be. mu is a leaf.
type willed struct {
	mu           sync.Mutex
	count, bytes mq.Quota
	stats        *Stats
}

// admit counts a will that is about to take the place of another one, which stays
// counted until drop. nil is no will. It fails with WillsFull if there is no room
// for the difference.
func (q *willed) admit(w, instead *Will) error {
	if w == nil {
		return nil
	}
	w.size = int64(w.formSize())
	q.mu.Lock()
	defer q.mu.Unlock()
	by, more, wider := mq.AccountOf(&w.Principal), int64(1), w.size
	if instead != nil {
		more, wider = 0, w.size-instead.size
	}
	if !q.count.Fits(by, more) || !q.bytes.Fits(by, wider) {
		w.size = 0
		return &mq.Error{Code: mq.WillsFull, Text: "the limit on wills, or the client's share of it, is reached"}
	}
	q.add(w, by, 1)
	return nil
}

// take counts a will that was stored before the start, in a form of size bytes.
// Whose it is is known: wills are published with their principal's rights.
func (q *willed) take(w *Will, size int) {
	w.size = int64(size)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(w, mq.AccountOf(&w.Principal), 1)
}

// drop counts a will no more, if it was counted. nil is no will.
func (q *willed) drop(w *Will) {
	if w == nil || w.size == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(w, mq.AccountOf(&w.Principal), -1)
	w.size = 0
}

// add is called with mu held.
func (q *willed) add(w *Will, by mq.Account, sign int64) {
	q.count.Add(by, sign)
	q.bytes.Add(by, sign*w.size)
	q.stats.Wills.Store(q.count.Used())
	q.stats.WillBytes.Store(q.bytes.Used())
}

// memory counts, on the accounts of their targets, the messages that sessions have
// in memory only. It lags by chargeStep a session, so that the usual message, which
// is acknowledged soon, costs nothing. mu is a leaf.
type memory struct {
	mu   sync.Mutex
	used mq.Quota
}

const chargeStep = 64 << 10 // bytes

// charge counts d more bytes of a session, which is locked.
func (m *memory) charge(s *Session, d int64) {
	s.charged += d
	m.mu.Lock()
	m.used.Add(s.account, d)
	m.mu.Unlock()
}

// over reports whether there is no more memory for a session's messages.
func (m *memory) over(s *Session) bool {
	if m.used.Limit.Max > 0 && s.b.pendingBytes.Load() > m.used.Limit.Max {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.used.Fits(s.account, 1)
}

// give gives the place of a message with a record of size bytes back.
func (q *delays) give(owner mq.Account, size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.count.Add(owner, -1)
	q.bytes.Add(owner, -int64(size))
	q.publishStats()
}

// publishStats is called with mu held.
func (q *delays) publishStats() {
	q.b.Stats.Delayed.Store(q.count.Used())
	q.b.Stats.DelayedBytes.Store(q.bytes.Used())
}

// by returns on whose account the store holds what the message makes it hold.
func (d *delivery) by() mq.Account {
	if d.from != nil {
		return mq.AccountOf(d.from)
	}
	return d.account
}

// hold accounts for bytes kept in memory only; negative ones give back.
func (s *Session) hold(n int) {
	s.pendingBytes += int64(n)
	s.b.pendingBytes.Add(int64(n))
	if d := s.pendingBytes - s.charged; d >= chargeStep || d < 0 && (d <= -chargeStep || s.pendingBytes == 0) {
		s.b.memory.charge(s, d)
	}
}

// put submits the op that stores a message, as the next. It returns DelayedFull
// or DelayedBytes if there are too many.
func (q *delays) put(l *later, op mq.Op) mq.Code {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch size := int64(len(op.Record)); {
	case !q.count.Fits(l.owner, 1):
		return mq.DelayedFull
	case !q.bytes.Fits(l.owner, size):
		return mq.DelayedBytes
	default:
		q.count.Add(l.owner, 1)
		q.bytes.Add(l.owner, size)
	}
	q.publishStats()
	op.Owner, op.Seq, op.Inbox = l, q.nextSeq, q.box(l.by, q.nextSeq)
	q.nextSeq++
	q.b.submitted(1)
	q.b.store.Submit(op)
	return mq.OK
}
