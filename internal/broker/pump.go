package broker

import (
	"strings"
	"unsafe"

	"github.com/homing-mq/homing/internal/mq"
)

// readBytes bounds one read of the store, bytes of records.
const readBytes = 64 << 10

// pump sends what waits for this session, stored and in memory, in order,
// until the window or the outbox is full. s must not be locked.
func (s *Session) pump(b *Batch) {
	s.mu.Lock()
	s.pumpLocked(b)
}

// pumpLocked is pump for a locked session, which it unlocks.
func (s *Session) pumpLocked(b *Batch) {
	if s.pumping {
		s.again = true
		s.mu.Unlock()
		return
	}
	s.pumping = true
	for s.again = true; s.again; {
		s.again = false
		if s.lender() != nil {
			s.full = false // somebody may have room
		}
		for s.pumpStep(b) {
		}
		s.trust()
	}
	s.markSent()
	s.pumping = false
	s.feed(b)
	s.unlock()
}

// pumpStep makes one step and reports whether there may be another. It may
// release and take the lock.
func (s *Session) pumpStep(b *Batch) bool {
	s.spill()
	if s.conn == nil || s.full {
		return false
	}
	if l := s.lender(); l != nil && len(l.returned) > 0 {
		return l.sendReturned(b)
	}
	to := s.backlog
	if s.tail.n > 0 {
		first := s.tail.at(0)
		if first.qos0 || first.state == acked {
			to = min(to, first.seq)
		} else {
			to = min(to, first.seq-1)
		}
	}
	if s.cursor < to {
		return s.sendStored(to, b)
	}
	if s.tail.n > 0 {
		return s.sendQueued(b)
	}
	if s.owed == nil || s.owed.first().at > monotonic() || s.b.closing.Load() { // then nobody may begin to read the store
		return false
	}
	if !b.patient && strings.ContainsAny(s.owed.first().sub.Filter, "+#") {
		s.sendRetainedApart()
		return false
	}
	return s.sendRetained(b)
}

// queuedSize is the memory of an entry of the tail besides its record, bytes.
const queuedSize = int64(unsafe.Sizeof(queued{}))

// crowded reports whether the tail is at its bound, or all that is in memory, or
// the share of the client's account in that. Then QoS 0 messages at its
// head are dropped, so that stored ones behind them can leave.
func (s *Session) crowded() bool {
	return s.tail.bytes+int64(s.tail.n)*queuedSize > s.b.opt.PendingSize || s.tail.n > 0 && s.charged > 0 && s.b.memory.over(s)
}

// spill lets the durable head of the tail go from memory when it cannot be
// sent now: the store has it.
func (s *Session) spill() {
	for s.tail.n > 0 {
		q := s.tail.at(0)
		switch {
		case q.state == acked:
		case !s.blocked():
			return
		case q.state == durable:
			s.backlog = max(s.backlog, q.seq)
		case q.state == volatile && (q.qos0 || !waits(q.origin, q.token)) && s.crowded():
			s.hold(-len(q.rec))
			s.b.drop(mq.DropSlowConsumer)
		default:
			return
		}
		s.tail.pop()
	}
}

// blocked reports whether an entry of the tail cannot be sent now.
func (s *Session) blocked() bool {
	return s.conn == nil || s.full || !s.win.room(s.receiveMax)
}

// sendQueued sends the first entry of the tail.
// [MQTT-3.3.2-5]
func (s *Session) sendQueued(b *Batch) bool {
	q := s.tail.at(0)
	if err := mq.DecodeRecord(&b.msg, q.rec); err != nil {
		panic("broker: own record does not decode")
	}
	m := &b.msg
	if q.qos0 {
		if m.Expired(s.b.Now(b)) {
			s.b.drop(mq.DropExpired)
		} else if !s.mayStillRead(m.Topic) {
			s.b.drop(mq.DropRevoked)
		} else if s.sendQoS0(m, kindOf(m.Topic), b); s.full {
			return false
		}
		s.hold(-len(q.rec))
		s.tail.pop()
		return true
	}
	qos := mq.QoS(q.flags & mq.FlagQoS)
	if !s.win.room(s.receiveMax) || qos == 2 && q.state == writing {
		return false
	}
	e := inflight{
		seq: q.seq, rec: q.rec, origin: q.origin, token: q.token, size: uint32(len(q.rec)),
		state: q.state, flags: q.flags,
	}
	if why, out := s.outlived(m, q.flags, q.seq <= s.sentTo, m.Expired(s.b.Now(b))); out {
		s.b.drop(why)
		s.giveUp(&e, mq.OK, b)
		s.cursor = max(s.cursor, q.seq)
		s.tail.pop()
		return true
	}
	if !s.identify(q.seq, q.state != volatile) {
		return false
	}
	switch s.sendPublish(m, qos, &e, b) {
	case SendFull:
		s.full = true
		return false
	case SendClosed:
		return false
	}
	s.tail.pop()
	return true
}

// outlived reports whether an entry that has waited is not to be sent, and why:
// it has expired, or its target may not have it any more. A QoS 2 exchange that has
// begun goes on [MQTT-4.3.3-7]: the client has the message.
func (s *Session) outlived(m *mq.Message, flags mq.Flags, begun, expired bool) (mq.DropReason, bool) {
	switch {
	case expired:
		return mq.DropExpired, true
	case begun && flags&mq.FlagQoS == 2, s.mayStillRead(m.Topic):
		return 0, false
	}
	return mq.DropRevoked, true
}

// sendPublish sends an entry and puts it into the window. One that is too
// large for the client is dropped.
// [MQTT-3.3.1-1] [MQTT-3.3.1-3] [MQTT3-3.3.1-1] [MQTT3-3.3.1-3] [MQTT-3.1.2-25]
func (s *Session) sendPublish(m *mq.Message, qos mq.QoS, e *inflight, b *Batch) SendResult {
	dup := e.seq <= s.sentTo
	h := s.header(m, qos)
	h.Seq, h.PacketID, h.Dup = e.seq, s.packetID(e.seq), dup
	r := s.conn.SendPublish(m, h, b)
	switch r {
	case Sent:
		s.delivered(kindOf(m.Topic), qos)
		if dup {
			s.b.Stats.Resent.Add(1)
		}
		e.sentAt = b.mono
		if e.state == durable {
			e.rec = nil
		}
		if e.state != volatile {
			s.held++
			s.heldBytes += int64(e.size)
			s.unmarked = s.unmarked || e.flags&mq.FlagSent == 0 && s.lender() == nil
		}
		e.flags |= mq.FlagSent
		s.win.push(*e)
		s.cursor = max(s.cursor, e.seq)
		s.sentTo = max(s.sentTo, e.seq)
	case SendTooLarge:
		s.b.drop(mq.DropTooLarge)
		s.giveUp(e, mq.OK, b)
		s.cursor = max(s.cursor, e.seq)
	}
	return r
}

// giveUp ends an entry that waited and is not in the window: it is removed
// from memory and store, and its sender, if still waiting, gets code.
func (s *Session) giveUp(e *inflight, code mq.Code, b *Batch) {
	b.complete(e.origin, e.token, code)
	if e.state == volatile {
		s.hold(-len(e.rec))
		s.endIdentifier(e.seq)
		return
	}
	s.forget(e.seq, int(e.size))
}

// sendStored reads entries above the cursor up to a seq from the store,
// without the lock, and sends them.
func (s *Session) sendStored(to uint64, b *Batch) bool {
	if !s.win.room(s.receiveMax) {
		return false
	}
	conn, from, in := s.conn, s.cursor, s.inbox
	limit := readBytes
	if s.count > 0 {
		room := int64(int(s.receiveMax)-s.win.unack) * (s.bytes/int64(s.count) + 64)
		limit = int(min(room, readBytes))
	}
	s.mu.Unlock()
	entries, buf, err := s.b.store.Read(in, from, to, limit, b.entries[:0], b.buf[:0])
	b.entries, b.buf = entries, buf
	s.mu.Lock()
	if s.conn != conn || s.cursor != from {
		return true
	}
	s.own()
	if err != nil {
		return s.skip(err, b)
	}
	if len(entries) == 0 {
		s.cursor = to
		if s.win.n == 0 && s.tail.n == 0 {
			s.count, s.bytes = 0, 0 // what was counted when the session was made is gone by now
		}
		return true
	}
	for i := range entries {
		if !s.sendEntry(&entries[i], b) {
			return false
		}
	}
	return true
}

// markSent lets the store know, lazily, how far was sent: after a crash those
// are redelivered with DUP.
func (s *Session) markSent() {
	if s.unmarked && s.persistent() {
		s.b.store.Submit(mq.Op{Kind: mq.OpSent, Inbox: s.inbox, Seq: s.sentTo})
	}
	s.unmarked = false
}

// sendEntry sends one entry that was read from the store.
// [MQTT-3.3.2-5] [MQTT-4.3.3-7]
func (s *Session) sendEntry(en *mq.Entry, b *Batch) bool {
	if s.dropped(en.Seq) {
		s.cursor = max(s.cursor, en.Seq)
		return true
	}
	if !s.win.room(s.receiveMax) {
		return false
	}
	if en.Flags&mq.FlagReceived != 0 {
		s.oweRelease(en, len(en.Record), b)
		s.cursor = en.Seq
		return true
	}
	m := &b.msg
	if err := mq.DecodeRecord(m, en.Record); err != nil {
		s.b.log.Error("a stored message cannot be decoded; it is dropped", "client", s.id, "seq", en.Seq, "error", err)
		s.b.drop(mq.DropStoreFailed)
		s.cursor = en.Seq
		s.forget(en.Seq, len(en.Record))
		return true
	}
	e := inflight{seq: en.Seq, size: uint32(len(en.Record)), state: durable, flags: en.Flags}
	qos := mq.QoS(en.Flags & mq.FlagQoS)
	begun := en.Seq <= s.sentTo || en.Flags&mq.FlagSent != 0
	if why, out := s.outlived(m, en.Flags, begun, !begun && m.Expired(s.b.Now(b))); out {
		s.b.drop(why)
		s.cursor = en.Seq
		s.giveUp(&e, mq.OK, b)
		return true
	}
	if en.Flags&mq.FlagSent != 0 {
		s.sentTo = max(s.sentTo, en.Seq)
	}
	if !s.identify(en.Seq, true) {
		return false
	}
	switch s.sendPublish(m, qos, &e, b) {
	case SendFull:
		s.full = true
		return false
	case SendClosed:
		return false
	}
	return true
}

// oweRelease goes on with a stored entry that the target has: only PUBREL is owed
// [MQTT-4.4.0-1] [MQTT3-4.4.0-1]. size is that of its record, which need not be
// there.
func (s *Session) oweRelease(en *mq.Entry, size int, b *Batch) {
	s.conn.SendAck(Pubrel, s.packetID(en.Seq), mq.OK, b)
	s.held++
	s.heldBytes += int64(size)
	s.win.push(inflight{seq: en.Seq, size: uint32(size), state: durable, flags: en.Flags})
}

// Drained tells that the outbox of conn has room again.
func (b *Broker) Drained(s *Session, conn Conn, batch *Batch) {
	s.mu.Lock()
	if s.conn == conn && s.full {
		s.full = false
		batch.pump(s)
	}
	s.mu.Unlock()
}

// kindOf is the kind of a valid topic name.
func kindOf(topic []byte) Kind {
	if k, _ := mq.ParseTopic(topic); k == mq.TopicP2P {
		return P2P
	}
	return PubSub
}
