package broker

import (
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// submitted counts ops the store has not answered yet; negative ones answers.
func (b *Broker) submitted(n int64) { b.unanswered.Add(n) }

// Committed is the store's Done callback: the ops are written, or err befell
// them. One goroutine of the store calls it, with a batch that is its own.
func (b *Broker) Committed(ops []mq.Op, err error, batch *Batch) {
	batch.Begin()
	for i := range ops {
		op := &ops[i]
		switch owner := op.Owner.(type) {
		case *Session:
			if op.Kind != mq.OpRelease && err == nil {
				b.showed(int64(op.Token))
			}
			owner.committed(op, err, batch)
		case fence:
			if err == nil {
				b.showed(int64(op.Token))
			}
		case *retainNote:
			b.retainDone(owner, err, batch)
		case *fanout:
			owner.Complete(0, codeIf(err), batch)
		case *later:
			b.laterDone(owner, op, err, batch)
		case *naming:
			owner.named(op, err, batch)
		case *waiter:
			owner.done <- err
		}
	}
	batch.Flush()
	b.submitted(-int64(len(ops))) // last: Drain waits for it
}

func codeIf(err error) mq.Code {
	if err == nil {
		return mq.OK
	}
	return codeOf(err)
}

// waiter is the owner of an op whose submitter waits for it.
type waiter struct{ done chan error } // capacity 1

func (s *Session) committed(op *mq.Op, err error, b *Batch) {
	s.mu.Lock()
	switch op.Kind {
	case mq.OpPut:
		s.putDone(op, err, b)
	case mq.OpReceived:
		s.receivedDone(op, err, b)
	case mq.OpRelease:
		s.freed(op.Token, err, b)
	}
	s.unlock()
}

// receivedDone sends PUBREL when the store has noted the PUBREC.
func (s *Session) receivedDone(op *mq.Op, err error, b *Batch) {
	switch {
	case s.conn == nil:
	case err != nil:
		b.lose(s.conn)
	default:
		if e := s.win.findSeq(op.Seq); e != nil && e.state != acked {
			e.flags |= mq.FlagReceived // the entry may be of a later connection
			s.conn.SendAck(Pubrel, s.packetID(op.Seq), mq.OK, b)
		}
	}
}

// putDone moves an entry from writing to durable, wherever it is by now.
func (s *Session) putDone(op *mq.Op, err error, b *Batch) {
	if err == nil {
		s.b.Stats.Stored.Add(1)
	} else {
		s.refuseBehind(op.Seq, err, b)
	}
	if e := s.win.findSeq(op.Seq); e != nil && e.state == writing {
		b.complete(e.origin, e.token, codeIf(err))
		e.origin = nil
		if err == nil {
			e.state, e.rec = durable, nil
			return
		}
		// It was sent, so the target may still have it; the sender was told
		// that it is not safe.
		s.keepInMemory(e)
		return
	}
	q := s.tail.find(op.Seq)
	if q == nil || q.state != writing {
		return // acknowledged or pushed out meanwhile
	}
	b.complete(q.origin, q.token, codeIf(err))
	q.origin = nil
	if err != nil {
		s.b.drop(dropOf(err))
		s.count--
		s.bytes -= int64(len(q.rec))
		s.endIdentifier(q.seq)
		s.tail.kill(q)
	} else if q.state = durable; s.blocked() {
		s.backlog = max(s.backlog, q.seq)
		s.tail.kill(q)
	}
	s.spill()
	if s.conn != nil {
		b.pump(s)
	}
}

// wait submits ops, several as one unit, and waits until they are done. No lock
// may be held.
func (b *Broker) wait(ops ...mq.Op) error {
	w := &waiter{done: make(chan error, 1)}
	ops[len(ops)-1].Owner = w
	start := monotonic()
	b.submitted(1)
	if len(ops) == 1 {
		b.store.Submit(ops[0])
	} else {
		b.store.SubmitGroup(ops)
	}
	err := <-w.done
	if err == nil {
		b.showed(start)
	}
	return err
}

// change submits an op that removes or changes a stored entry of the session.
// Until confirmed, the store may show the entry as it was: nobody sends, counts
// or expires by what it shows. s is locked.
func (s *Session) change(op mq.Op) {
	s.b.store.Submit(op)
	s.changedAt = monotonic() // after, see confirmed
}

// changeTogether is change for several ops, as one unit.
func (s *Session) changeTogether(ops []mq.Op) {
	s.b.store.SubmitGroup(ops)
	s.changedAt = monotonic()
}

// showed notes that what was submitted before a time shows in the store: ops are
// applied in the order submitted. The time was taken before the op that is done
// was submitted.
func (b *Broker) showed(at int64) {
	for {
		old := b.applied.Load()
		if at <= old || b.applied.CompareAndSwap(old, at) {
			return
		}
	}
}

// confirmed reports whether the store shows every change. It is exact, however
// long goroutines pause: changedAt is a time after Submit, what it is compared
// with one before, so if the first is earlier, then the change is in front of an
// op that is done.
func (s *Session) confirmed() bool {
	return s.changedAt == 0 || s.changedAt < s.b.applied.Load()
}

// fence is the owner of an op that only tells how far the store is: when the
// server is quiet nothing else does, since changes are lazy.
type fence struct{}

// confirmSoon sees to it that the session's changes are confirmed soon. s is
// locked.
func (s *Session) confirmSoon() {
	if s.inbox == mq.NoInbox {
		return
	}
	s.b.submitted(1)
	s.b.store.Submit(mq.Op{Kind: mq.OpSent, Inbox: s.inbox, Owner: fence{}, Token: uint64(monotonic())})
}

// Drain is the beginning of the end, while connections are still there. It stores
// everything that is pending, so that its senders are acknowledged, and waits until
// the store has answered, at most for the given time. Delayed messages whose time
// comes from now on wait for the next start.
func (b *Broker) Drain(limit time.Duration) {
	end := time.Now().Add(limit)
	b.delays.hold(end)
	var batch Batch
	batch.Begin()
	for i := range b.registry.shards {
		for _, s := range b.registry.shards[i].snapshot() {
			s.mu.Lock()
			s.flushPending(s.nextSeq, &batch)
			s.unlock()
		}
	}
	batch.Flush()
	for b.unanswered.Load() > 0 && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
}

func (sh *shard) snapshot() []*Session {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	all := make([]*Session, 0, len(sh.sessions))
	for _, s := range sh.sessions {
		all = append(all, s)
	}
	return all
}
