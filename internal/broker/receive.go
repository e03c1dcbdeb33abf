package broker

import "github.com/homing-mq/homing/internal/mq"

// PublishQoS2 is Publish for a QoS 2 message of an MQTT client. The packet
// identifier is claimed until PUBREL: the same one again is answered, and
// delivers nothing [MQTT-4.3.3-10]. PUBREC goes to the connection the session
// then has.
//
// With room false a new identifier is over the receive maximum: nothing is done,
// and ok is false. fresh tells that the identifier is new, answered that a
// PUBREC was or will be sent for this very PUBLISH.
// [MQTT-4.3.3-8] [MQTT3-4.3.3-2]
func (b *Broker) PublishQoS2(src Source, m *mq.Message, pid uint16, room bool, batch *Batch) (fresh, answered, ok bool) {
	s := src.Session
	s.mu.Lock()
	if c, ok := s.claims[pid]; ok {
		if c.done && s.conn != nil {
			s.conn.SendAck(Pubrec, pid, c.code, batch)
		}
		s.mu.Unlock()
		return false, c.done, true
	}
	if !room {
		s.mu.Unlock()
		return false, false, false
	}
	s.setClaim(pid, claim{})
	d := &delivery{m: m, origin: s, token: uint64(s.life)<<16 | uint64(pid)}
	if s.persistent() {
		d.along = mq.Op{Kind: mq.OpClaim, Inbox: s.box(), PacketID: pid}
	}
	s.mu.Unlock()
	b.publish(src, d, batch)
	return true, true, true
}

func (s *Session) setClaim(pid uint16, c claim) {
	if s.claims == nil {
		s.claims = make(map[uint16]claim)
	}
	s.claims[pid] = c
}

// Complete answers a QoS 2 publish of this session. A refusal frees the packet
// identifier at once [MQTT-4.3.3-9].
func (s *Session) Complete(token uint64, code mq.Code, b *Batch) {
	pid := uint16(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.claims[pid]
	if !ok || c.done || uint32(token>>16) != s.life {
		return // the session ended meanwhile
	}
	if code == mq.OK || code == mq.NoTarget {
		s.claims[pid] = claim{done: true, code: code}
	} else {
		delete(s.claims, pid)
	}
	if s.conn != nil {
		s.conn.SendAck(Pubrec, pid, code, b)
	}
}

// Pubrel takes the PUBREL of a client that has sent a QoS 2 message. PUBCOMP
// follows when the store has forgotten the identifier: otherwise the next
// message with it could be taken for a duplicate after a crash. It reports
// false if the identifier is unknown; the gateway answers with PUBCOMP 0x92.
// [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT3-4.3.3-2]
// [MQTT-4.3.3-13]
func (b *Broker) Pubrel(s *Session, conn Conn, pid uint16, batch *Batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return true
	}
	c, ok := s.claims[pid]
	switch {
	case !ok:
		return false
	case c.releasing != nil: // it is sent again, on a new connection
		c.releasing = conn
		s.claims[pid] = c
		return true
	case s.persistent():
		c.releasing = conn
		s.claims[pid] = c
		b.submitted(1)
		b.store.Submit(mq.Op{Kind: mq.OpRelease, Inbox: s.box(), PacketID: pid, Owner: s, Token: uint64(s.life)})
		return true
	}
	delete(s.claims, pid)
	conn.SendAck(Pubcomp, pid, mq.OK, batch)
	return true
}
