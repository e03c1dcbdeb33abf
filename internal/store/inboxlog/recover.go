package inboxlog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// recover fills the index from the files of the log's directory, cuts a torn
// tail and sets the log up to go on writing. The reasoning is in doc.go.
func (l *Log) recover() error {
	r := recovery{l: l}
	end, err := r.read(l.state.load, func(path string) (vfs.File, error) { return l.fs.OpenReadWrite(path, category) })
	if err != nil {
		return err
	}
	l.opts.Clock.Resume(r.last(end))
	l.opts.fit(int64(l.ix.largest)) // or it could not be moved
	l.removeLeftovers()
	if err := r.settle(end); err != nil {
		return err
	}
	for id := uint32(1); id < l.ix.top; id++ {
		l.ix.free(id)
	}
	l.commit.number = r.commit
	l.segments.Store(int64(len(l.ix.segs)))
	for _, s := range l.ix.segs {
		l.ix.size += s.size
	}
	l.room.Store(l.tail.active.room(l.tail.end))
	return nil
}

// read finds the files of the log and applies them to the index, changing none:
// Check does the same. load and open give access to the state file and segments.
func (r *recovery) read(load func(vfs.FS, string) (ok, damaged bool, err error), open func(path string) (vfs.File, error)) (end, error) {
	l := r.l
	hints, err := l.list()
	if err != nil {
		return end{}, err
	}
	if l.opts.MustExist && len(l.ix.segs) == 0 {
		return end{}, &CorruptError{File: l.dir, Reason: NoSegments}
	}
	if r.state, r.stateLost, err = load(l.fs, l.dir); err != nil {
		return end{}, err
	}
	if err := r.setAside(); err != nil {
		return end{}, err
	}
	for _, s := range l.ix.segs {
		if s.file, err = open(s.path); err != nil {
			return end{}, fmt.Errorf("open %s: %w", s.path, err)
		}
	}
	return r.replay(hints)
}

// setAside takes the segments that are not needed any more out of the list and
// looks for those that are missing.
func (r *recovery) setAside() error {
	segs := r.l.ix.segs
	first := uint32(0)
	if len(segs) > 0 {
		first = segs[0].epoch
	}
	if r.state {
		first = r.l.state.oldest
		r.synced = r.l.state.synced
		n := 0
		for n < len(segs) && segs[n].epoch < first {
			n++ // a crash came between disowning it and taking it away
		}
		r.done, segs = segs[:n], segs[n:]
		r.l.ix.segs = segs
		if len(segs) == 0 {
			return r.missing(first, "it must be there, as all of the log's messages are in it and those after it")
		}
	}
	for i, s := range segs {
		if want := first + uint32(i); s.epoch != want {
			return r.missing(want, "")
		}
	}
	return nil
}

// missing is the error for a segment that is not there.
func (r *recovery) missing(epoch uint32, why string) error {
	reason := "the segment is missing"
	if why != "" {
		reason += ": " + why
	}
	return &CorruptError{File: r.l.join(segmentName(epoch)), Reason: reason}
}

// list finds the segments, hints and spares, and what nobody needs.
func (l *Log) list() (hints map[uint32]bool, err error) {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.dir, err)
	}
	hints = map[uint32]bool{}
	var leftovers []string
	segs := map[uint32]bool{}
	for _, name := range names {
		if n, ok := parseName(name, "", segmentSuffix); ok {
			l.ix.segs = append(l.ix.segs, &segment{epoch: uint32(n), path: l.join(name)})
			segs[uint32(n)] = true
		} else if n, ok := parseName(name, "", hintSuffix); ok {
			hints[uint32(n)] = true
		} else if n, ok := parseName(name, sparePrefix, ""); ok {
			l.spares.next = max(l.spares.next, n+1)
			fi, err := l.fs.Stat(l.join(name))
			if err == nil && fi.Size() <= l.opts.SegmentSize && l.wantsSpare() {
				l.spares.add(l.join(name), fi.Size())
			} else {
				leftovers = append(leftovers, name)
			}
		} else if isTemp(name) {
			leftovers = append(leftovers, name)
		}
	}
	for n := range hints {
		if !segs[n] {
			leftovers = append(leftovers, hintName(n))
			delete(hints, n)
		}
	}
	slices.SortFunc(l.ix.segs, func(a, b *segment) int { return cmp.Compare(a.epoch, b.epoch) })
	l.leftovers = leftovers
	return hints, nil
}

// removeLeftovers removes what list found to be of no use.
func (l *Log) removeLeftovers() {
	for _, name := range l.leftovers {
		if err := l.fs.Remove(l.join(name)); err != nil {
			l.log.Warn("cannot remove a file left over", "file", l.join(name), "error", err)
		}
	}
	l.leftovers = nil
}

// recovery is the state of reading the log from its start.
type recovery struct {
	l      *Log
	synced position // the furthest that a frame claims was synced
	commit uint64   // the highest number seen
	time   int64    // of the last frame; 0: there is none
	torn   stray    // intact frames behind a torn tail

	state     bool       // the state file says something
	stateLost bool       // it is there, and says nothing
	done      []*segment // that are not needed any more
}

// end is where the log ends: in segs[index], at offset. Without a header the
// segment there was never ready. index == len(segs): there is none.
type end struct {
	index  int
	offset int64
	header bool
}

// replay applies the log to the index up to its end.
func (r *recovery) replay(hints map[uint32]bool) (end, error) {
	segs := r.l.ix.segs
	for i := range segs {
		e := end{i, segmentHeaderSize, false}
		goesOn, err := r.replayFile(&e, hints)
		if err != nil {
			return end{}, err
		}
		if !goesOn {
			return e, r.check(e, hints)
		}
	}
	if len(segs) == 0 {
		return end{}, nil
	}
	return end{}, r.missing(segs[len(segs)-1].epoch+1, "the one before it is sealed, and the next is ready before that happens")
}

// replayFile applies segment e.index. It reports whether the log goes on in the
// next; otherwise it completes e.
func (r *recovery) replayFile(e *end, hints map[uint32]bool) (goesOn bool, err error) {
	s := r.l.ix.segs[e.index]
	if err := s.readHeader(); errors.Is(err, errBadHeader) {
		return false, r.needsHeader(e.index)
	} else if err != nil {
		return false, err
	}
	e.header = true
	if hints[s.epoch] {
		if ok, err := r.replayHint(s); err != nil || ok {
			if err == nil {
				err = s.checkLength(s.sealAt + sealSize)
			}
			return ok, err
		}
	}
	if e.offset, goesOn, err = r.replaySegment(s); err != nil {
		return false, err
	}
	if goesOn {
		s.sealed, s.sealAt, s.commit = true, e.offset, r.commit
	}
	return goesOn, s.checkLength(0)
}

// needsHeader returns the error for segment i, which has no intact header,
// unless it is one that a crash has left while the log was made: the first of
// all, with nothing written to it.
func (r *recovery) needsHeader(i int) error {
	s := r.l.ix.segs[i]
	damage := &CorruptError{File: s.path, Reason: "the segment's header does not match its checksum"}
	if i > 0 || r.state || s.epoch != 1 {
		return damage
	}
	win := window{f: s.file, path: s.path}
	for off := int64(segmentHeaderSize); ; off += windowSize {
		b, err := win.bytes(off, windowSize)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			return damage
		}
		if len(b) < windowSize {
			return nil
		}
	}
}

// replaySegment applies the frames of s. It returns where their chain ends and
// whether that is at a seal.
func (r *recovery) replaySegment(s *segment) (offset int64, sealed bool, err error) {
	sc := newScanner(s)
	sc.commit = r.commit
	var h frameHeader
	for {
		frame := sc.pos
		body, ok, err := sc.next(&h)
		if err != nil || !ok {
			return frame, false, err
		}
		r.commit, r.synced = sc.commit, max(r.synced, h.synced)
		r.saw(&h)
		switch h.typ {
		case frameOps:
			if err := sc.ops(&h, body, frame, func(op *diskOp) { r.l.ix.replay(op, s.epoch) }); err != nil {
				return 0, false, err
			}
		case frameSeal:
			return frame, true, nil
		case frameMark:
		default:
			return 0, false, &CorruptError{File: s.path, Offset: frame, Reason: fmt.Sprintf("unknown type %d of frame", h.typ)}
		}
	}
}

// saw takes the time of an intact frame. One that repair has made may have none.
func (r *recovery) saw(h *frameHeader) {
	if h.time > 0 {
		r.time = h.time
	}
}

// last is the last time in the log, Unix ms: what the server's time goes on
// from; 0: there is none. It is that of the last frame and not the highest: a
// log of an earlier version is dated by the wall clock.
func (r *recovery) last(e end) int64 {
	if r.time == 0 && e.index < len(r.l.ix.segs) && e.header {
		return r.l.ix.segs[e.index].made
	}
	return r.time
}

// check tells a torn tail from damage: nothing that was ever synced may lie
// behind the end of the chain.
func (r *recovery) check(e end, hints map[uint32]bool) error {
	segs := r.l.ix.segs
	if e.header {
		found, err := newScanner(segs[e.index]).search(e.offset, nil)
		if err != nil {
			return err
		}
		r.torn.add(found)
	}
	for _, s := range segs[e.index+1:] {
		if err := s.readHeader(); errors.Is(err, errBadHeader) {
			continue
		} else if err != nil {
			return err
		}
		found, err := newScanner(s).search(segmentHeaderSize, nil)
		if err != nil {
			return err
		}
		r.torn.add(found)
		if hints[s.epoch] {
			// A hint is published after its segment was synced.
			r.torn.synced = max(r.torn.synced, at(s.epoch, segmentHeaderSize))
		}
	}
	r.commit = max(r.commit, r.torn.commit)
	s := segs[e.index]
	if max(r.synced, r.torn.synced) <= at(s.epoch, e.offset) {
		return nil
	}
	reason := "a frame does not match its checksum, but was once synced"
	if !e.header {
		reason = "the segment's header does not match its checksum"
	}
	return &CorruptError{File: s.path, Offset: e.offset, Reason: reason}
}

// settle drops everything behind the end and makes the rest durable: after a
// kill it may be in the kernel's memory only.
func (r *recovery) settle(e end) error {
	l := r.l
	keep := e.index
	if e.index < len(l.ix.segs) {
		if e.header {
			keep++
		}
		if r.torn.frames > 0 {
			l.log.Warn("unsynced end of the inbox log cut after a crash", "file", l.ix.segs[e.index].path,
				"offset", e.offset, "frames_dropped", r.torn.frames)
		}
	}
	for _, s := range r.done {
		if err := l.toSpare(s); err != nil {
			return err
		}
	}
	for n := len(l.ix.segs); n > keep; n-- { // the last first: there must never be a gap
		s := l.ix.segs[n-1]
		if err := l.toSpare(s); err != nil {
			return err
		}
		l.ix.segs = l.ix.segs[:n-1]
	}
	for _, s := range l.ix.segs {
		if s.sealed {
			l.ix.sealed += s.sealAt - segmentHeaderSize
		}
		if s.hinted {
			continue
		}
		if err := s.file.SyncData(); err != nil {
			return l.fail(s.path, err)
		}
	}
	if err := l.syncDir(); err != nil {
		return err
	}
	if e.index < len(l.ix.segs) {
		l.tail.active, l.tail.end = l.ix.segs[e.index], e.offset
	} else {
		l.prep.urgent.Store(true)
		s, err := l.newSegment(1)
		if err != nil {
			return err
		}
		l.prep.urgent.Store(false)
		l.ix.segs = append(l.ix.segs, s)
		l.tail.active, l.tail.end = s, segmentHeaderSize
	}
	l.durable.Store(uint64(at(l.tail.active.epoch, l.tail.end)))
	return r.settleState()
}

// settleState makes the state file if it has to be there and is not.
func (r *recovery) settleState() error {
	l := r.l
	if r.state || l.tail.active.version < fullLength {
		return nil
	}
	if r.stateLost || l.tail.end > segmentHeaderSize || len(l.ix.segs) > 1 {
		l.log.Warn("the state file of the inbox log was not there or not intact, and is made anew: whether segments are missing could not be told",
			"file", l.join(stateName))
	}
	l.state.begin(l, l.tail.active.epoch)
	return nil
}

// replay applies an op read from the segment with the given epoch. Inboxes are
// made for what needs them; the empty ones are freed at the end.
func (ix *index) replay(op *diskOp, epoch uint32) {
	switch op.kind {
	case opPut, opMove, opRef:
		ix.largest = max(ix.largest, op.size)
		for i := range op.targets {
			t := &op.targets[i]
			e := entry{
				seq: t.seq, expiry: t.expiry, offset: op.offset, size: op.size, put: uint32(op.put),
				where: whereOf(epoch, t.flags),
			}
			if op.shared {
				e.where |= entryShared
			}
			ix.insert(ix.make(asString(t.client)), e)
			if t.claim {
				ix.claim(ix.make(asString(t.origin)), t.packet, epoch)
			}
		}
	case opClaim:
		ix.claim(ix.make(asString(op.client)), op.packet, epoch)
	default:
		name := asString(op.client)
		if id := ix.find(ix.table.hash(name), name); id != 0 {
			ix.applySimple(op.kind, id, op.seq, op.packet, epoch)
		}
	}
}

// toSpare takes a segment that nothing needs out of the directory, durably,
// and keeps the file for later if there are not enough already. After an error
// it may be called again.
func (l *Log) toSpare(s *segment) error {
	if !s.renamed {
		if err := l.fs.Remove(l.join(hintName(s.epoch))); err != nil && !isNotExist(err) {
			return fmt.Errorf("remove %s: %w", l.join(hintName(s.epoch)), err)
		}
		path := l.join(l.spares.newName())
		if err := l.fs.Rename(s.path, path); err != nil {
			return fmt.Errorf("rename %s: %w", s.path, err)
		}
		s.path, s.renamed = path, true
	}
	if err := l.syncDir(); err != nil {
		return err
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	fi, err := l.fs.Stat(s.path)
	if err == nil && fi.Size() <= l.opts.SegmentSize && l.wantsSpare() {
		l.spares.add(s.path, fi.Size())
		return nil
	}
	if err := l.fs.Remove(s.path); err != nil {
		l.log.Warn("cannot remove a segment of the inbox log that nothing needs; the next start does", "file", s.path, "error", err)
	}
	return nil
}

// wantsSpare reports whether there is room for one more spare.
func (l *Log) wantsSpare() bool {
	n := int64(l.spares.count())
	if l.disk.short.Load() && n >= keptSpares {
		return false
	}
	if l.opts.DiskLimit > 0 && (l.segments.Load()+n)*l.opts.SegmentSize > l.opts.DiskLimit {
		return false
	}
	return n < maxSpares
}
