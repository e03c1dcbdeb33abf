package inboxlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Problem is something wrong with the files of a log.
type Problem struct {
	File     string
	Offset   int64
	Text     string
	Harmless bool // nothing is lost by it
	Refused  bool // Open fails because of it
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
		} else if p.Refused {
			kind = "problem, the server does not start"
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
	if err := v.report.tryOpen(fs, dir); err != nil {
		return Report{}, err
	}
	return v.report, nil
}

// tryOpen does what Open does, as far as it changes nothing, and adds what that
// says: whether the log opens is for Open to decide.
func (r *Report) tryOpen(fs vfs.FS, dir string) error {
	err := openReadOnly(fs, dir)
	var corrupt *CorruptError
	if err == nil || !errors.As(err, &corrupt) {
		return err
	}
	for i := range r.Problems {
		if p := &r.Problems[i]; p.File == corrupt.File && p.Offset == corrupt.Offset && !p.Harmless {
			p.Refused = true
			return nil
		}
	}
	r.Problems = append(r.Problems, Problem{File: corrupt.File, Offset: corrupt.Offset, Text: corrupt.Reason, Refused: true})
	return nil
}

// openReadOnly returns the error that Open would fail with. It runs the same
// code, up to where that begins to change files.
func openReadOnly(fs vfs.FS, dir string) error {
	opts := Options{FS: fs, Dir: dir}
	opts.setDefaults()
	l := &Log{opts: opts, fs: fs, dir: dir, log: opts.Logger, ix: newIndex()}
	defer l.closeFiles()
	r := recovery{l: l}
	load := func(fs vfs.FS, dir string) (ok, damaged bool, err error) {
		l.state.facts, _, ok, damaged, err = readState(fs, dir)
		return ok, damaged, err
	}
	_, err := r.read(load, func(path string) (vfs.File, error) { return fs.Open(path) })
	return err
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
	broken    bool   // it has an intact frame with a record that is not
}

// repair reports whether Repair has to replace the segment.
func (f *verified) repair() bool { return f.damaged || f.senseless || f.broken }

// verifier reads a log as Open does, but goes on after damage.
type verifier struct {
	l      *Log // never started; its index counts what is live
	files  []*verified
	hints  map[uint32]bool
	report Report
	gaps   []gap
	synced position // the furthest that any frame claims was synced
	commit uint64   // the highest number so far
	state  bool     // the state file says something
}

func openVerifier(fs vfs.FS, dir string) (*verifier, error) {
	opts := Options{FS: fs, Dir: dir}
	opts.setDefaults()
	l := &Log{opts: opts, fs: fs, dir: dir, log: opts.Logger, ix: newIndex()}
	v := &verifier{l: l}
	hints, err := l.list()
	if err != nil {
		return nil, err
	}
	v.hints, v.report.Spares = hints, l.spares.count()
	var damaged bool
	if l.state.facts, _, v.state, damaged, err = readState(fs, dir); err != nil {
		return nil, err
	}
	v.synced = l.state.synced
	if damaged {
		v.problem(l.join(stateName), 0, "the state file is not intact; whether segments are missing cannot be told", true)
	}
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
	for v.state && len(found) > 0 && found[0].epoch < l.state.oldest {
		v.problem(found[0].path, 0, "the segment is not needed any more; the next start removes it", true)
		found = found[1:]
	}
	want := uint32(1)
	if v.state {
		want = l.state.oldest
	} else if len(found) > 0 {
		want = found[0].epoch
	}
	for _, s := range found {
		if s.epoch-want > maxMissing {
			return fmt.Errorf("%s does not belong here: move it elsewhere", s.path)
		}
		for ; want < s.epoch; want++ {
			v.missing(want)
		}
		want++
		f, err := l.fs.Open(s.path)
		if err != nil {
			return fmt.Errorf("open %s: %w", s.path, err)
		}
		s.file = f
		l.ix.segs = append(l.ix.segs, s)
		v.files = append(v.files, &verified{seg: s})
	}
	if v.state && len(found) == 0 {
		v.missing(want)
	}
	return nil
}

// missing adds a segment of which there is no file.
func (v *verifier) missing(epoch uint32) {
	lost := &segment{epoch: epoch, path: v.l.join(segmentName(epoch))}
	v.l.ix.segs = append(v.l.ix.segs, lost)
	v.files = append(v.files, &verified{seg: lost, missing: true})
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
	goesOn := true // the log, past the files so far
	for i := 0; i < len(v.files); i++ {
		sealed, err := v.verifyFile(i, goesOn, f)
		if err != nil {
			return err
		}
		goesOn = goesOn && sealed
		if goesOn && i == len(v.files)-1 && !v.files[i].missing {
			v.missing(v.files[i].seg.epoch + 1)
		}
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

// verifyFile verifies files[i]. goesOn: all before it are sealed. It reports
// whether the log goes on behind it.
func (v *verifier) verifyFile(i int, goesOn bool, f func(file *verified, h frameHeader, body []byte) error) (bool, error) {
	file := v.files[i]
	s := file.seg
	rep := SegmentReport{File: s.path, Epoch: s.epoch}
	defer func() { v.report.Segments = append(v.report.Segments, rep) }()
	file.commit = v.commit
	if file.missing {
		file.damaged = true
		v.gaps = append(v.gaps, gap{file, 0, "the segment is missing", 0})
		return true, nil
	}
	switch err := s.readHeader(); {
	case errors.Is(err, errBadHeader):
		v.gaps = append(v.gaps, gap{file, segmentHeaderSize, err.Error(), 0})
		if goesOn {
			r := recovery{l: v.l, state: v.state}
			file.damaged = r.needsHeader(i) != nil
		}
		return file.damaged, nil
	case err != nil:
		return false, err
	}
	file.header = true
	if err := v.verifySegment(file, &rep, f); err != nil {
		return false, err
	}
	return rep.Sealed, v.verifyLength(file, goesOn)
}

// verifyLength looks whether a segment of the log has been cut. What is behind
// the end of the log does not matter.
func (v *verifier) verifyLength(file *verified, goesOn bool) error {
	err := file.seg.checkLength(0)
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	if goesOn {
		file.damaged = true
		v.problem(corrupt.File, corrupt.Offset, corrupt.Reason, false)
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
				f.broken = true
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
	v.report.Problems = append(v.report.Problems, Problem{File: file, Offset: offset, Text: text, Harmless: harmless})
}

// judge tells damage from a torn tail, by the rule of Open: nothing before a
// position that was synced may be missing.
func (v *verifier) judge() {
	torn := false
	for _, g := range v.gaps {
		s := g.file.seg
		if g.file.damaged && !g.file.header || v.synced > at(s.epoch, g.offset) {
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
