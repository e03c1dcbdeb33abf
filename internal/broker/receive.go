package broker

import "github.com/homing-mq/homing/internal/mq"

// QoS2Publish is what a PUBLISH with QoS 2 says besides its message.
type QoS2Publish struct {
	Conn     Conn // that it came on
	PacketID uint16
	Dup      bool
	// Room is how many identifiers may be open on the connection: Receive
	// Maximum without what else is under way.
	Room int
}

// ClaimResult says what a PUBLISH with QoS 2 was taken for.
type ClaimResult uint8

// The results of PublishQoS2.
const (
	ClaimNew      ClaimResult = iota // a message
	ClaimRepeated                    // one that the server has already: it is not published again
	ClaimReused                      // another message, with an identifier that the client has in use on this connection
	ClaimReplaced                    // the same, in use since a connection before: the client has lost its state
	ClaimOver                        // too much at once; nothing was done
)

// PublishQoS2 is Publish for a QoS 2 message of an MQTT client. The packet
// identifier is claimed until PUBREL: the same message again is answered, and
// delivers nothing [MQTT-4.3.3-10]. Another message with the identifier takes
// its place; ADR 009 says how they are told apart. Each PUBLISH is answered with
// one PUBREC, on the connection it came on.
// [MQTT-4.3.3-8] [MQTT3-4.3.3-2]
func (b *Broker) PublishQoS2(src Source, m *mq.Message, p QoS2Publish, batch *Batch) ClaimResult {
	s, pid, hash := src.Session, p.PacketID, b.fingerprint(m)
	s.mu.Lock()
	sd := s.sending()
	on := uint32(0) // a connection that was taken over: nobody is to be answered
	if s.conn == p.Conn {
		on = sd.conn
	}
	old := sd.claims[pid]
	if old != nil && sd.repeats(old, hash, p.Dup) {
		defer s.mu.Unlock()
		return s.repeat(sd, pid, old, hash, on, batch)
	}
	if int(sd.open.Load()) >= p.Room {
		s.mu.Unlock()
		return ClaimOver
	}
	result, before := ClaimNew, false
	if old != nil {
		before = old.before || s.persistent()
		switch {
		case sd.released(old):
		case on != 0 && old.on == on:
			result = ClaimReused
		default:
			result = ClaimReplaced
		}
		sd.displace(pid, s.token(pid, old.gen))
	}
	c := claim{hash: hash, on: on, gen: s.newGen(sd, pid), before: before}
	if on != 0 {
		c.pubrecs = 1
	}
	sd.add(pid, c)
	d := &delivery{m: m, origin: s, token: s.token(pid, c.gen)}
	if s.persistent() {
		d.along = mq.Op{Kind: mq.OpClaim, Inbox: s.box(), PacketID: pid}
	}
	s.mu.Unlock()
	b.publish(src, d, batch)
	return result
}

// repeat takes a PUBLISH of a message that is claimed. s is locked.
func (s *Session) repeat(sd *sender, pid uint16, c *claim, hash uint64, on uint32, b *Batch) ClaimResult {
	if c.hash == unknownMessage {
		c.hash = hash
	}
	if on != c.on && on != 0 {
		sd.move(c, on, c.stage)
		c.pubrecs = 0
	}
	if on != 0 {
		if c.pubrecs == maxRepeats {
			return ClaimOver
		}
		c.pubrecs++
	}
	if c.stage == safe || c.stage == releasing {
		s.sendPubrecs(sd, pid, c, b)
	}
	return ClaimRepeated
}

// sendPubrecs sends the PUBRECs that a claim owes to the present connection. sd
// is the session's, which is locked.
func (s *Session) sendPubrecs(sd *sender, pid uint16, c *claim, b *Batch) {
	for ; c.pubrecs > 0; c.pubrecs-- {
		if s.conn != nil && c.on == sd.conn {
			s.conn.SendAck(Pubrec, pid, c.code, b)
		}
	}
}

// answerAll sends all that an ended claim owes to the present connection. sd is
// the session's, which is locked.
func (s *Session) answerAll(sd *sender, pid uint16, c *claim, b *Batch) {
	s.sendPubrecs(sd, pid, c, b)
	kind := Pubcomp
	if !taken(c.code) {
		kind = PubcompUnknown
	}
	for ; c.pubcomps > 0; c.pubcomps-- {
		if s.conn != nil && c.relOn == sd.conn {
			s.conn.SendAck(kind, pid, mq.OK, b)
		}
	}
}

// endClaim ends a claim and answers. sd is the session's, which is locked.
func (s *Session) endClaim(sd *sender, token uint64, b *Batch) {
	was := sd.remove(token)
	s.answerAll(sd, uint16(token), &was, b)
}

// taken reports whether PUBREC with the code says that the server has the
// message. Any other one frees the packet identifier [MQTT-4.3.3-9].
func taken(code mq.Code) bool { return code == mq.OK || code == mq.NoTarget }

// Complete answers a QoS 2 publish of this session.
func (s *Session) Complete(token uint64, code mq.Code, b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sd, c, displaced := s.claimOf(token)
	if c == nil || c.stage != publishing {
		return // the session ended meanwhile
	}
	pid := uint16(token)
	c.code = code
	switch {
	case displaced:
		s.endClaim(sd, token, b)
	case taken(code):
		sd.move(c, c.on, safe)
		s.sendPubrecs(sd, pid, c, b)
		if sd.released(c) {
			s.free(sd, pid, c, releasing, b)
		}
	case c.before: // or it would come back with the next start, and swallow a message
		s.free(sd, pid, c, refusing, b)
	default:
		s.endClaim(sd, token, b)
	}
}

// Pubrel takes the PUBREL of a client that has sent a QoS 2 message. PUBCOMP
// follows when the message is safe, or refused, and the store has forgotten the
// identifier: otherwise the next message with it could be taken for a duplicate
// after a crash. Each PUBREL is answered once, but for AckUnknown: the gateway
// answers that with PUBCOMP 0x92.
// [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT3-4.3.3-2]
// [MQTT-4.3.3-13]
func (b *Broker) Pubrel(s *Session, conn Conn, pid uint16, batch *Batch) AckResult {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != conn {
		return AckTaken
	}
	sd := s.sender.Load()
	if sd == nil {
		return AckUnknown
	}
	c := sd.claims[pid]
	if c == nil {
		return AckUnknown
	}
	if c.relOn != sd.conn { // else it is sent again
		c.relOn, c.pubcomps = sd.conn, 0
	}
	if c.pubcomps == maxRepeats {
		return AckMisplaced
	}
	c.pubcomps++
	if c.stage == safe {
		s.free(sd, pid, c, releasing, batch)
	}
	return AckTaken
}

// free ends a claim, and answers when the store has forgotten it. s is
// locked.
func (s *Session) free(sd *sender, pid uint16, c *claim, how stage, b *Batch) {
	token := s.token(pid, c.gen)
	if !s.persistent() && !c.before {
		s.endClaim(sd, token, b)
		return
	}
	sd.move(c, c.on, how)
	s.b.submitted(1)
	s.b.store.Submit(mq.Op{Kind: mq.OpRelease, Inbox: s.box(), PacketID: pid, Owner: s, Token: token})
}

// freed goes on when the store has forgotten an identifier, or cannot. s is
// locked.
func (s *Session) freed(token uint64, err error, b *Batch) {
	sd, c, displaced := s.claimOf(token)
	switch {
	case c == nil || c.stage != releasing && c.stage != refusing:
		return // of a session that has ended
	case err == nil:
		s.endClaim(sd, token, b)
		return
	case displaced:
		sd.remove(token)
	default:
		if c.stage == refusing { // the store has it for a message that the client has forgotten
			c.hash, c.code = noMessage, mq.OK
		}
		sd.move(c, c.on, safe)
		c.relOn, c.pubrecs, c.pubcomps = 0, 0, 0 // so that the next PUBREL tries again
	}
	if s.conn != nil {
		b.lose(s.conn)
	}
}
