package inboxlog

import (
	"github.com/homing-mq/homing/internal/mq"
)

// encode encodes ops from c.ops[from] on until the commit is large or the
// segment full; it goes to the next segment only at the start of a commit. It
// returns the first op left, and the group at or after it. Units that cannot
// be written are given up.
func (c *committer) encode(from, group int) (to, nextGroup int) {
	l := c.l
	c.enc.reset(l.tail.active, l.tail.end, c.head())
	i := from
	for i < len(c.ops) && len(c.enc.buf) < maxCommit {
		n := c.unit(i, &group)
		if c.ops[i].Kind == kindTold {
			c.told(c.ops[i].Seq)
			c.ops[i] = mq.Op{}
		}
		if k := c.ops[i].Kind; k == kindForget || k == kindNone {
			if k == kindForget && len(c.carry) > 0 {
				c.giveUp(i, 1, nil) // ops that wait for the next commit may need the slot
			}
			i++
			continue
		}
		if err := c.behind(i, n); err != nil {
			c.giveUp(i, n, err)
			i += n
			continue
		}
		need, err := c.measure(i, n)
		if err == nil && need > c.left()-c.kept() {
			if need > c.left() && len(c.enc.buf) > 0 {
				break
			}
			err = c.makeWay(need, hasPut(c.ops[i:i+n]))
		}
		if err != nil {
			c.breaks(i, n, err)
			c.giveUp(i, n, err)
		} else {
			c.appendUnit(i, n)
		}
		i += n
	}
	c.enc.finish()
	return i, group
}

// makeWay lets need bytes be written where the active segment has little room:
// in the next one, and for puts only if there is one. When there was none it is
// not tried again during this queue.
//
// On a full disk acknowledgements leave room for what is live in the oldest
// segment: it can be moved then, and the segment be freed for more of them.
func (c *committer) makeWay(need int64, put bool) error {
	fits := need <= c.left()
	if fits && (c.next != nil || !put && need <= c.left()-c.moveRoom()) {
		return nil
	}
	if c.noNext == nil {
		if fits {
			c.noNext = c.awaitNext()
		} else {
			c.noNext = c.rotate()
			c.enc.reset(c.l.tail.active, c.l.tail.end, c.head())
			if c.noNext == nil {
				return c.makeWay(need, put)
			}
		}
	}
	if c.noNext == nil || put {
		return c.noNext
	}
	if c.l.starve() || !fits {
		return c.noNext
	}
	return nil
}

// kept returns the bytes of the active segment that not everybody may use.
func (c *committer) kept() int64 { return max(c.l.tail.active.rest(), c.moveRoom()) }

// moveRoom returns how many bytes moves need to free a segment, if the disk is
// nearly full and there is no other segment to write them to.
func (c *committer) moveRoom() int64 {
	l := c.l
	if c.next != nil || !l.disk.near.Load() {
		return 0
	}
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	s := l.ix.segs[0]
	if !s.sealed {
		return 0
	}
	return s.bytes + 2*l.tail.active.rest()
}

// unit returns how many ops the unit at c.ops[i] has. *group is the first
// group that may contain or follow i; it is moved on as needed.
func (c *committer) unit(i int, group *int) int {
	for *group < len(c.groups) && c.groups[*group].to <= i {
		*group++
	}
	if *group < len(c.groups) && c.groups[*group].from == i {
		return c.groups[*group].to - i
	}
	return 1
}

// left returns the bytes free in the active segment after what is encoded.
func (c *committer) left() int64 {
	return c.l.tail.active.room(c.l.tail.end + int64(len(c.enc.buf)))
}

// measure returns an upper bound of the bytes the unit takes, or the reason
// why it may not be written.
func (c *committer) measure(i, n int) (int64, error) {
	need := int64(frameHeaderSize + 2*frameAlign)
	put := false
	for k := i; k < i+n; k++ {
		op := &c.ops[k]
		client, origin := c.names.of(k)
		if client == nil {
			return 0, unknown(op.Inbox)
		}
		if op.Kind < mq.OpPut || op.Kind > mq.OpReleaseAll {
			return 0, mq.Errorf(mq.StoreFailed, "op kind %d is unknown", op.Kind)
		}
		need += simpleSize + int64(len(client))
		if op.Kind != mq.OpPut {
			continue
		}
		if origin == nil && op.Origin != mq.NoInbox {
			return 0, unknown(op.Origin)
		}
		put = true
		need += putSize + targetSize + int64(len(origin))
		if k == i || !sameRecord(op.Record, c.ops[k-1].Record) {
			need += int64(len(op.Record))
		}
	}
	if err := c.l.failed.Load(); err != nil {
		return 0, err
	}
	if need > c.l.maxFrame() {
		return 0, c.l.tooLarge(int(need))
	}
	if put && c.l.overLimit(need, c.left()) {
		return 0, errFull
	}
	return need, nil
}

func sameRecord(a, b []byte) bool { return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] }

// appendUnit encodes a unit into one frame.
func (c *committer) appendUnit(i, n int) {
	if k := c.ops[i].Kind; k == kindNone || k == kindForget {
		return
	}
	c.enc.begin()
	for end := i + n; i < end; {
		if c.ops[i].Kind == mq.OpPut {
			run := i
			for run < end && c.ops[run].Kind == mq.OpPut {
				c.places[run] = place{}
				run++
			}
			for ; i < run; i++ {
				if c.places[i].offset == 0 {
					c.appendPut(i, run)
				}
			}
			continue
		}
		op := &c.ops[i]
		client, _ := c.names.of(i)
		c.enc.buf = appendSimple(c.enc.buf, diskKind[op.Kind], client, op.Seq, op.PacketID)
		i++
	}
}

// appendPut encodes the put at c.ops[i] together with those of c.ops[i+1:end],
// all of them puts, that have the same record.
func (c *committer) appendPut(i, end int) {
	c.targets, c.sharing = c.targets[:0], c.sharing[:0]
	record := c.ops[i].Record
	for k := i; k < end; k++ {
		op := &c.ops[k]
		if k > i && (c.places[k].offset != 0 || !sameRecord(record, op.Record)) {
			continue
		}
		client, origin := c.names.of(k)
		c.targets = append(c.targets, target{
			client: client, seq: op.Seq, expiry: op.Expiry, flags: op.Flags,
			claim: op.Origin != mq.NoInbox, origin: origin, packet: op.PacketID,
		})
		c.sharing = append(c.sharing, k)
	}
	c.enc.buf = appendPut(c.enc.buf, 0, c.targets, record, recordCRC(record))
	p := place{
		offset: uint32(c.enc.base + int64(len(c.enc.buf)-len(record))),
		shared: len(c.sharing) > 1,
	}
	for _, k := range c.sharing {
		c.places[k] = p
	}
}

// names resolves the handles of queued ops, many with one lock. What it
// returns is valid while the ops are under way.
type names struct {
	ix      *index
	ops     []mq.Op
	from    int
	clients [][]byte // of ops[from:]; nil: no such inbox
	origins [][]byte
}

const namesChunk = 256

func (n *names) reset(ops []mq.Op) {
	n.ops, n.from, n.clients, n.origins = ops, 0, n.clients[:0], n.origins[:0]
}

// of returns the client IDs of the inbox and the origin of ops[i].
func (n *names) of(i int) (client, origin []byte) {
	if i < n.from || i >= n.from+len(n.clients) {
		n.fill(i)
	}
	return n.clients[i-n.from], n.origins[i-n.from]
}

func (n *names) fill(from int) {
	n.from, n.clients, n.origins = from, n.clients[:0], n.origins[:0]
	ix := n.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for i := from; i < min(from+namesChunk, len(n.ops)); i++ {
		var client, origin []byte
		if s := ix.valid(uint32(n.ops[i].Inbox)); s != nil {
			client = ix.name(s)
		}
		if n.ops[i].Origin != mq.NoInbox {
			if s := ix.valid(uint32(n.ops[i].Origin)); s != nil {
				origin = ix.name(s)
			}
		}
		n.clients = append(n.clients, client)
		n.origins = append(n.origins, origin)
	}
}
