package inboxlog

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// window reads a file through a buffer that slides forward.
type window struct {
	f    vfs.File
	path string
	buf  []byte
	off  int64 // in the file, of buf[0]
	eof  bool  // the file ends at the end of buf
}

const windowSize = 256 << 10

// bytes returns n bytes at off, or fewer if the file ends before. They are
// valid until the next call.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if off < w.off || off > w.off+int64(len(w.buf)) {
		w.buf, w.off, w.eof = w.buf[:0], off, false
	}
	if off+int64(n) > w.off+int64(len(w.buf)) && !w.eof {
		if err := w.slide(off, max(n, windowSize)); err != nil {
			return nil, err
		}
	}
	b := w.buf[off-w.off:]
	return b[:min(n, len(b))], nil
}

// slide makes buf start at off, which is in it or at its end, and hold n bytes.
func (w *window) slide(off int64, n int) error {
	keep := w.buf[off-w.off:]
	if cap(w.buf) < n {
		w.buf = append(make([]byte, 0, n), keep...)
	} else {
		w.buf = w.buf[:copy(w.buf, keep)]
	}
	w.off = off
	for len(w.buf) < n && !w.eof {
		m, err := w.f.ReadAt(w.buf[len(w.buf):n], w.off+int64(len(w.buf)))
		w.buf = w.buf[:len(w.buf)+m]
		if errors.Is(err, io.EOF) {
			w.eof = true
		} else if err != nil {
			return fmt.Errorf("read %s: %w", w.path, err)
		}
	}
	return nil
}

// scanner reads the frames of a segment whose header is known.
type scanner struct {
	seg    *segment
	win    window
	pos    int64  // of the next frame
	commit uint64 // of the last frame: numbers never fall
	op     diskOp
}

func newScanner(seg *segment) *scanner {
	return &scanner{seg: seg, win: window{f: seg.file, path: seg.path}, pos: segmentHeaderSize}
}

// frameAt returns the frame at offset off, and whether there is an intact one.
// err is an error of reading the file. body is valid until the next call.
func (sc *scanner) frameAt(off int64, h *frameHeader) (body []byte, ok bool, err error) {
	b, err := sc.win.bytes(off, frameHeaderSize)
	if err != nil || !h.parse(b, sc.seg.key, off) {
		return nil, false, err
	}
	if off+h.size() > sc.seg.size {
		return nil, false, nil
	}
	if b, err = sc.win.bytes(off, frameHeaderSize+int(h.length)); err != nil {
		return nil, false, err
	}
	body = b[frameHeaderSize:]
	if len(body) != int(h.length) || bodyCRC(body, sc.seg.key) != h.bodyCRC {
		return nil, false, nil
	}
	return body, true, nil
}

// next returns the next frame of the chain. ok is false where the chain ends:
// there is no intact frame at sc.pos, or one left over from a failed commit.
func (sc *scanner) next(h *frameHeader) (body []byte, ok bool, err error) {
	body, ok, err = sc.frameAt(sc.pos, h)
	if err != nil || !ok || h.commit < sc.commit {
		return nil, false, err
	}
	sc.commit = h.commit
	sc.pos += h.size()
	return body, true, nil
}

// ops calls f for each op of a frame's body. frame is the frame's offset.
func (sc *scanner) ops(h *frameHeader, body []byte, frame int64, f func(*diskOp)) error {
	c := cursor{b: body}
	for c.op(&sc.op, frame+frameHeaderSize, h.time/1000) {
		f(&sc.op)
	}
	if c.bad {
		return &CorruptError{File: sc.seg.path, Offset: frame, Reason: "a frame checks, but its ops make no sense"}
	}
	return nil
}

// stray is what is found after the end of the chain.
type stray struct {
	frames int
	first  int64    // offset of the first
	synced position // the furthest that one of them claims was synced
	commit uint64   // the highest
}

func (s *stray) add(o stray) {
	if s.frames == 0 {
		s.first = o.first
	}
	s.frames += o.frames
	s.synced = max(s.synced, o.synced)
	s.commit = max(s.commit, o.commit)
}

// search looks for intact frames anywhere from offset from on. f, if not nil,
// is called for each.
func (sc *scanner) search(from int64, f func(off int64, h *frameHeader, body []byte) error) (found stray, err error) {
	var h frameHeader
	for off := from; off+frameHeaderSize <= sc.seg.size; {
		if sc.win.eof && off+frameHeaderSize > sc.win.off+int64(len(sc.win.buf)) {
			break
		}
		body, ok, err := sc.frameAt(off, &h)
		if err != nil {
			return found, err
		}
		if !ok {
			off += frameAlign
			continue
		}
		found.add(stray{1, off, h.synced, h.commit})
		if f != nil {
			if err := f(off, &h, body); err != nil {
				return found, err
			}
		}
		off += h.size()
	}
	return found, nil
}
