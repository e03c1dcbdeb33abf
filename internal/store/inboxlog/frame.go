package inboxlog

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	formatVersion = 4 // of what is written; older ones are read, too

	frameHeaderSize = 40
	frameAlign      = 8
	frameMagic      = 0x7168 // "hq"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// position is a place in the log: the segment's epoch << 32 | offset in it.
type position uint64

func at(epoch uint32, offset int64) position { return position(epoch)<<32 | position(offset) }

type frameType uint8

const (
	frameOps  frameType = 1 // the body is one or more ops
	frameSeal frameType = 2 // no body; the log goes on in the next segment
	frameMark frameType = 3 // no body; only its synced position matters
)

// frameHeader is the header of a frame, as specified in doc.go.
type frameHeader struct {
	typ     frameType
	length  uint32 // of the body without padding
	bodyCRC uint32
	commit  uint64
	synced  position
	time    int64 // Unix ms
}

// size returns the bytes the whole frame takes.
func (h *frameHeader) size() int64 { return frameSize(int(h.length)) }

func frameSize(body int) int64 {
	return (frameHeaderSize + int64(body) + frameAlign - 1) &^ (frameAlign - 1)
}

// put writes h to b for a frame at offset of the segment with the given key.
func (h *frameHeader) put(b []byte, key uint32, offset int64) {
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.length)
	le.PutUint32(b[8:], h.bodyCRC)
	le.PutUint16(b[12:], frameMagic)
	b[14], b[15] = byte(h.typ), 0
	le.PutUint64(b[16:], h.commit)
	le.PutUint64(b[24:], uint64(h.synced))
	le.PutUint64(b[32:], uint64(h.time))
	le.PutUint32(b[0:], headerCRC(b, key, offset))
}

// parse sets h from b and reports whether b starts with an intact frame header
// written at offset of the segment with the given key.
func (h *frameHeader) parse(b []byte, key uint32, offset int64) bool {
	le := binary.LittleEndian
	if len(b) < frameHeaderSize || le.Uint16(b[12:]) != frameMagic || b[15] != 0 {
		return false
	}
	if le.Uint32(b) != headerCRC(b, key, offset) {
		return false
	}
	h.length = le.Uint32(b[4:])
	h.bodyCRC = le.Uint32(b[8:])
	h.typ = frameType(b[14])
	h.commit = le.Uint64(b[16:])
	h.synced = position(le.Uint64(b[24:]))
	h.time = int64(le.Uint64(b[32:]))
	return true
}

// headerCRC covers the header after itself and, through the initial state, the
// segment and the place in it: a frame found anywhere else does not check.
func headerCRC(b []byte, key uint32, offset int64) uint32 {
	return crc32.Update(key^uint32(offset), castagnoli, b[4:frameHeaderSize])
}

func bodyCRC(body []byte, key uint32) uint32 { return crc32.Update(key, castagnoli, body) }

func recordCRC(record []byte) uint32 { return crc32.Checksum(record, castagnoli) }

// encoder collects the frames of one commit.
type encoder struct {
	buf  []byte
	open int // start of the open frame in buf; -1: none is open

	key  uint32 // of the segment
	base int64  // offset in the segment that buf[0] will have
	head frameHeader
}

// reset starts a commit at offset base of seg. head gives the frames' commit,
// synced and time.
func (e *encoder) reset(seg *segment, base int64, head frameHeader) {
	if cap(e.buf) > 2*maxCommit {
		e.buf = nil
	}
	e.buf, e.open, e.key, e.base, e.head = e.buf[:0], -1, seg.key, base, head
}

// begin makes sure that a frame is open and not too long already.
func (e *encoder) begin() {
	if e.open >= 0 && len(e.buf)-e.open >= frameHeaderSize+frameTarget {
		e.finish()
	}
	if e.open < 0 {
		e.open = len(e.buf)
		e.buf = append(e.buf, make([]byte, frameHeaderSize)...)
	}
}

// finish closes the open frame, if any.
func (e *encoder) finish() {
	if e.open >= 0 {
		e.close(frameOps)
	}
}

// bare appends a frame without body.
func (e *encoder) bare(typ frameType) {
	e.finish()
	e.open = len(e.buf)
	e.buf = append(e.buf, make([]byte, frameHeaderSize)...)
	e.close(typ)
}

func (e *encoder) close(typ frameType) {
	frame := e.buf[e.open:]
	h := e.head
	h.typ = typ
	h.length = uint32(len(frame) - frameHeaderSize)
	h.bodyCRC = bodyCRC(frame[frameHeaderSize:], e.key)
	h.put(frame, e.key, e.base+int64(e.open))
	for len(e.buf)%frameAlign != 0 {
		e.buf = append(e.buf, 0)
	}
	e.open = -1
}
