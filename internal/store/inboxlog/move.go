package inboxlog

import (
	"errors"

	"github.com/homing-mq/homing/internal/mq"
)

// moved is a move that is encoded and not applied yet.
type moved struct {
	slot   uint32
	entry  entry
	packet uint16
	claim  bool // packet is what moved, not entry
}

// commitMoves writes mv. It runs before the ops of the queue, so what the index
// says is what the log says so far.
func (c *committer) commitMoves(mv *moves) error {
	l := c.l
	if err := l.err(); err != nil {
		return err
	}
	c.enc.reset(l.tail.active, l.tail.end, c.head())
	c.moved = c.moved[:0]
	for i := range mv.records {
		if err := c.moveRecord(&mv.records[i]); err != nil {
			return err
		}
	}
	for _, cl := range mv.claims {
		if err := c.moveClaim(cl); err != nil {
			return err
		}
	}
	return c.flushMoves()
}

// moveRecord encodes the move of those of r's entries that are live and where
// r says.
func (c *committer) moveRecord(r *moveRecord) error {
	ix := c.l.ix
	c.targets = c.targets[:0]
	first := len(c.moved)
	need := int64(frameHeaderSize+2*frameAlign+putSize) + int64(len(r.bytes))
	ix.mu.Lock()
	oldest := ix.segs[0].epoch & (1<<24 - 1)
	for _, le := range r.entries {
		s := ix.valid(le.slot)
		if s == nil {
			continue
		}
		e := ix.get(s, le.seq)
		if e == nil || e.epoch24() != oldest || e.offset != r.offset {
			continue
		}
		t := target{client: ix.name(s), seq: e.seq, expiry: e.expiry, flags: s.flagsOf(e)}
		need += targetSize + int64(len(t.client))
		c.targets = append(c.targets, t)
		c.moved = append(c.moved, moved{slot: le.slot, entry: entry{
			seq: e.seq, expiry: e.expiry, size: r.size, put: r.put, where: uint32(t.flags),
		}})
	}
	ix.mu.Unlock()
	if len(c.targets) == 0 {
		return nil
	}
	if need <= c.left() && need > c.left()-c.l.tail.active.rest() {
		if err := c.awaitNext(); err != nil {
			c.moved = c.moved[:first]
			return errors.Join(c.flushMoves(), err)
		}
	}
	if need > c.left() {
		fresh := append([]moved(nil), c.moved[first:]...)
		c.moved = c.moved[:first]
		if err := c.makeRoom(need); err != nil {
			return err
		}
		c.moved, first = append(c.moved, fresh...), 0
	}
	c.enc.begin()
	c.enc.buf = appendPut(c.enc.buf, max(int64(r.put), 1), c.targets, r.bytes, r.crc)
	for i := first; i < len(c.moved); i++ {
		e := &c.moved[i].entry
		e.offset = uint32(c.enc.base + int64(len(c.enc.buf)-len(r.bytes)))
		e.where = whereOf(c.l.tail.active.epoch, mq.Flags(e.where))
		if len(c.targets) > 1 {
			e.where |= entryShared
		}
	}
	return nil
}

// moveClaim encodes a claim once more if it is held since where cl says.
func (c *committer) moveClaim(cl liveClaim) error {
	ix := c.l.ix
	var client []byte
	ix.mu.Lock()
	if s := ix.valid(cl.slot); s != nil {
		cs := ix.claimView(s)
		if i := searchClaim(cs, cl.packet); i < len(cs) && cs[i].packet == cl.packet && cs[i].epoch == cl.epoch {
			client = ix.name(s)
		}
	}
	ix.mu.Unlock()
	if client == nil {
		return nil
	}
	if need := int64(frameHeaderSize + 2*frameAlign + simpleSize + len(client)); need > c.left() {
		if err := c.makeRoom(need); err != nil {
			return err
		}
	}
	c.enc.begin()
	c.enc.buf = appendSimple(c.enc.buf, opClaim, client, 0, cl.packet)
	c.moved = append(c.moved, moved{slot: cl.slot, packet: cl.packet, claim: true})
	return nil
}

// makeRoom writes what is encoded and goes to the next segment.
func (c *committer) makeRoom(need int64) error {
	if need > c.l.maxFrame() {
		return c.l.tooLarge(int(need))
	}
	if err := c.flushMoves(); err != nil {
		return err
	}
	err := c.rotate()
	c.enc.reset(c.l.tail.active, c.l.tail.end, c.head())
	return err
}

// flushMoves writes what is encoded and applies it.
func (c *committer) flushMoves() error {
	l := c.l
	c.enc.finish()
	if len(c.enc.buf) == 0 {
		return nil
	}
	if err := c.write(false, &CommitInfo{}); err != nil {
		return err
	}
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	for i := range c.moved {
		m := &c.moved[i]
		if m.claim {
			l.ix.claim(m.slot, m.packet, l.tail.active.epoch)
		} else {
			l.ix.insert(m.slot, m.entry)
		}
	}
	c.moved = c.moved[:0]
	return nil
}
