package inboxlog

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Problem is something wrong with the files of a log.
type Problem struct {
	File   string
	Offset int64
	Text   string
	// Harmless: the log opens all the same.
	Harmless bool
}

func (p Problem) String() string { return fmt.Sprintf("%s: offset %d: %s", p.File, p.Offset, p.Text) }

// SegmentReport says what Check found in one segment.
type SegmentReport struct {
	File    string
	Epoch   uint32
	Frames  int
	Ops     int
	Records int   // of puts and moves, live or not
	End     int64 // offset of the seal, or where the log ends
	Sealed  bool
	Hint    string // "", "intact" or "not intact"
}

// Report is what Check found.
type Report struct {
	Segments []SegmentReport
	Spares   int
	Inboxes  int   // with entries or claims, going by the intact part
	Entries  int64 // live
	Problems []Problem
}

// OK reports whether the log opens and all of it can be read.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Problems, func(p Problem) bool { return !p.Harmless })
}

// String returns the report as lines of text.
func (r *Report) String() string {
	var b strings.Builder
	for _, s := range r.Segments {
		fmt.Fprintf(&b, "%s: %d frames, %d ops, %d records, ends at %d", s.File, s.Frames, s.Ops, s.Records, s.End)
		if s.Sealed {
			b.WriteString(", sealed")
		}
		if s.Hint != "" {
			fmt.Fprintf(&b, ", hint %s", s.Hint)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d segments, %d spares, %d inboxes, %d messages\n", len(r.Segments), r.Spares, r.Inboxes, r.Entries)
	for _, p := range r.Problems {
		kind := "problem"
		if p.Harmless {
			kind = "note"
		}
		fmt.Fprintf(&b, "%s: %s\n", kind, p)
	}
	return b.String()
}

// Check reads every byte of the log in dir that matters, changes nothing, and
// reports what it finds. The log must not be open. err says why it could not
// be read; damage is in the report.
func Check(fs vfs.FS, dir string) (Report, error) {
	v, err := openVerifier(fs, dir)
	if err != nil {
		return Report{}, err
	}
	defer v.close()
	if err := v.verify(nil); err != nil {
		return Report{}, err
	}
	return v.report, nil
}

// gap is a place where the chain of frames breaks.
type gap struct {
	file   *verified
	offset int64
	reason string
	resume int64 // offset of the next intact frame in the segment; 0: none
}

// verified is a segment under verification.
type verified struct {
	seg       *segment
	missing   bool   // there is no file
	header    bool   // it has an intact header
	commit    uint64 // the highest number before it
	damaged   bool   // a gap in it is damage, not a torn tail
	senseless bool   // it has an intact frame that Open would refuse
}

// verifier reads a log as Open does, but goes on after damage.
type verifier struct {
	l      *Log // never started; its index counts what is live
	files  []*verified
	hints  map[uint32]bool
	report Report
	gaps   []gap
	synced position // the furthest that any frame claims was synced
	commit uint64   // the highest number so far
}

func openVerifier(fs vfs.FS, dir string) (*verifier, error) {
	opts := Options{FS: fs, Dir: dir}
	opts.setDefaults()
	l := &Log{opts: opts, fs: fs, dir: dir, log: opts.Logger, ix: newIndex()}
	v := &verifier{l: l}
	hints, err := l.list()
	var corrupt *CorruptError // segments missing in between: verify finds out
	if err != nil && !errors.As(err, &corrupt) {
		return nil, err
	}
	v.hints, v.report.Spares = hints, l.spares.count()
	if err := v.openFiles(); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

// maxMissing is how many segments in a row may be missing.
const maxMissing = 1 << 16

// openFiles opens the segments and fills gaps between them.
func (v *verifier) openFiles() error {
	l := v.l
	found := l.ix.segs
	l.ix.segs = nil
	slices.SortFunc(found, func(a, b *segment) int { return cmp.Compare(a.epoch, b.epoch) })
	for i, s := range found {
		if i > 0 && s.epoch-found[i-1].epoch > maxMissing {
			return fmt.Errorf("%s does not belong here: move it elsewhere", s.path)
		}
		for i > 0 && l.ix.segs[len(l.ix.segs)-1].epoch+1 < s.epoch {
			epoch := l.ix.segs[len(l.ix.segs)-1].epoch + 1
			lost := &segment{epoch: epoch, path: l.join(segmentName(epoch))}
			l.ix.segs = append(l.ix.segs, lost)
			v.files = append(v.files, &verified{seg: lost, missing: true})
		}
		f, err := l.fs.Open(s.path)
		if err != nil {
			return fmt.Errorf("open %s: %w", s.path, err)
		}
		s.file = f
		l.ix.segs = append(l.ix.segs, s)
		v.files = append(v.files, &verified{seg: s})
	}
	return nil
}

func (v *verifier) close() {
	for _, f := range v.files {
		if f.seg.file != nil {
			f.seg.file.Close()
		}
	}
}

// verify reads all segments. f, if not nil, is called for every intact frame.
func (v *verifier) verify(f func(file *verified, h frameHeader, body []byte) error) error {
	for _, file := range v.files {
		s := file.seg
		rep := SegmentReport{File: s.path, Epoch: s.epoch}
		file.commit = v.commit
		err := errBadHeader
		if !file.missing {
			err = s.readHeader()
		}
		switch {
		case file.missing:
			v.gaps = append(v.gaps, gap{file, 0, "the segment is missing", 0})
		case errors.Is(err, errBadHeader):
			v.gaps = append(v.gaps, gap{file, segmentHeaderSize, "the segment's header does not match its checksum", 0})
		case err != nil:
			return err
		default:
			file.header = true
			if err := v.verifySegment(file, &rep, f); err != nil {
				return err
			}
		}
		v.report.Segments = append(v.report.Segments, rep)
	}
	v.judge()
	v.report.Entries = v.l.ix.entryN
	for id := uint32(1); id < v.l.ix.top; id++ {
		if s := v.l.ix.slot(id); s.count > 0 || s.nclaims > 0 {
			v.report.Inboxes++
		}
	}
	return nil
}

// verifySegment reads the frames of one segment, after gaps, too.
func (v *verifier) verifySegment(file *verified, rep *SegmentReport, f func(*verified, frameHeader, []byte) error) error {
	s := file.seg
	sc := newScanner(s)
	sc.commit = file.commit
	var h frameHeader
	for !rep.Sealed {
		frame := sc.pos
		body, ok, err := sc.next(&h)
		if err != nil {
			return err
		}
		rep.End = frame
		if !ok {
			g := gap{file, frame, "a frame does not match its checksum", 0}
			if g.resume, err = sc.resume(frame); err != nil {
				return err
			}
			v.gaps = append(v.gaps, g)
			if g.resume == 0 {
				break
			}
			sc.pos = g.resume
			continue
		}
		v.synced, v.commit = max(v.synced, h.synced), max(v.commit, h.commit)
		rep.Frames++
		rep.Sealed = h.typ == frameSeal
		if !v.verifyFrame(file, sc, &h, body, frame, rep) {
			continue
		}
		if f != nil {
			if err := f(file, h, body); err != nil {
				return err
			}
		}
	}
	if v.hints[s.epoch] {
		if err := v.verifyHint(s, rep); err != nil {
			return err
		}
	}
	return nil
}

// resume returns the offset of the next frame after from that may follow in
// the chain, or 0.
func (sc *scanner) resume(from int64) (int64, error) {
	next := int64(0)
	errFound := errors.New("found")
	_, err := sc.search(from+frameAlign, func(off int64, h *frameHeader, _ []byte) error {
		if h.commit < sc.commit {
			return nil
		}
		next = off
		return errFound
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return next, err
}

// verifyFrame checks what is in an intact frame and applies it. It reports
// whether it makes sense.
func (v *verifier) verifyFrame(f *verified, sc *scanner, h *frameHeader, body []byte, frame int64, rep *SegmentReport) bool {
	file := sc.seg.path
	if h.typ != frameOps {
		if h.typ != frameSeal && h.typ != frameMark {
			v.problem(file, frame, fmt.Sprintf("unknown type %d of frame", h.typ), false)
			f.senseless = true
			return false
		}
		return true
	}
	err := sc.ops(h, body, frame, func(op *diskOp) {
		rep.Ops++
		if op.kind == opPut || op.kind == opMove {
			rep.Records++
			if recordCRC(op.record) != op.crc {
				t := op.targets[0]
				v.problem(file, int64(op.offset), fmt.Sprintf("message %d of inbox %q does not match its checksum", t.seq, t.client), false)
			}
		}
		v.l.ix.replay(op, sc.seg.epoch)
	})
	if err != nil {
		v.problem(file, frame, "a frame checks, but its ops make no sense", false)
		f.senseless = true
	}
	return err == nil
}

func (v *verifier) verifyHint(s *segment, rep *SegmentReport) error {
	path := v.l.join(hintName(s.epoch))
	f, err := v.l.fs.Open(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	h, ok, err := readHint(f, path, s, nil)
	if err != nil {
		return err
	}
	rep.Hint = "intact"
	if !ok {
		rep.Hint = "not intact"
		v.problem(path, 0, "the hint is not intact; starting takes longer without it", true)
		return nil
	}
	v.synced, v.commit = max(v.synced, at(s.epoch, h.end)), max(v.commit, h.commit)
	return nil
}

func (v *verifier) problem(file string, offset int64, text string, harmless bool) {
	v.report.Problems = append(v.report.Problems, Problem{file, offset, text, harmless})
}

// judge tells damage from a torn tail, by the rule of Open: nothing before a
// position that was synced may be missing.
func (v *verifier) judge() {
	torn := false
	for _, g := range v.gaps {
		s := g.file.seg
		if v.synced > at(s.epoch, g.offset) {
			g.file.damaged = true
			text := g.reason
			if g.resume != 0 {
				text += fmt.Sprintf("; the next intact frame is at %d", g.resume)
			}
			v.problem(s.path, g.offset, text, false)
			continue
		}
		if !torn && g.resume != 0 {
			v.problem(s.path, g.offset, "the log ends here; what follows was never synced and will be dropped", true)
		}
		torn = true
	}
}
