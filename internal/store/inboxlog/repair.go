package inboxlog

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Repair makes the log in dir open again. Each damaged segment is kept in the
// directory bad, as it is, and replaced by one with every frame of it that
// still checks; one that is missing is replaced by an empty one. It returns
// what it did and what may be lost, one line each. A log without damage is not
// touched. The log must not be open.
func Repair(fs vfs.FS, dir, bad string) (did []string, err error) {
	v, err := openVerifier(fs, dir)
	if err != nil {
		return nil, err
	}
	defer v.close()
	if err := v.verify(nil); err != nil {
		return nil, err
	}
	first := v.report
	for i, file := range v.files {
		if !file.damaged && !file.senseless {
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
	if len(did) > 0 {
		if err := v.l.syncDir(); err != nil {
			return did, err
		}
	}
	return did, nil
}

// repairSegment replaces segment i. The original is linked into bad before the
// replacement takes its name, so at no time it has none.
func (v *verifier) repairSegment(i int, bad string) (string, error) {
	old := v.files[i].seg
	l := v.l
	s := &segment{epoch: old.epoch, version: formatVersion, salt: rand.Uint64(), made: old.made, path: l.join(segmentName(old.epoch) + tempSuffix)}
	s.key = segmentKey(s.salt, s.epoch)
	s.size = max(old.size, l.opts.SegmentSize)
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

// salvage writes s, sealed, with the frames of file that make sense.
func (v *verifier) salvage(file *verified, s *segment) (frames, ops int, err error) {
	if _, err := s.file.WriteAt(s.header(), 0); err != nil {
		return 0, 0, err
	}
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
			frames++
			return write(h, frameOps, body)
		})
		if err != nil {
			return 0, 0, err
		}
		ops = rep.Ops
	}
	if err := write(last, frameSeal, nil); err != nil {
		return 0, 0, err
	}
	return frames, ops, s.file.Sync()
}
