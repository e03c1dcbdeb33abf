package broker

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// sender is what a session has under way as a sender of QoS 2 messages. All but
// the counters is guarded by Session.mu. What the counters depend on changes in
// add, move, displace and remove only, which keep them.
type sender struct {
	claims map[uint16]*claim // identifiers that the client has not released
	// displaced has claims, by token, whose identifier the client has used for
	// another message before they were answered. nil: none, which is usual.
	displaced map[uint64]*claim
	spare     *claim // memory of ended ones, by next
	spares    int
	conn      uint32 // the number of the session's present connection, from 1
	gen       uint16 // of the last claim

	// Of the claims of the present connection: how many there are, which is what
	// Receive Maximum counts, and how many are not safe yet.
	open, unsafe atomic.Int32
}

// stage is how far the QoS 2 exchange of a claim is.
type stage uint8

const (
	publishing stage = iota // the message is not safe yet
	safe                    // PUBREC is or was sent
	releasing               // the store is about to forget the identifier, after PUBREL
	refusing                // the same, because the message was refused
)

// claim is a packet identifier between PUBLISH and PUBCOMP, or a refusal. Each
// PUBLISH and each PUBREL is answered once, on the connection it came on: what a
// connection that is gone has asked is asked again on the next one, or not at all.
type claim struct {
	hash uint64 // of the message, see fingerprint; unknownMessage, noMessage

	// Connections, by number; 0: none of the session's. on is that of the last
	// PUBLISH, where the claim counts against Receive Maximum (section 4.9), relOn
	// of the last PUBREL.
	on, relOn uint32
	gen       uint16 // tells it from earlier ones of the same identifier

	pubrecs, pubcomps uint16 // to be sent on these connections
	stage             stage
	code              mq.Code // of the outcome, once there is one
	// before: the store may have the identifier claimed for a message before
	// this one.
	before bool
	next   *claim // of sender.spare
}

// maxSpares is how many ended claims are kept as memory for others.
const maxSpares = 32

// What claim.hash can be besides a fingerprint, whose upper bits are never 0.
const (
	unknownMessage = 0 // it was claimed before the server started
	noMessage      = 1 // none that the client could mean
)

// propsBits is how many bits of a fingerprint are of properties and RETAIN.
const propsBits = 24

// fingerprint tells messages apart that come with one packet identifier.
func (b *Broker) fingerprint(m *mq.Message) uint64 {
	seed := b.registry.seed
	content := bits.RotateLeft64(maphash.Bytes(seed, m.Topic)*0x9E3779B97F4A7C15, 29) + maphash.Bytes(seed, m.Payload)
	var rest uint64
	if len(m.Props) > 0 {
		rest = maphash.Bytes(seed, m.Props)
	}
	if m.Retain {
		rest++
	}
	return max(content>>propsBits, 1)<<propsBits | rest&(1<<propsBits-1)
}

// repeats reports whether a PUBLISH with that fingerprint is the claim's message
// once more (ADR 009). DUP only says that the client has sent it before, not that
// it has arrived (section 3.3.1.1); it decides where the message is not known.
// With DUP, what is not topic or payload may differ: it may have been sent again
// by a client of another version.
func (sd *sender) repeats(c *claim, hash uint64, dup bool) bool {
	switch {
	case dup && c.hash == unknownMessage:
		return true
	case dup:
		return c.hash>>propsBits == hash>>propsBits
	case sd.released(c): // then it is the next message [MQTT-4.3.3-12]
		return false
	}
	return c.hash == hash
}

// released reports whether the client has released the identifier, or will have
// when the message is safe. A PUBREL that came before, on a connection that is
// gone, counts for nothing: the client has no PUBREC, and sends PUBLISH again.
func (sd *sender) released(c *claim) bool { return c.stage == releasing || c.relOn == sd.conn }

// maxRepeats is how many answers a claim owes at most.
const maxRepeats = math.MaxUint16

// sending returns s.sender, and makes it if there is none. s is locked.
func (s *Session) sending() *sender {
	sd := s.sender.Load()
	if sd == nil {
		sd = &sender{claims: make(map[uint16]*claim), conn: 1}
		s.sender.Store(sd)
	}
	return sd
}

// Claims returns how many packet identifiers the client has open as a sender of
// QoS 2 messages, of those it has used on its present connection: from PUBLISH
// until PUBCOMP or a refusal. unsafe are those of them without PUBREC. It may be
// called concurrently.
func (s *Session) Claims() (open, unsafe int) {
	sd := s.sender.Load()
	if sd == nil {
		return 0, 0
	}
	return int(sd.open.Load()), int(sd.unsafe.Load())
}

// holds reports whether there are claims. sd may be nil.
func (sd *sender) holds() bool { return sd != nil && len(sd.claims)+len(sd.displaced) > 0 }

// reconnect begins a new connection, on which nothing counts until it is used
// there (MQTT 5, section 4.9).
func (sd *sender) reconnect() {
	sd.conn++
	sd.open.Store(0)
	sd.unsafe.Store(0)
}

// counts is how much a claim counts in open and in unsafe.
func (sd *sender) counts(on uint32, how stage) (open, unsafe int32) {
	switch {
	case on != sd.conn:
		return 0, 0
	case how == publishing || how == refusing:
		return 1, 1
	}
	return 1, 0
}

// count changes the counters.
func (sd *sender) count(open, unsafe int32) {
	if open != 0 {
		sd.open.Add(open)
	}
	if unsafe != 0 {
		sd.unsafe.Add(unsafe)
	}
}

// add makes the claim of an identifier that has none.
func (sd *sender) add(pid uint16, c claim) *claim {
	own := sd.spare
	if own == nil {
		own = new(claim)
	} else {
		sd.spare = own.next
		sd.spares--
	}
	*own = c
	sd.claims[pid] = own
	sd.count(sd.counts(c.on, c.stage))
	return own
}

// move sets where a claim was last asked for, and how far it is.
func (sd *sender) move(c *claim, on uint32, how stage) {
	open, unsafe := sd.counts(on, how)
	open0, unsafe0 := sd.counts(c.on, c.stage)
	c.on, c.stage = on, how
	sd.count(open-open0, unsafe-unsafe0)
}

// displace makes room for another claim of the identifier. What the one it has
// owes is not forgotten.
func (sd *sender) displace(pid uint16, token uint64) {
	c := sd.claims[pid]
	if c.stage == safe {
		sd.remove(token)
		return
	}
	delete(sd.claims, pid)
	if sd.displaced == nil {
		sd.displaced = make(map[uint64]*claim)
	}
	sd.displaced[token] = c
}

// find returns the claim with a token, or nil. It is the sender's until remove.
func (sd *sender) find(token uint64) (c *claim, displaced bool) {
	if c = sd.claims[uint16(token)]; c != nil && c.gen == uint16(token>>16) {
		return c, false
	}
	return sd.displaced[token], true
}

// remove ends the claim with a token, and returns what it was.
func (sd *sender) remove(token uint64) (was claim) {
	c, displaced := sd.find(token)
	switch {
	case c == nil:
		return was
	case displaced:
		delete(sd.displaced, token)
	default:
		delete(sd.claims, uint16(token))
	}
	was = *c
	open, unsafe := sd.counts(c.on, c.stage)
	sd.count(-open, -unsafe)
	if sd.spares < maxSpares {
		c.next = sd.spare
		sd.spare = c
		sd.spares++
	}
	return was
}

// token names a claim of the session to whoever is told its outcome.
func (s *Session) token(pid, gen uint16) uint64 {
	return uint64(s.life)<<32 | uint64(gen)<<16 | uint64(pid)
}

// newGen returns a number for a new claim of an identifier.
func (s *Session) newGen(sd *sender, pid uint16) uint16 {
	for {
		sd.gen++
		if _, taken := sd.displaced[s.token(pid, sd.gen)]; !taken {
			return sd.gen
		}
	}
}

// claimOf returns the claim with a token, or nil if there is none or its session has
// ended. s is locked.
func (s *Session) claimOf(token uint64) (sd *sender, c *claim, displaced bool) {
	if sd = s.sender.Load(); sd == nil || uint32(token>>32) != s.life {
		return nil, nil, false
	}
	c, displaced = sd.find(token)
	return sd, c, displaced
}

// loadClaims takes over the claims that the store has. s is locked.
func (s *Session) loadClaims() {
	if s.inbox == mq.NoInbox {
		return
	}
	for _, pid := range s.b.store.Claims(s.inbox) {
		sd := s.sending()
		sd.add(pid, claim{hash: unknownMessage, gen: s.newGen(sd, pid), stage: safe, before: true})
	}
}
