package broker

import "github.com/homing-mq/homing/internal/mq"

// When a message fails in the store its sender sends it again. So nothing that the
// sender has sent behind it may reach the target before: the target would have the
// two in the wrong order. The store fails what was submitted to the inbox until it
// has told of the failure (see mq.Store); here is the rest: what was not submitted
// yet, what was submitted later but before its sender could know, and, from
// senders that cannot be told by a code, what has not come yet.

// Sender is a Completer of a client's connection.
type Sender interface {
	Completer
	// Sender returns the client's session. It does not block.
	Sender() *Session
}

// Sender implements Sender: a session is the Completer of its QoS 2 messages.
func (s *Session) Sender() *Session { return s }

// senderOf returns the session of who waits for an outcome, or nil.
func senderOf(c Completer) *Session {
	switch c := c.(type) {
	case *fanout:
		return senderOf(c.origin)
	case Sender:
		return c.Sender()
	}
	return nil
}

// stop makes sure that nothing more of a sender is taken that cannot be told what
// has failed, until it has a new connection.
func stop(sender *Session) {
	if sender != nil {
		sender.stopped.Store(true)
	}
}

// stopped reports whether an earlier message of the sender has failed, and it
// cannot be told but by the end of its connection. What the answer is about is
// locked: the target's session, or Broker.retained.
func (d *delivery) stopped() bool { return d.gate != nil && d.gate.stopped.Load() }

// refuseBehind is called when the put of seq has failed: what waits behind it of
// the same sender is refused with it. s is locked, and Done has not returned, so
// puts that are submitted now fail in the store.
func (s *Session) refuseBehind(seq uint64, err error, b *Batch) {
	var sender *Session
	if e := s.win.findSeq(seq); e != nil {
		sender = senderOf(e.origin)
	} else if q := s.tail.find(seq); q != nil {
		sender = senderOf(q.origin)
	}
	stop(sender)
	s.flushPending(s.nextSeq, b)
	if sender == nil {
		return
	}
	for i := s.win.search(seq + 1); i < s.win.n; i++ {
		// It was sent, and so was what has failed: only that it is not safe is new.
		if e := s.win.at(i); e.state == writing && refusable(e.origin) && senderOf(e.origin) == sender {
			b.complete(e.origin, e.token, codeOf(err))
			e.origin = nil
			s.unstore(e)
		}
	}
	s.dropBehind(sender, seq, err)
	for i := range s.tail.n {
		q := s.tail.at(i)
		if q.seq <= seq || q.qos0 || q.state != writing || !refusable(q.origin) || senderOf(q.origin) != sender {
			continue
		}
		if q.origin == Completer(sender) { // its claim was to be stored with it
			if in, ok := s.b.store.Lookup(sender.id); ok {
				s.b.store.Submit(mq.Op{Kind: mq.OpRelease, Inbox: in, PacketID: uint16(q.token)})
			}
		}
		b.complete(q.origin, q.token, codeOf(err))
		s.b.drop(dropOf(err))
		size := len(q.rec)
		s.tail.kill(q)
		s.forget(q.seq, size) // in the order of the queue: after its put
	}
}

// gated is the origin of a message that waits in memory only and whose sender is
// answered already, or not at all: it says whose it is, if that client cannot be
// told by a code of what was refused.
func (d *delivery) gated() Completer {
	if d.gate == nil {
		return nil
	}
	return d.gate
}

// waits reports whether a sender waits for the outcome of an entry; 0 is no
// token of a claim.
func waits(c Completer, token uint64) bool {
	_, session := c.(*Session)
	return c != nil && !(session && token == 0)
}

// dropBehind drops what waits in memory only behind a message that has failed, of
// a client that will send that one again: it would overtake it.
func (s *Session) dropBehind(sender *Session, seq uint64, err error) {
	for i := range s.tail.n {
		q := s.tail.at(i)
		if q.state != volatile || q.seq < seq || q.origin != Completer(sender) || waits(q.origin, q.token) {
			continue
		}
		s.hold(-len(q.rec))
		s.b.drop(dropOf(err))
		s.tail.kill(q)
	}
}

// refusable reports whether a message can be refused for one target alone: not if
// what is stored for all of them is one unit.
func refusable(c Completer) bool {
	f, ok := c.(*fanout)
	return !ok || !f.unit
}

// unstore lets an entry of the window that is being stored be in memory only; what
// the store makes of it is removed.
func (s *Session) unstore(e *inflight) {
	s.keepInMemory(e)
	s.change(mq.Op{Kind: mq.OpAck, Inbox: s.inbox, Seq: e.seq})
}

// keepInMemory counts an entry of the window as one that is not stored.
func (s *Session) keepInMemory(e *inflight) {
	e.state = volatile
	s.hold(len(e.rec))
	s.held--
	s.heldBytes -= int64(e.size)
	s.count--
	s.bytes -= int64(e.size)
}
