package inboxlog

import (
	"fmt"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// committer is the state of the one goroutine that writes the log.
type committer struct {
	l      *Log
	enc    encoder
	number uint64 // of the last commit, failed ones included

	// The queue taken, and a spare pair of slices for the next.
	ops        []mq.Op
	groups     []span
	nextOps    []mq.Op
	nextGroups []span

	// broken are the inboxes a put of which has failed; of what was submitted
	// before Done has returned from telling so, no put to them is written: it would
	// be delivered before the one that failed is sent again.
	broken   map[mq.Inbox]failure
	failures uint64 // numbers them

	troubled int // commits that failed since the last one that was written

	places  []place // of ops
	names   names
	refused []refusal

	// Lazy ops and Forgets whose commit failed: they go first next time.
	carry       []mq.Op
	carryGroups []span

	asked   bool     // the preparer was asked for the next segment
	next    *segment // what it has made; nil: not there yet
	noNext  error    // there was no next segment during this queue
	targets []target
	sharing []int
	moved   []moved

	pace pace
}

// place says where the record of a put went.
type place struct {
	offset uint32
	shared bool
}

// refusal is an op with an owner that was given up, and why.
type refusal struct {
	op  mq.Op
	err error
}

// failure is what befell a put.
type failure struct {
	number uint64
	err    error
}

// completion is one call of Done to make.
type completion struct {
	ops  []mq.Op
	err  error
	told uint64 // not 0: with it all is told up to the failure with this number
}

func (c *committer) init(l *Log) {
	c.l = l
	c.names.ix = l.ix
}

// run is the committer's goroutine. It ends once the queue is closed and empty.
func (c *committer) run() {
	q := &c.l.queue
	defer c.l.wg.Done()
	defer close(c.l.completions)
	defer close(c.l.prep.ask)
	for {
		<-q.wake
		if c.l.opts.Sync == SyncAlways {
			c.pace.wait()
		}
		var mv *moves
		var ok bool
		c.ops, c.groups, mv, ok = q.take(c.nextOps[:0], c.nextGroups[:0])
		if !ok {
			return
		}
		if mv != nil {
			mv.done <- c.commitMoves(mv)
		}
		if len(c.ops) > 0 || len(c.carry) > 0 {
			c.commitQueue()
		}
		clear(c.ops)
		c.nextOps, c.nextGroups = c.ops, c.groups
		if cap(c.nextOps) > 1<<16 && len(c.ops) < 1<<12 {
			c.nextOps = nil // a burst is over
		}
		q.done(len(c.carry) > 0)
	}
}

// commitQueue commits c.ops, in as many commits as it takes.
func (c *committer) commitQueue() {
	if n := len(c.carry); n > 0 {
		for i := range c.groups {
			c.groups[i].from += n
			c.groups[i].to += n
		}
		c.ops, c.groups = append(c.carry, c.ops...), append(c.carryGroups, c.groups...)
		c.carry, c.carryGroups = nil, nil
	}
	c.noNext = nil
	c.names.reset(c.ops)
	if cap(c.places) < len(c.ops) {
		c.places = make([]place, len(c.ops))
	}
	c.places = c.places[:len(c.ops)]
	for from, gi := 0, 0; from < len(c.ops); {
		start := time.Now()
		c.l.lookAtDisk(start)
		to, nextGroup := c.encode(from, gi)
		info := CommitInfo{Bytes: len(c.enc.buf)}
		owned := c.owned(from, to)
		err := c.write(owned > 0, &info)
		if err != nil {
			c.save(from, to, gi, err, &info)
		}
		c.apply(from, to)
		c.complete(from, to)
		if f := c.l.opts.Observer.Commit; f != nil {
			info.Ops, info.Total, info.Err = to-from, time.Since(start), err
			f(info)
		}
		if info.Sync > 0 {
			c.pace.committed(owned)
		}
		from, gi = to, nextGroup
	}
}

// owned returns how many of ops[from:to] somebody waits for.
func (c *committer) owned(from, to int) (n int) {
	for i := from; i < to; i++ {
		if c.ops[i].Owner != nil {
			n++
		}
	}
	return n
}

// save rescues of the failed commit ops[from:to] what is not a put: those fail
// with err, the others are written once more without them. Space is made by
// acknowledgements, so they must get through when puts do not.
func (c *committer) save(from, to, group int, err error, info *CommitInfo) {
	puts := false
	for i, g := from, group; i < to; {
		n := c.unit(i, &g)
		if hasPut(c.ops[i : i+n]) {
			c.breaks(i, n, err)
			c.giveUp(i, n, err)
			puts = true
		}
		i += n
	}
	if puts && c.l.failed.Load() == nil {
		c.enc.reset(c.l.tail.active, c.l.tail.end, c.head())
		for i, g := from, group; i < to; {
			n := c.unit(i, &g)
			c.appendUnit(i, n)
			i += n
		}
		c.enc.finish()
		if err = c.write(c.owned(from, to) > 0, info); err == nil {
			return
		}
	}
	for i, g := from, group; i < to; {
		n := c.unit(i, &g)
		c.giveUp(i, n, err)
		i += n
	}
}

// giveUp takes the unit of n ops at i out of its commit because of err. A unit
// nobody waits for, without a put, is kept for the next commit.
func (c *committer) giveUp(i, n int, err error) {
	ops := c.ops[i : i+n]
	final, before := c.l.failed.Load() != nil, len(c.carry)
	if ops[0].Kind == kindNone {
		return
	}
	if final && ops[0].Kind == kindForget {
		return // there is nothing to write for it
	}
	if !final && !hasPut(ops) && c.owned(i, i+n) == 0 {
		if n > 1 {
			c.carryGroups = append(c.carryGroups, span{len(c.carry), len(c.carry) + n})
		}
		c.carry = append(c.carry, ops...)
	}
	told := false
	for k := range ops {
		c.l.breakPromise(&ops[k])
		if ops[k].Owner != nil {
			c.refused = append(c.refused, refusal{ops[k], err})
			told = true
		}
		ops[k] = mq.Op{}
	}
	if kept := len(c.carry) > before; !told && !kept {
		c.l.log.Error("an op nobody waits for is dropped", "error", err)
	}
}

// breaks notes that the puts of the unit of n ops at i fail with err.
func (c *committer) breaks(i, n int, err error) {
	for k := i; k < i+n; k++ {
		if op := &c.ops[k]; op.Kind == mq.OpPut && op.Owner != nil {
			if c.broken == nil {
				c.broken = make(map[mq.Inbox]failure)
			}
			c.broken[op.Inbox] = failure{c.failures + 1, err}
		}
	}
}

// behind returns the error of an earlier put to an inbox of the unit of n ops at
// i, if that was not told before they were submitted. The other inboxes of the
// unit are broken then, too, until the same is told: so this comes to an end
// however many puts follow each other.
func (c *committer) behind(i, n int) error {
	if len(c.broken) == 0 {
		return nil
	}
	var last failure
	for k := i; k < i+n; k++ {
		if f := c.broken[c.ops[k].Inbox]; c.ops[k].Kind == mq.OpPut && f.number > last.number {
			last = f
		}
	}
	for k := i; k < i+n && last.err != nil; k++ {
		if c.ops[k].Kind == mq.OpPut {
			c.broken[c.ops[k].Inbox] = last
		}
	}
	return last.err
}

// told ends the failures up to a number. Ops that come now were submitted after.
func (c *committer) told(number uint64) {
	for in, f := range c.broken {
		if f.number <= number {
			delete(c.broken, in)
		}
	}
}

func hasPut(ops []mq.Op) bool {
	for i := range ops {
		if ops[i].Kind == mq.OpPut {
			return true
		}
	}
	return false
}

// head returns the fixed part of the next commit's frame headers.
func (c *committer) head() frameHeader {
	c.number++
	return frameHeader{
		commit: c.number,
		synced: position(c.l.durable.Load()),
		time:   c.l.opts.Clock.Now(),
	}
}

// write writes what is encoded, makes it durable if the mode and wait demand
// it, and moves the tail. On an error of the write nothing has moved: the next
// commit overwrites whatever has reached the file, and its higher number makes
// the rest of it unreadable.
func (c *committer) write(wait bool, info *CommitInfo) error {
	l := c.l
	if err := l.err(); err != nil {
		return err
	}
	if len(c.enc.buf) > 0 {
		seg := l.tail.active
		_, err := seg.file.WriteAt(c.enc.buf, l.tail.end)
		if noSpace(err) && l.dropSpares() {
			_, err = seg.file.WriteAt(c.enc.buf, l.tail.end)
		}
		if err != nil {
			// Should the process end before the next commit, these frames must
			// not be found. If this fails, too, they may: the ops have failed
			// with an error of the disk, and nothing better is known of them.
			_, _ = seg.file.WriteAt(make([]byte, frameHeaderSize), l.tail.end)
			if c.trouble() {
				l.log.Error("write to the inbox log failed", "file", seg.path, "offset", l.tail.end, "error", err)
			}
			return writeError(seg.path, err)
		}
		c.fine()
		l.tail.mu.Lock()
		l.tail.end += int64(len(c.enc.buf))
		l.tail.mu.Unlock()
		l.room.Store(seg.room(l.tail.end))
	}
	if wait && l.opts.Sync == SyncAlways {
		start := time.Now()
		err := l.syncAll()
		info.Sync = max(time.Since(start), 1)
		return err
	}
	return nil
}

// trouble counts a commit that has failed. It reports whether that is to be
// logged: while others fail behind it, nothing more is said.
func (c *committer) trouble() bool {
	c.troubled++
	return c.troubled == 1
}

// fine says that commits work again.
func (c *committer) fine() {
	if c.troubled > 0 {
		c.l.log.Info("the inbox log is written again", "failed_commits", c.troubled)
		c.troubled = 0
	}
}

// rotate seals the active segment and goes on in the next.
func (c *committer) rotate() error {
	l := c.l
	if err := c.awaitNext(); err != nil {
		return err
	}
	old, next := l.tail.active, c.next
	c.enc.reset(old, l.tail.end, c.head())
	c.enc.bare(frameSeal)
	if _, err := old.file.WriteAt(c.enc.buf, l.tail.end); err != nil {
		return writeError(old.path, err) // next is there for the next attempt
	}
	c.next, c.asked = nil, false
	l.tail.mu.Lock()
	sealAt := l.tail.end
	l.tail.unsynced = append(l.tail.unsynced, old)
	l.tail.active, l.tail.end = next, segmentHeaderSize
	l.tail.mu.Unlock()
	l.ix.mu.Lock()
	old.sealed, old.sealAt, old.commit = true, sealAt, c.number
	l.ix.sealed += sealAt - segmentHeaderSize
	l.ix.segs = append(l.ix.segs, next)
	l.ix.size += next.size
	l.segments.Store(int64(len(l.ix.segs)))
	l.ix.mu.Unlock()
	l.room.Store(next.room(segmentHeaderSize))
	l.tidySoon()
	return nil
}

// awaitNext sees to it that there is a next segment. Puts and moves wait for it
// before they use the rest of the active one; so on a disk that has no room for
// another, acknowledgements still have that rest.
func (c *committer) awaitNext() error {
	l := c.l
	if c.next != nil {
		return nil
	}
	c.wantNext()
	l.prep.urgent.Store(true)
	defer l.prep.urgent.Store(false)
	p := <-l.prep.ready
	if p.err != nil { // perhaps it is old: ask again
		l.prep.ask <- l.tail.active.epoch + 1
		p = <-l.prep.ready
	}
	if p.err != nil {
		c.asked = false
		if c.trouble() {
			l.log.Error("no new segment for the inbox log", "error", p.err)
		}
		return writeError(l.dir, p.err)
	}
	c.next = p.seg
	return nil
}

// wantNext asks for the next segment unless that was done already.
func (c *committer) wantNext() {
	if !c.asked {
		c.asked = true
		c.l.prep.ask <- c.l.tail.active.epoch + 1
	}
}

// apply makes ops[from:to] visible.
func (c *committer) apply(from, to int) {
	l := c.l
	epoch := l.tail.active.epoch
	put := uint32(c.enc.head.time / 1000)
	tidy := false
	for from < to {
		end := min(from+applyChunk, to)
		l.ix.mu.Lock()
		for ; from < end; from++ {
			c.applyOp(&c.ops[from], c.places[from], epoch, put)
		}
		tidy = l.wantsTidy()
		l.ix.mu.Unlock()
	}
	if tidy {
		l.tidySoon()
	}
	if !c.asked && l.tail.end > l.tail.active.size/nextAfter {
		c.wantNext()
	}
}

// nextAfter is the part of the active segment after which the next one is
// made: early, because it is also what acknowledgements and moves have left
// when somebody else fills the disk.
const nextAfter = 8

const applyChunk = 256 // ops applied without letting readers in between

// applyOp applies one op. Locked: index.mu.
func (c *committer) applyOp(op *mq.Op, p place, epoch, put uint32) {
	ix := c.l.ix
	id := uint32(op.Inbox)
	switch op.Kind {
	case kindNone:
	case kindForget:
		if s := ix.valid(id); s != nil && uint64(s.gen) == op.Seq {
			ix.free(id)
		}
	case mq.OpPut:
		e := entry{
			seq: op.Seq, expiry: op.Expiry, offset: p.offset, size: uint32(len(op.Record)), put: put,
			where: whereOf(epoch, op.Flags),
		}
		if p.shared {
			e.where |= entryShared
		}
		ix.insert(id, e)
		ix.kept(id)
		if op.Origin != mq.NoInbox {
			ix.claim(uint32(op.Origin), op.PacketID, epoch)
		}
	default:
		ix.applySimple(diskKind[op.Kind], id, op.Seq, op.PacketID, epoch)
	}
}

var diskKind = [...]opKind{
	mq.OpPut: opPut, mq.OpAck: opAck, mq.OpSent: opSent, mq.OpReceived: opReceived, mq.OpClear: opClear,
	mq.OpClaim: opClaim, mq.OpRelease: opRelease, mq.OpReleaseAll: opReleaseAll,
}

// complete hands the ops that have an owner to the completion goroutine: first
// those given up since the last time, then ops[from:to].
func (c *committer) complete(from, to int) {
	for i := 0; i < len(c.refused); {
		k := i
		ops := c.l.newDone()
		for ; k < len(c.refused) && c.refused[k].err == c.refused[i].err; k++ { //nolint:errorlint // the same error, not the same kind
			ops = append(ops, c.refused[k].op)
		}
		d := completion{ops: ops, err: c.refused[i].err}
		if k == len(c.refused) && len(c.broken) > 0 {
			c.failures++
			d.told = c.failures
		}
		c.l.completions <- d
		i = k
	}
	clear(c.refused)
	c.refused = c.refused[:0]
	if c.owned(from, to) == 0 {
		return
	}
	done := c.l.newDone()
	for i := from; i < to; i++ {
		if c.ops[i].Owner != nil {
			done = append(done, c.ops[i])
		}
	}
	c.l.completions <- completion{ops: done}
}

// newDone returns an empty slice for a completion.
func (l *Log) newDone() []mq.Op {
	select {
	case ops := <-l.doneFree:
		return ops
	default:
		return nil
	}
}

// complete is the goroutine that calls Done.
func (l *Log) complete() {
	defer l.completerWG.Done()
	for d := range l.completions {
		l.opts.Done(d.ops, d.err)
		if d.told > 0 {
			l.queue.submit(mq.Op{Kind: kindTold, Seq: d.told})
		}
		clear(d.ops)
		select {
		case l.doneFree <- d.ops[:0]:
		default:
		}
	}
}

// unknown is the error of an op whose handle is none.
func unknown(in mq.Inbox) error {
	return &mq.Error{Code: mq.StoreFailed, Text: "store failed", Err: fmt.Errorf("no inbox has handle %d", in)}
}
