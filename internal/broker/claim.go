package broker

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// sender is what a session has under way as a sender of QoS 2 messages. All but
// the counters is guarded by Session.mu. Claims change through put, displace and
// remove only, which keep the counters.
type sender struct {
	claims map[uint16]claim // identifiers that the client has not released
	// displaced has claims, by token, whose identifier the client has used for
	// another message before they were answered. nil: none, which is usual.
	displaced map[uint64]claim
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
}

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
		sd = &sender{claims: make(map[uint16]claim), conn: 1}
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

// account counts a claim, or with n = -1 takes it back.
func (sd *sender) account(c *claim, n int32) {
	if c.on != sd.conn {
		return
	}
	sd.open.Add(n)
	if c.stage == publishing || c.stage == refusing {
		sd.unsafe.Add(n)
	}
}

// put sets the claim of an identifier.
func (sd *sender) put(pid uint16, c claim) {
	if old, ok := sd.claims[pid]; ok {
		sd.account(&old, -1)
	}
	sd.claims[pid] = c
	sd.account(&c, 1)
}

// displace makes room for another claim of the identifier. What the one it has
// owes is not forgotten.
func (sd *sender) displace(pid uint16, token uint64) {
	c := sd.claims[pid]
	delete(sd.claims, pid)
	if c.stage == safe {
		sd.account(&c, -1)
		return
	}
	if sd.displaced == nil {
		sd.displaced = make(map[uint64]claim)
	}
	sd.displaced[token] = c
}

// find returns the claim with a token.
func (sd *sender) find(token uint64) (c claim, displaced, ok bool) {
	if c, ok = sd.claims[uint16(token)]; ok && c.gen == uint16(token>>16) {
		return c, false, true
	}
	c, ok = sd.displaced[token]
	return c, true, ok
}

// remove ends the claim with a token.
func (sd *sender) remove(token uint64) {
	c, displaced, ok := sd.find(token)
	switch {
	case !ok:
		return
	case displaced:
		delete(sd.displaced, token)
	default:
		delete(sd.claims, uint16(token))
	}
	sd.account(&c, -1)
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

// claimOf returns the claim with a token, unless its session has ended. s is
// locked.
func (s *Session) claimOf(token uint64) (sd *sender, c claim, displaced, ok bool) {
	if sd = s.sender.Load(); sd == nil || uint32(token>>32) != s.life {
		return nil, claim{}, false, false
	}
	c, displaced, ok = sd.find(token)
	return sd, c, displaced, ok
}

// loadClaims takes over the claims that the store has. s is locked.
func (s *Session) loadClaims() {
	if s.inbox == mq.NoInbox {
		return
	}
	for _, pid := range s.b.store.Claims(s.inbox) {
		sd := s.sending()
		sd.put(pid, claim{hash: unknownMessage, gen: s.newGen(sd, pid), stage: safe, before: true})
	}
}
