package inboxlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Repair makes the log in dir open again. Each damaged segment is kept in the
// directory bad, as it is, and replaced by one with every frame of it that
// still checks; one that is missing is replaced by an empty one. It returns
// what it did and what may be lost, one line each. A log without damage is not
// touched. The log must not be open.
func Repair(fs vfs.FS, dir, bad string) (did []string, err error) {
	if did, err = putBack(fs, dir); err != nil {
		return did, err
	}
	v, err := openVerifier(fs, dir)
	if err != nil {
		return did, err
	}
	defer v.close()
	if err := v.verify(nil); err != nil {
		return did, err
	}
	if !slices.ContainsFunc(v.files, (*verified).repair) {
		return did, openReadOnly(fs, dir)
	}
	if _, err := FreeSpares(fs, dir); err != nil { // the room is needed, and they are not
		return did, err
	}
	first := v.report
	for i, file := range v.files {
		if !file.repair() {
			continue
		}
		line, err := v.repairSegment(i, bad)
		if err != nil {
			return did, err
		}
		did = append(did, line)
	}
	for _, p := range first.Problems {
		if !p.Harmless {
			did = append(did, "reason: "+p.String())
		}
	}
	if err := v.l.syncDir(); err != nil {
		return did, err
	}
	if err := openReadOnly(fs, dir); err != nil {
		return did, fmt.Errorf("what could be repaired is, but the log still does not open: %w", err)
	}
	return did, nil
}

// putBack gives segments that somebody has renamed the names they had: their
// header says which, and nothing has that name.
func putBack(fs vfs.FS, dir string) (did []string, err error) {
	v, err := openVerifier(fs, dir)
	if err != nil {
		return nil, err
	}
	defer v.close()
	files := map[uint32]*verified{}
	for _, f := range v.files {
		files[f.seg.epoch] = f
	}
	for _, f := range v.files {
		if f.missing || !errors.Is(f.seg.readHeader(), errBadHeader) {
			continue
		}
		// A recycled file may have the header of its life before: then the
		// segment of that name is not missing, but freed.
		epoch := f.seg.headerEpoch()
		if gone := files[epoch]; gone == nil || !gone.missing {
			continue
		}
		to := v.l.join(segmentName(epoch))
		if err := fs.Rename(f.seg.path, to); err != nil {
			return did, fmt.Errorf("rename %s: %w", f.seg.path, err)
		}
		files[epoch].missing = false
		did = append(did, fmt.Sprintf("renamed %s to %s: its header says so", f.seg.path, to))
	}
	if len(did) == 0 {
		return nil, nil
	}
	return did, v.l.syncDir()
}

// repairSegment replaces segment i. The original is linked into bad before the
// replacement takes its name, so at no time it has none. Replacements are
// sealed; what follows the last one is a new segment, made first.
func (v *verifier) repairSegment(i int, bad string) (string, error) {
	old := v.files[i].seg
	l := v.l
	if i == len(v.files)-1 {
		if err := v.makeLast(old.epoch+1, old.made); err != nil {
			return "", err
		}
	}
	s := &segment{epoch: old.epoch, version: formatVersion, salt: rand.Uint64(), made: old.made, path: l.join(segmentName(old.epoch) + tempSuffix)}
	s.key = segmentKey(s.salt, s.epoch)
	var err error
	if s.file, err = l.fs.Create(s.path, category); err != nil {
		return "", fmt.Errorf("create %s: %w", s.path, err)
	}
	defer s.file.Close()
	frames, ops, err := v.salvage(v.files[i], s)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", s.path, err)
	}
	where := "it was not there"
	if !v.files[i].missing {
		kept, err := v.keep(old.path, bad)
		if err != nil {
			return "", err
		}
		where = "the damaged one is kept as " + kept
	}
	if err := l.fs.Remove(l.join(hintName(old.epoch))); err != nil && !isNotExist(err) {
		return "", fmt.Errorf("remove %s: %w", l.join(hintName(old.epoch)), err)
	}
	if err := l.fs.Rename(s.path, old.path); err != nil {
		return "", fmt.Errorf("rename %s: %w", s.path, err)
	}
	return fmt.Sprintf("replaced %s by one with the %d frames (%d ops) of it that check; %s; "+
		"messages in the other frames are lost, and acknowledged ones may be sent again", old.path, frames, ops, where), nil
}

// makeLast makes an empty segment for the log to go on in.
func (v *verifier) makeLast(epoch uint32, made int64) error {
	l := v.l
	temp, path := l.join(segmentName(epoch)+tempSuffix), l.join(segmentName(epoch))
	s := &segment{epoch: epoch, version: formatVersion, salt: rand.Uint64(), size: l.opts.SegmentSize, made: made, path: temp}
	var err error
	if s.file, err = l.fs.Create(temp, category); err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	defer s.file.Close()
	if err := s.writeHeader(l); err != nil {
		return err
	}
	if err := l.fs.Rename(temp, path); err != nil {
		return fmt.Errorf("rename %s: %w", temp, err)
	}
	return l.syncDir()
}

// keep links or copies the file at path into the directory bad, durably.
func (v *verifier) keep(path, bad string) (string, error) {
	fs := v.l.fs
	if err := MakeDir(fs, bad); err != nil {
		return "", err
	}
	to := fs.PathJoin(bad, fmt.Sprintf("%s-%d", fs.PathBase(path), time.Now().UnixNano()))
	if fs.Link(path, to) != nil {
		if err := vfs.Copy(fs, path, to); err != nil {
			return "", fmt.Errorf("copy %s to %s: %w", path, to, err)
		}
	}
	d, err := fs.OpenDir(bad)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", bad, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return "", fmt.Errorf("sync %s: %w", bad, err)
	}
	return to, nil
}

// salvage writes s, sealed, with the frames of file that make sense, without
// the records in them that do not check.
func (v *verifier) salvage(file *verified, s *segment) (frames, ops int, err error) {
	s.size = maxSegmentSize // until it is known
	var enc encoder
	pos := int64(segmentHeaderSize)
	last := frameHeader{commit: file.commit, time: s.made} // not the wall clock's time: see clock.Resume
	write := func(h frameHeader, typ frameType, body []byte) error {
		enc.reset(s, pos, h)
		if typ == frameOps {
			enc.begin()
			enc.buf = append(enc.buf, body...)
			enc.finish()
		} else {
			enc.bare(typ)
		}
		_, err := s.file.WriteAt(enc.buf, pos)
		pos += int64(len(enc.buf))
		return err
	}
	if file.header {
		one := &verifier{l: &Log{ix: newIndex()}}
		one.l.ix.segs = []*segment{file.seg}
		var rep SegmentReport
		err := one.verifySegment(file, &rep, func(_ *verified, h frameHeader, body []byte) error {
			last = h
			if h.typ != frameOps {
				return nil
			}
			body, n := intact(body)
			if n == 0 {
				return nil
			}
			frames++
			ops += n
			return write(h, frameOps, body)
		})
		if err != nil {
			return 0, 0, err
		}
	}
	if err := write(last, frameSeal, nil); err != nil {
		return 0, 0, err
	}
	s.size = pos
	if _, err := s.file.WriteAt(s.header(), 0); err != nil {
		return 0, 0, err
	}
	return frames, ops, s.file.Sync()
}

// intact returns body, which makes sense, without the puts and moves whose
// record does not match its checksum, and how many ops are left.
func intact(body []byte) (_ []byte, n int) {
	c := cursor{b: body}
	var op diskOp
	var good []byte
	for start := 0; c.op(&op, 0, 0); start = c.pos {
		if (op.kind == opPut || op.kind == opMove) && recordCRC(op.record) != op.crc {
			continue
		}
		good = append(good, body[start:c.pos]...)
		n++
	}
	return good, n
}
