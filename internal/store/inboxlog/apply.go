package inboxlog

import "github.com/homing-mq/homing/internal/mq"

// The methods of this file change the index as one op says. They are called
// with mu held, by the committer in the order of the log, and in the same
// order by recovery: what they do must depend on nothing else.

// insert adds entry e, or gives an entry with that seq a new place.
func (ix *index) insert(id uint32, e entry) {
	s := ix.slot(id)
	if e.seq >= s.next {
		s.next = e.seq + 1
	}
	es := ix.view(s)
	i := search(es, e.seq)
	if i < len(es) && es[i].seq == e.seq {
		promised := s.state & slotPromised
		if !es[i].dead() {
			s.state |= slotPromised // it holds messages all the while
			ix.account(id, s, &es[i], -1)
		}
		if e.seq <= s.sent && !e.has(mq.FlagSent) {
			ix.settle(s, e.seq) // e's flags are the whole truth
		}
		es[i] = e
		ix.account(id, s, &e, 1)
		s.state = s.state&^slotPromised | promised
		return
	}
	if e.seq <= s.sent && !e.has(mq.FlagSent) {
		ix.settle(s, e.seq)
	}
	ix.grow(s)
	es = ix.view(s)
	i = search(es, e.seq) // grow may have dropped dead ones
	s.used++
	es = ix.view(s)
	copy(es[i+1:], es[i:])
	es[i] = e
	ix.account(id, s, &e, 1)
}

// settle writes FlagSent into the entries that have it by s.sent only, except
// entry seq. It is rare: only a move after its original is gone leads here.
func (ix *index) settle(s *slot, seq uint64) {
	for i, es := 0, ix.view(s); i < len(es) && es[i].seq <= s.sent; i++ {
		if es[i].seq != seq {
			es[i].where |= uint32(mq.FlagSent)
		}
	}
	s.sent = 0
}

func (ix *index) kill(id uint32, s *slot, e *entry) {
	ix.account(id, s, e, -1)
	e.where |= entryDead
}

// ack removes entry seq.
func (ix *index) ack(id uint32, seq uint64) {
	s := ix.slot(id)
	if e := ix.get(s, seq); e != nil {
		ix.kill(id, s, e)
		ix.shrink(s)
	}
}

// markSent sets FlagSent up to seq, but on nothing put later.
func (ix *index) markSent(id uint32, seq uint64) {
	s := ix.slot(id)
	if es := ix.view(s); len(es) > 0 {
		s.sent = max(s.sent, min(seq, es[len(es)-1].seq))
	}
}

// markReceived sets FlagReceived on entry seq.
func (ix *index) markReceived(id uint32, seq uint64) {
	if e := ix.get(ix.slot(id), seq); e != nil {
		e.where |= uint32(mq.FlagReceived)
	}
}

// clear starts a new session: see mq.OpClear.
func (ix *index) clear(id uint32, seq uint64) {
	s := ix.slot(id)
	es := ix.view(s)
	if len(es) == 0 {
		return
	}
	died := false
	for i := range es {
		e := &es[i]
		if e.dead() {
			continue
		}
		switch {
		case e.seq > seq:
			if e.seq <= s.sent {
				e.where |= uint32(mq.FlagSent)
			}
		case !e.has(mq.FlagKeep) || e.has(mq.FlagReceived):
			ix.kill(id, s, e)
			died = true
		default:
			e.where &^= uint32(mq.FlagSent)
		}
	}
	s.sent = 0
	if died {
		ix.shrink(s)
	}
}

// claimView returns the claims of s.
func (ix *index) claimView(s *slot) []claim {
	if s.claims == 0 {
		return nil
	}
	return ix.claims.array(s.claims, s.claimClass)[:s.nclaims]
}

func searchClaim(cs []claim, packet uint16) int {
	lo, hi := 0, len(cs)
	for lo < hi {
		if mid := (lo + hi) / 2; cs[mid].packet < packet {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (ix *index) accountClaim(epoch uint32, sign int) {
	seg := ix.seg(epoch & (1<<24 - 1))
	seg.claims += sign
	seg.bytes += int64(sign) * claimBytes
	ix.live += int64(sign) * claimBytes
}

// claim remembers that the client of slot id claims packet, on the evidence of
// the segment with the given epoch.
func (ix *index) claim(id uint32, packet uint16, epoch uint32) {
	s := ix.slot(id)
	cs := ix.claimView(s)
	i := searchClaim(cs, packet)
	ix.accountClaim(epoch, 1)
	if i < len(cs) && cs[i].packet == packet {
		ix.accountClaim(cs[i].epoch, -1)
		cs[i].epoch = epoch
		return
	}
	if s.claims == 0 || int(s.nclaims) == int(ix.claims.classes[s.claimClass]) {
		ref, class := ix.claims.alloc(len(cs) + 1)
		copy(ix.claims.array(ref, class), cs)
		if s.claims != 0 {
			ix.claims.release(s.claims, s.claimClass)
		}
		s.claims, s.claimClass = ref, class
	}
	s.nclaims++
	cs = ix.claimView(s)
	copy(cs[i+1:], cs[i:])
	cs[i] = claim{packet: packet, epoch: epoch}
}

// unclaim forgets one claim.
func (ix *index) unclaim(id uint32, packet uint16) {
	s := ix.slot(id)
	cs := ix.claimView(s)
	i := searchClaim(cs, packet)
	if i == len(cs) || cs[i].packet != packet {
		return
	}
	ix.accountClaim(cs[i].epoch, -1)
	copy(cs[i:], cs[i+1:])
	s.nclaims--
	ix.dropClaims(s)
}

// unclaimAll forgets all claims of an inbox.
func (ix *index) unclaimAll(id uint32) {
	s := ix.slot(id)
	for _, c := range ix.claimView(s) {
		ix.accountClaim(c.epoch, -1)
	}
	s.nclaims = 0
	ix.dropClaims(s)
}

func (ix *index) dropClaims(s *slot) {
	if s.nclaims == 0 && s.claims != 0 {
		ix.claims.release(s.claims, s.claimClass)
		s.claims, s.claimClass = 0, 0
	}
}

// applySimple applies an op on the inbox of slot id that is not a put.
func (ix *index) applySimple(kind opKind, id uint32, seq uint64, packet uint16, epoch uint32) {
	switch kind {
	case opAck:
		ix.ack(id, seq)
	case opSent:
		ix.markSent(id, seq)
	case opReceived:
		ix.markReceived(id, seq)
	case opClear:
		ix.clear(id, seq)
	case opClaim:
		ix.claim(id, packet, epoch)
	case opRelease:
		ix.unclaim(id, packet)
	case opReleaseAll:
		ix.unclaimAll(id)
	}
}
