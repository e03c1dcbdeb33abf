package broker

import (
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// identifiers are the packet identifiers of a session that do not follow from the
// seq of their entry, because an earlier entry that was not acknowledged had that
// one. Most sessions never have any: a message that arrives while such an entry is
// in the window gets a seq whose identifier is free. What remains are messages
// that were stored before.
//
// An identifier stays with its entry until that is acknowledged, also when it is
// sent again [MQTT-4.4.0-1]. For a persistent session it is written to an
// mq.IdentifierInbox before the entry is sent, so that it is the same after a
// crash: by it the target knows a QoS 2 message again. Then by induction no entry
// that was sent meets its own identifier as somebody else's: what was sent before
// it, and is not acknowledged, has those it had then.
//
// A nil *identifiers has none. The session's lock guards it.
type identifiers struct {
	bySeq map[uint64]identifier
	byPID map[uint16]uint64
	box   mq.Inbox // NoInbox: nothing of it is stored
}

type identifier struct {
	pid    uint16
	stored bool // or submitted
	ready  bool // it may be used: if stored, durably
}

func (ids *identifiers) of(seq uint64) (identifier, bool) {
	if ids == nil {
		return identifier{}, false
	}
	id, ok := ids.bySeq[seq]
	return id, ok
}

func (ids *identifiers) seq(pid uint16) (uint64, bool) {
	if ids == nil {
		return 0, false
	}
	seq, ok := ids.byPID[pid]
	return seq, ok
}

func (ids *identifiers) has(pid uint16) bool {
	_, ok := ids.seq(pid)
	return ok
}

func (ids *identifiers) set(seq uint64, id identifier) {
	ids.bySeq[seq] = id
	ids.byPID[id.pid] = seq
}

func (ids *identifiers) remove(seq uint64) {
	delete(ids.byPID, ids.bySeq[seq].pid)
	delete(ids.bySeq, seq)
}

// identifiers returns those of the session, to change them.
func (s *Session) identifiers() *identifiers {
	s.own()
	if s.win.ids == nil {
		s.win.ids = &identifiers{bySeq: make(map[uint64]identifier), byPID: make(map[uint16]uint64)}
	}
	return s.win.ids
}

// packetID is the packet identifier of an entry of the session.
func (s *Session) packetID(seq uint64) uint16 {
	if id, ok := s.win.ids.of(seq); ok {
		return id.pid
	}
	return packetID(seq)
}

// admitsNext reports whether the next message may be sent now, under the receive
// maximum. It makes sure that the packet identifier that follows from nextSeq is
// free: nobody else has had that seq, and gaps are allowed. A shared subscription
// has no packet identifiers.
func (s *Session) admitsNext() bool {
	for s.lender() == nil && !s.win.free(s.nextSeq) {
		s.nextSeq++
	}
	return s.win.room(s.receiveMax)
}

// allot returns the seq of a new message.
func (s *Session) allot() uint64 {
	s.admitsNext()
	seq := s.nextSeq
	s.nextSeq++
	return seq
}

// identify makes sure that the entry that is to be sent next has a packet
// identifier that nobody else has. stored says that the entry is, or will be, in
// the store. False means that the identifier is being written; the pump comes
// again.
func (s *Session) identify(seq uint64, stored bool) bool {
	if s.win.ids == nil && s.win.free(seq) || s.lender() != nil {
		return true
	}
	if id, ok := s.win.ids.of(seq); ok {
		return id.ready
	}
	if s.win.free(seq) {
		return true
	}
	id := identifier{pid: s.pick(seq), stored: stored && s.persistent()}
	if id.pid == 0 {
		return false // an acknowledgement makes room
	}
	ids := s.identifiers()
	id.ready = !id.stored
	ids.set(seq, id)
	if id.ready {
		return true
	}
	if ids.box == mq.NoInbox {
		ids.box = s.b.store.Inbox(mq.IdentifierInbox + s.id)
	}
	s.b.submitted(1)
	s.b.store.Submit(mq.Op{Kind: mq.OpPut, Inbox: ids.box, Seq: seq, Expiry: int64(id.pid), Record: identifierRecord,
		Owner: &naming{s: s, ids: ids}})
	return false
}

// identifierRecord is the record of an entry of an IdentifierInbox: all it says is
// in the index.
var identifierRecord = []byte{0}

// pick returns a packet identifier that nobody has, 0 if there is none. It is far
// from those that were just used, whose last acknowledgement may come twice, and
// from those that follow from the next seqs.
func (s *Session) pick(seq uint64) uint16 {
	for i := range uint64(65535) {
		if pid := packetID(seq + 65535/2 + i); s.win.unused(pid) {
			return pid
		}
	}
	return 0
}

// naming is the owner of the op that stores an identifier.
type naming struct {
	s   *Session
	ids *identifiers
}

// named goes on when the store has an identifier, or failed to.
func (n *naming) named(op *mq.Op, err error, b *Batch) {
	s := n.s
	s.mu.Lock()
	defer s.unlock()
	id, ok := n.ids.of(op.Seq)
	switch {
	case !ok || s.win.ids != n.ids: // the entry, or the session, has ended
		return
	case err != nil:
		n.ids.remove(op.Seq)
		s.b.log.Error("cannot store a packet identifier; delivery waits, and it is tried again", "client", s.id, "error", err)
		s.b.stall(s, monotonic()+readPause)
		return
	}
	id.ready = true
	n.ids.set(op.Seq, id)
	b.pump(s)
}

// unname ends the identifier of an entry and returns the op that removes it from
// the store, to be submitted as one unit with what ends the entry: if only the
// entry stayed it would be sent again with another identifier; if only the
// identifier did, a later entry with the seq would have it. Kind 0: none.
func (s *Session) unname(seq uint64) mq.Op {
	ids := s.win.ids
	id, ok := ids.of(seq)
	if !ok {
		return mq.Op{}
	}
	ids.remove(seq)
	if len(ids.bySeq) == 0 && ids.box == mq.NoInbox {
		s.win.ids = nil
	}
	if !id.stored {
		return mq.Op{}
	}
	return mq.Op{Kind: mq.OpAck, Inbox: ids.box, Seq: seq}
}

// endIdentifier is unname for an entry that is not in the store.
func (s *Session) endIdentifier(seq uint64) {
	if op := s.unname(seq); op.Kind != 0 {
		s.b.store.Submit(op)
	}
}

// loadIdentifiers takes over what the store has. s has been counted.
func (s *Session) loadIdentifiers() {
	in, ok := s.b.store.Lookup(mq.IdentifierInbox + s.id)
	if !ok {
		return
	}
	s.identifiers().box = in
	var room [8]mq.Entry
	for list := s.b.store.List(in, 0, len(room), room[:0]); len(list) > 0; list = s.b.store.List(in, list[len(list)-1].Seq, len(room), room[:0]) {
		for _, e := range list {
			if _, _, ok := s.stored(e.Seq); ok {
				s.win.ids.set(e.Seq, identifier{pid: uint16(e.Expiry), stored: true, ready: true})
			} else {
				s.b.store.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: e.Seq})
			}
		}
	}
}

// forgetIdentifiers gives up all that is left, when the session has ended and the
// store was told.
func (s *Session) forgetIdentifiers() {
	if ids := s.win.ids; ids != nil {
		if ids.box != mq.NoInbox {
			s.b.store.Forget(ids.box)
		}
		s.win.ids = nil
	}
}

// overtakenBy is by how many acknowledgements of later messages one is overtaken
// when that is reported: a client that does this never acknowledges it.
const overtakenBy = 10_000

// late says whether a message of a session is overtaken.
type late uint8

const (
	lateNow      late = 1 << iota // it counts in Stats.Overtaken
	lateReported                  // it was reported on this connection
)

// lookBehind notes whether the client has acknowledged many messages and not one
// sent before them: delivery goes on, but somebody should know. An acknowledgement
// that was not that of the first message calls it.
func (s *Session) lookBehind(b *Batch) {
	if s.win.n == 0 || s.lender() != nil {
		s.setOvertaken(false)
		return
	}
	e := s.win.at(0)
	later := int64(max(s.cursor, e.seq)-e.seq) - int64(s.win.unack-1)
	s.setOvertaken(later > overtakenBy)
	if s.late == lateNow {
		s.late |= lateReported
		s.b.log.Warn("a client acknowledges messages but not one sent long before; delivery goes on",
			"client", s.id, "packet_identifier", s.packetID(e.seq), "qos", uint8(e.flags&mq.FlagQoS),
			"unacknowledged_for", time.Duration((b.mono-e.sentAt)*1000).Round(time.Millisecond).String(), "acknowledged_later", later)
	}
}

func (s *Session) setOvertaken(is bool) {
	switch {
	case is == (s.late&lateNow != 0):
	case is:
		s.late |= lateNow
		s.b.Stats.Overtaken.Add(1)
	default:
		s.late &^= lateNow
		s.b.Stats.Overtaken.Add(-1)
	}
}
