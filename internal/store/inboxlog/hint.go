package inboxlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	hintMagic      = "hominght"
	hintHeaderSize = 48
	hintBlock      = 128 << 10 // bytes after which a block is closed
	hintBlockMax   = 64 << 20  // what a reader believes
)

// hintHeader is the header of a hint file, as specified in doc.go.
type hintHeader struct {
	commit uint64 // the highest number in the segment
	end    int64  // offset of the segment's seal
}

func (h *hintHeader) encode(s *segment) []byte {
	b := make([]byte, hintHeaderSize)
	le := binary.LittleEndian
	copy(b, hintMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], s.epoch)
	le.PutUint64(b[16:], s.salt)
	le.PutUint64(b[24:], h.commit)
	le.PutUint64(b[32:], uint64(h.end))
	putHeaderCRC(b)
	return b
}

// decode sets h from b and reports whether b belongs to s.
func (h *hintHeader) decode(b []byte, s *segment) bool {
	le := binary.LittleEndian
	if len(b) < hintHeaderSize || string(b[:8]) != hintMagic || le.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return false
	}
	h.commit, h.end = le.Uint64(b[24:]), int64(le.Uint64(b[32:]))
	v := le.Uint32(b[8:])
	return v >= 1 && v <= formatVersion && le.Uint32(b[12:]) == s.epoch && le.Uint64(b[16:]) == s.salt
}

// blockCRC is the checksum of block n of s's hint.
func blockCRC(b []byte, s *segment, n uint32) uint32 {
	return crc32.Update(s.key^(n+1), castagnoli, b)
}

// replayHint applies the hint of s instead of its frames. It reports false,
// having applied nothing, if the hint is not intact: it is only a short cut.
func (r *recovery) replayHint(s *segment) (bool, error) {
	path := r.l.join(hintName(s.epoch))
	f, err := r.l.fs.Open(path)
	if err != nil {
		return false, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	h, ok, err := readHint(f, path, s, nil)
	if err != nil {
		return false, err
	}
	if !ok {
		r.l.log.Warn("hint file is not intact, reading the segment instead", "file", path)
		return false, nil
	}
	var op diskOp
	_, _, err = readHint(f, path, s, func(block []byte, offset int64) error {
		c := cursor{b: block}
		for c.op(&op, 0, 0) {
			r.l.ix.replay(&op, s.epoch)
		}
		if c.bad {
			return &CorruptError{File: path, Offset: offset, Reason: "a block checks, but its ops make no sense"}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	r.commit = max(r.commit, h.commit)
	r.synced = max(r.synced, at(s.epoch, h.end))
	s.sealed, s.sealAt, s.commit, s.hinted = true, h.end, h.commit, true
	return true, nil
}

// readHint reads the hint of s in f and calls block, if not nil, for each
// block. ok is false if it is not intact; err is an error of reading.
func readHint(f vfs.File, path string, s *segment, block func(b []byte, offset int64) error) (h hintHeader, ok bool, err error) {
	win := window{f: f, path: path}
	b, err := win.bytes(0, hintHeaderSize)
	if err != nil || !h.decode(b, s) {
		return h, false, err
	}
	off := int64(hintHeaderSize)
	for n := uint32(0); ; n++ {
		b, err := win.bytes(off, 8)
		if err != nil || len(b) < 8 {
			return h, false, err
		}
		size, crc := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if size > hintBlockMax {
			return h, false, nil
		}
		b, err = win.bytes(off+8, int(size))
		if err != nil || len(b) < int(size) || blockCRC(b, s, n) != crc {
			return h, false, err
		}
		if size == 0 {
			return h, true, nil
		}
		if block != nil {
			if err := block(b, off); err != nil {
				return h, false, err
			}
		}
		off += 8 + int64(size)
	}
}

// hintWriter builds the hint of one segment.
type hintWriter struct {
	l     *Log
	seg   *segment
	f     vfs.File
	buf   []byte // the open block, with room for its head
	n     uint32 // of the open block
	err   error
	ident target
}

// writeHint writes the hint of a sealed segment: its ops without the records,
// and without the puts and claims that are of no effect any more. What made
// them so lies behind them in the log and must be durable before the hint is
// believed, so everything is synced before the hint gets its name.
func (l *Log) writeHint(s *segment) error {
	temp := l.join(hintName(s.epoch) + tempSuffix)
	f, err := l.fs.Create(temp, category)
	if err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	w := &hintWriter{l: l, seg: s, f: f}
	err = w.write()
	if err == nil {
		err = f.SyncData()
	}
	f.Close()
	if err == nil {
		err = l.syncAll()
	}
	if err == nil {
		err = l.fs.Rename(temp, l.join(hintName(s.epoch)))
	}
	if err != nil {
		_ = l.fs.Remove(temp)
		return fmt.Errorf("write hint of %s: %w", s.path, err)
	}
	return nil
}

func (w *hintWriter) write() error {
	h := hintHeader{commit: w.seg.commit, end: w.seg.sealAt}
	if _, err := w.f.Write(h.encode(w.seg)); err != nil {
		return err
	}
	w.buf = make([]byte, 8, hintBlock+windowSize)
	err := w.scan(func(sc *scanner, h *frameHeader, body []byte, frame int64) error {
		if h.typ != frameOps {
			return nil
		}
		w.l.ix.mu.Lock()
		err := sc.ops(h, body, frame, w.add)
		w.l.ix.mu.Unlock()
		if len(w.buf) >= hintBlock {
			w.flush()
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(w.buf) > 8 {
		w.flush()
	}
	w.flush() // the empty block at the end
	return w.err
}

// scan calls f for each frame of the segment, the seal included.
func (w *hintWriter) scan(f func(sc *scanner, h *frameHeader, body []byte, frame int64) error) error {
	sc := newScanner(w.seg)
	var h frameHeader
	for {
		frame := sc.pos
		body, ok, err := sc.next(&h)
		if err != nil {
			return err
		}
		if !ok {
			return &CorruptError{File: w.seg.path, Offset: frame, Reason: "a frame does not match its checksum, but was once synced"}
		}
		if err := f(sc, &h, body, frame); err != nil || h.typ == frameSeal {
			return err
		}
	}
}

// add appends what is left of op. Locked: index.mu.
func (w *hintWriter) add(op *diskOp) {
	ix := w.l.ix
	switch op.kind {
	case opPut, opMove:
		for i := range op.targets {
			t := &op.targets[i]
			if id := ix.lookup(t.client); id != 0 {
				s := ix.slot(id)
				e := ix.get(s, t.seq)
				if e != nil && e.offset == op.offset && e.epoch24() == w.seg.epoch&(1<<24-1) {
					// The flags as they were put: what set others follows.
					w.ident = *t
					w.ident.claim = false
					w.buf = appendRef(w.buf, &w.ident, op.put, op.offset, op.size, op.shared)
				}
			}
			if t.claim {
				w.addClaim(t.origin, t.packet)
			}
		}
	case opClaim:
		w.addClaim(op.client, op.packet)
	default:
		w.buf = appendSimple(w.buf, op.kind, op.client, op.seq, op.packet)
	}
}

func (w *hintWriter) addClaim(client []byte, packet uint16) {
	ix := w.l.ix
	id := ix.lookup(client)
	if id == 0 {
		return
	}
	cs := ix.claimView(ix.slot(id))
	if i := searchClaim(cs, packet); i < len(cs) && cs[i].packet == packet && cs[i].epoch == w.seg.epoch {
		w.buf = appendSimple(w.buf, opClaim, client, 0, packet)
	}
}

// flush writes the open block.
func (w *hintWriter) flush() {
	binary.LittleEndian.PutUint32(w.buf, uint32(len(w.buf)-8))
	binary.LittleEndian.PutUint32(w.buf[4:], blockCRC(w.buf[8:], w.seg, w.n))
	if w.err == nil {
		_, w.err = w.f.Write(w.buf)
	}
	w.buf = w.buf[:8]
	w.n++
}

// lookup returns the slot of a client ID, or 0.
func (ix *index) lookup(client []byte) uint32 {
	name := asString(client)
	return ix.find(ix.table.hash(name), name)
}
