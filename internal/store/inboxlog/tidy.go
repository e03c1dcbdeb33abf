package inboxlog

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"
)

const (
	moveBytes = 1 << 20  // of records moved with one commit
	moveRate  = 64 << 20 // bytes per second, unless space is short
	slack     = 4        // segments the log may have however little is live

	retryMost = time.Minute
)

// tidySoon wakes the keeper.
func (l *Log) tidySoon() {
	select {
	case l.tidyC <- struct{}{}:
	default:
	}
}

// keep is the keeper's goroutine: it writes hints and gets space back. What has
// failed and what depends on the file system's use is looked at again on time:
// nobody else may come.
func (l *Log) keep() {
	defer l.wg.Done()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-l.tidyC:
		case <-again.C:
		}
		l.lookAtDisk(time.Now())
		l.giveBack()
		l.tidy()
		if d := l.tidyIn(); d > 0 {
			again.Reset(d)
		}
	}
}

// tidyIn returns how long the keeper may wait for somebody to wake it; 0: until
// then.
func (l *Log) tidyIn() (d time.Duration) {
	if l.disk.full.Load() {
		d = l.opts.look
	}
	for _, r := range []*retry{&l.freeing, &l.moving, &l.hinting} {
		if at := r.at.Load(); at != 0 {
			left := max(time.Duration(at-l.since(time.Now())), time.Millisecond)
			if d == 0 || left < d {
				d = left
			}
		}
	}
	return d
}

// retry spaces out the attempts at something that fails: the next is after
// usagePeriod, then after twice that, at most after retryMost, and at once when
// the file system has room again.
type retry struct {
	at    atomic.Int64 // by Log.since; 0: nothing has failed
	tries int          // that failed one after the other; the keeper's own
}

func (r *retry) failed(l *Log) {
	wait := min(l.opts.look<<min(r.tries, 10), retryMost)
	r.tries++
	r.at.Store(l.since(time.Now().Add(wait)))
}

func (r *retry) worked() {
	r.tries = 0
	r.at.Store(0)
}

// waits reports whether the last failure is too recent to try again.
func (r *retry) waits(l *Log) bool {
	at := r.at.Load()
	return at != 0 && l.since(time.Now()) < at
}

// retryNow lets the keeper try again what has failed.
func (l *Log) retryNow() {
	for _, r := range []*retry{&l.freeing, &l.moving, &l.hinting} {
		r.at.Store(0)
	}
	l.tidySoon()
}

// tidy does all there is to do now. Only one goroutine may call it.
func (l *Log) tidy() {
	for {
		for l.retire() {
		}
		l.writeHints()
		if !l.sparseNow() || !l.compact() || !l.retire() {
			return
		}
	}
}

// wantsTidy reports whether tidy would find work. Locked: index.mu.
func (l *Log) wantsTidy() bool {
	return len(l.ix.segs) > 1 && l.ix.segs[0].idle() || l.sparse(2, l.opts.slack)
}

// sparse reports whether the log is larger than times what is live, plus some
// segments, or is at its limit, and moving would get a good part of it back.
// Locked: index.mu.
func (l *Log) sparse(times, segments int64) bool {
	ix := l.ix
	n := int64(len(ix.segs))
	if l.starved.Load() && l.gains() {
		return true
	}
	// Space at the end of segments that is too small for a record is not
	// counted as dead: moving does not get it back, and must not try for ever.
	dead := ix.sealed - (ix.live - ix.segs[n-1].bytes)
	if dead < l.opts.SegmentSize {
		return false
	}
	if limit := l.maxSegments(); (limit > 0 && n >= limit || l.disk.full.Load()) && dead > ix.sealed/6 {
		return true
	}
	return ix.size > times*ix.live+segments*l.opts.SegmentSize
}

// gains reports whether moving what is live in the oldest segment leaves room.
// Locked: index.mu.
func (l *Log) gains() bool {
	s := l.ix.segs[0]
	return s.sealed && s.sealAt-segmentHeaderSize-s.bytes > s.rest()
}

// starve says that an acknowledgement has no room. It wakes the keeper and
// reports whether that can make some.
func (l *Log) starve() bool {
	l.ix.mu.Lock()
	gains := l.gains()
	l.ix.mu.Unlock()
	if gains && !l.starved.Swap(true) {
		l.retryNow()
	}
	return gains
}

func (l *Log) sparseNow() bool {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	return l.sparse(2, l.opts.slack)
}

// retire makes a spare of the oldest segment if nothing in it is needed, and
// reports whether it did. Segments go strictly from the oldest end. So whatever
// took effect on an entry (acknowledgement, clear, move) is never gone before
// the put it refers to. It must be durable before, too.
func (l *Log) retire() bool {
	l.ix.mu.Lock()
	s := l.ix.segs[0]
	idle := len(l.ix.segs) > 1 && s.idle()
	l.ix.mu.Unlock()
	if !idle || l.freeing.waits(l) {
		return false
	}
	// No read begins on an idle segment any more.
	if s.wanted.Store(true); s.pins.Load() > 0 || l.syncAll() != nil {
		return false // the last reader wakes the keeper
	}
	err := l.disown(s)
	if err == nil {
		err = l.toSpare(s)
	}
	if err != nil {
		l.log.Error("cannot free a segment of the inbox log; trying again later", "file", s.path, "error", err)
		l.freeing.failed(l)
		return false
	}
	l.freeing.worked()
	l.moving.at.Store(0) // there is room again, perhaps
	l.starved.Store(false)
	l.ix.mu.Lock()
	l.ix.segs = slices.Delete(l.ix.segs, 0, 1)
	l.ix.size -= s.size
	l.ix.sealed -= s.sealAt - segmentHeaderSize
	l.segments.Store(int64(len(l.ix.segs)))
	l.ix.mu.Unlock()
	return true
}

// disown has the state file say that s, the oldest segment, is not needed any
// more. From then on it may be missing; until it is, the next start removes it.
func (l *Log) disown(s *segment) error {
	exists, err := l.state.write(l, facts{oldest: s.epoch + 1, synced: position(l.durable.Load())})
	if err != nil && !exists {
		return nil // nothing says that it is needed
	}
	return err
}

// writeHints writes the hints that are missing. A failure costs time at the
// next start only.
func (l *Log) writeHints() {
	if l.hinting.waits(l) || l.disk.short.Load() {
		return // what room there is others need more
	}
	l.ix.mu.Lock()
	segs := slices.Clone(l.ix.segs)
	l.ix.mu.Unlock()
	for _, s := range segs {
		l.ix.mu.Lock()
		wanted := s.sealed && !s.hinted && !s.idle()
		s.hinted = s.hinted || wanted
		l.ix.mu.Unlock()
		if !wanted || l.stopping() {
			continue
		}
		if err := l.writeHint(s); err != nil {
			l.log.Warn("no hint for a segment: without one the next start reads all of it; trying again later", "error", err)
			l.ix.mu.Lock()
			s.hinted = false
			l.ix.mu.Unlock()
			l.hinting.failed(l)
			return
		}
		l.hinting.worked()
	}
}

func (l *Log) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return l.failed.Load() != nil
	}
}

// moves are records for the committer to write again at the end of the log.
type moves struct {
	records []moveRecord
	claims  []liveClaim
	done    chan error
}

// moveRecord is one record and the entries that have it.
type moveRecord struct {
	liveEntry // of the first entry; the others share all but slot and seq
	crc       uint32
	bytes     []byte
	entries   []liveEntry
}

// liveEntry is an entry in the segment that is emptied.
type liveEntry struct {
	slot   uint32
	seq    uint64
	offset uint32
	size   uint32
	put    uint32
}

type liveClaim struct {
	slot   uint32
	epoch  uint32
	packet uint16
}

// compact moves everything live in the oldest segment to the end of the log
// and reports whether the segment is empty now.
//
// The committer checks each entry again when it writes the move, before all
// ops that wait, so a move never follows an acknowledgement of its entry.
func (l *Log) compact() bool {
	if l.moving.waits(l) {
		return false
	}
	l.ix.mu.Lock()
	s := l.ix.segs[0]
	sealed := s.sealed
	l.ix.mu.Unlock()
	if !sealed {
		return false
	}
	entries, claims := l.liveIn(s)
	slices.SortFunc(entries, func(a, b liveEntry) int { return cmp.Compare(a.offset, b.offset) })
	err := l.move(s, entries, claims)
	if errors.Is(err, errStopping) {
		return false
	}
	if err != nil {
		l.log.Error("cannot move messages out of an old segment; trying again later", "file", s.path, "error", err)
		l.moving.failed(l)
		return false
	}
	l.moving.worked()
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	return s.entries == 0 && s.claims == 0 // pinned at most for a moment
}

// liveIn returns what is live in s.
func (l *Log) liveIn(s *segment) (entries []liveEntry, claims []liveClaim) {
	ix := l.ix
	epoch24 := s.epoch & (1<<24 - 1)
	const chunk = 512
	for from, more := uint32(1), true; more; from += chunk {
		ix.mu.Lock()
		more = from+chunk < ix.top
		for id := from; id < min(from+chunk, ix.top); id++ {
			slot := ix.slot(id)
			es := ix.view(slot)
			for i := range es {
				if e := &es[i]; e.epoch24() == epoch24 && !e.dead() {
					entries = append(entries, liveEntry{id, e.seq, e.offset, e.size, e.put})
				}
			}
			for _, c := range ix.claimView(slot) {
				if c.epoch == s.epoch {
					claims = append(claims, liveClaim{id, c.epoch, c.packet})
				}
			}
		}
		ix.mu.Unlock()
	}
	return entries, claims
}

var errStopping = errors.New("the log is closing")

// move reads the given entries, sorted by offset, and has them written again.
func (l *Log) move(s *segment, entries []liveEntry, claims []liveClaim) error {
	win := window{f: s.file, path: s.path}
	mv := &moves{claims: claims, done: make(chan error, 1)}
	bytes := 0
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].offset == entries[0].offset {
			n++
		}
		b, err := win.bytes(int64(entries[0].offset)-crcSize, crcSize+int(entries[0].size))
		if err != nil {
			return err
		}
		if len(b) < crcSize+int(entries[0].size) {
			return &CorruptError{File: s.path, Offset: int64(entries[0].offset), Reason: "the file ends within a record"}
		}
		// The checksum goes along unchecked: a damaged record must not block
		// the log, and stays recognizable as damaged.
		c := cursor{b: b}
		mv.records = append(mv.records, moveRecord{
			liveEntry: entries[0], crc: c.u32(), bytes: slices.Clone(b[crcSize:]), entries: entries[:n],
		})
		entries = entries[n:]
		if bytes += len(b) + opOverhead; bytes >= moveBytes {
			if err := l.submitMoves(mv, bytes); err != nil {
				return err
			}
			mv, bytes = &moves{done: mv.done}, 0
		}
	}
	return l.submitMoves(mv, bytes)
}

// submitMoves has mv committed and waits for it; then so long that the rate is
// kept, unless space is short.
func (l *Log) submitMoves(mv *moves, bytes int) error {
	start := time.Now()
	if l.stopping() || !l.queue.move(mv) {
		return errStopping
	}
	if err := <-mv.done; err != nil {
		return err
	}
	l.ix.mu.Lock()
	urgent := l.sparse(3, l.opts.slack+2)
	l.ix.mu.Unlock()
	pause := time.Duration(bytes)*time.Second/moveRate - time.Since(start)
	if urgent || pause <= 0 {
		return nil
	}
	select {
	case <-l.stop:
	case <-time.After(pause):
	}
	return nil
}

// move hands mv to the committer, unless the queue is closed.
func (q *queue) move(mv *moves) bool {
	q.mu.Lock()
	closed := q.closed
	if !closed {
		q.moves = mv
	}
	q.mu.Unlock()
	q.signal()
	return !closed
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
