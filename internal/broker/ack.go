package broker

import "github.com/homing-mq/homing/internal/mq"

// AckResult says what an acknowledgement of the client meant.
type AckResult uint8

// The results of Puback, Pubrec and Pubcomp.
const (
	AckTaken     AckResult = iota // or too late: the connection is not the session's any more
	AckUnknown                    // no message under way has the identifier
	AckMisplaced                  // the message is acknowledged by another packet now: a protocol error
)

// Puback takes the target's PUBACK for a message sent on conn, whatever its reason
// code [MQTT-4.4.0-2].
func (b *Broker) Puback(s *Session, conn Conn, pid uint16, batch *Batch) AckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, r := s.sent(conn, pid)
	switch {
	case e == nil:
		return r
	case e.flags&mq.FlagQoS != 1:
		return AckMisplaced
	}
	s.acknowledge(e, batch)
	return AckTaken
}

// sent returns the message under way with a packet identifier; or nil, and the
// result of its acknowledgement. s is locked.
func (s *Session) sent(conn Conn, pid uint16) (*inflight, AckResult) {
	if s.conn != conn {
		return nil, AckTaken
	}
	return s.win.find(pid), AckUnknown
}

// Pubrec takes the target's PUBREC. PUBREL follows when the store has noted
// it, so that no crash makes the server send the PUBLISH again [MQTT-4.3.3-4]
// [MQTT-4.3.3-6]. With refused (reason code 0x80 and up) the message is done
// with [MQTT-4.3.3-4]. The gateway answers an unknown identifier with reason
// code 0x92.
func (b *Broker) Pubrec(s *Session, conn Conn, pid uint16, refused bool, batch *Batch) AckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, r := s.sent(conn, pid)
	switch {
	case e == nil:
		return r
	case e.flags&mq.FlagQoS != 2:
		return AckMisplaced
	case refused:
		s.acknowledge(e, batch)
	case e.state == volatile:
		s.release(e, batch)
		conn.SendAck(Pubrel, pid, mq.OK, batch)
	case e.flags&mq.FlagReceived == 0:
		e.flags |= mq.FlagReceived
		s.b.submitted(1)
		s.change(mq.Op{Kind: mq.OpReceived, Inbox: s.inbox, Seq: e.seq, Owner: s, Token: uint64(monotonic())})
	default: // a second PUBREC
		conn.SendAck(Pubrel, pid, mq.OK, batch)
	}
	return AckTaken
}

// release completes the sender of a volatile QoS 2 entry: the target has it.
func (s *Session) release(e *inflight, b *Batch) {
	e.flags |= mq.FlagReceived
	b.complete(e.origin, e.token, mq.OK)
	e.origin = nil
}

// Pubcomp takes the target's PUBCOMP: the end of a QoS 2 delivery.
func (b *Broker) Pubcomp(s *Session, conn Conn, pid uint16, batch *Batch) AckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, r := s.sent(conn, pid)
	switch {
	case e == nil:
		return r
	case e.flags&mq.FlagReceived == 0:
		return AckMisplaced
	}
	s.acknowledge(e, batch)
	return AckTaken
}

// acknowledge ends an entry of the window. Whatever its state, the message is
// safe now.
func (s *Session) acknowledge(e *inflight, b *Batch) {
	b.complete(e.origin, e.token, mq.OK)
	switch e.state {
	case pending:
		s.hold(-len(e.rec))
		s.b.Stats.Direct.Add(1)
	case volatile:
		s.hold(-len(e.rec))
		s.endIdentifier(e.seq)
	case writing, durable:
		s.held--
		s.heldBytes -= int64(e.size)
		s.forget(e.seq, int(e.size))
	}
	if s.lender() == nil {
		s.b.Stats.Acked.Add(1)
	}
	s.observeAck(b.mono - e.sentAt)
	first := e == s.win.at(0)
	s.win.finish(e)
	if !first || s.late&lateNow != 0 {
		s.lookBehind(b)
	}
	if s.behind() {
		b.pump(s)
	} else {
		s.feed(b)
	}
}
