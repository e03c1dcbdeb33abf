package inboxlog

import (
	"encoding/binary"

	"github.com/homing-mq/homing/internal/mq"
)

// opKind is the first byte of an op on disk.
type opKind uint8

const (
	opPut        opKind = 1
	opMove       opKind = 2
	opAck        opKind = 3
	opSent       opKind = 4
	opReceived   opKind = 5
	opClear      opKind = 6
	opClaim      opKind = 7
	opRelease    opKind = 8
	opReleaseAll opKind = 9
	opRef        opKind = 10 // in hint files only: a put or move without its record
)

// Kinds of mq.Op used inside this package only; never written.
const (
	kindNone   mq.OpKind = 0    // an op that was given up
	kindForget mq.OpKind = 0xF0 // Forget; Seq is the slot's generation
	kindTold   mq.OpKind = 0xF1 // Done has told of failed puts; Seq is the number of the failure
)

// flagClaim marks, in the flags byte of a target on disk, that a claim follows.
const flagClaim = 0x80

// flagMask are the bits of mq.Flags that are stored.
const flagMask = mq.FlagQoS | mq.FlagKeep | mq.FlagSent | mq.FlagReceived

// target is one (inbox, entry) of a put or move.
type target struct {
	client []byte
	seq    uint64
	expiry int64 // Unix ms; 0: none
	flags  mq.Flags
	claim  bool
	origin []byte // with claim: who claims
	packet uint16
}

// diskOp is an op as decoded. Its slices alias the frame and are valid until
// the next one is decoded.
type diskOp struct {
	kind   opKind
	client []byte // not of put and move
	seq    uint64
	packet uint16

	// Of put, move and ref.
	put     int64 // Unix seconds
	targets []target
	offset  uint32 // of the record in its segment
	size    uint32
	shared  bool // the record belongs to several entries
	crc     uint32
	record  []byte // nil for ref
}

func appendClient(b, client []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(client)))
	return append(b, client...)
}

// appendSimple appends one of the ops that have a client and a number only.
func appendSimple(b []byte, kind opKind, client []byte, seq uint64, packet uint16) []byte {
	b = append(b, byte(kind))
	b = appendClient(b, client)
	switch kind {
	case opClaim, opRelease:
		b = binary.LittleEndian.AppendUint16(b, packet)
	case opReleaseAll:
	default:
		b = binary.AppendUvarint(b, seq)
	}
	return b
}

func appendTarget(b []byte, t *target) []byte {
	flags := byte(t.flags & flagMask)
	if t.claim {
		flags |= flagClaim
	}
	b = append(b, flags)
	b = appendClient(b, t.client)
	b = binary.AppendUvarint(b, t.seq)
	b = binary.AppendUvarint(b, uint64(t.expiry))
	if t.claim {
		b = appendClient(b, t.origin)
		b = binary.LittleEndian.AppendUint16(b, t.packet)
	}
	return b
}

// appendPut appends a put (put == 0) or a move of what was put at Unix second
// put. The record's place is the end of the returned slice minus its length.
func appendPut(b []byte, put int64, targets []target, record []byte, crc uint32) []byte {
	if put == 0 {
		b = append(b, byte(opPut))
	} else {
		b = append(b, byte(opMove))
		b = binary.AppendUvarint(b, uint64(put))
	}
	b = binary.AppendUvarint(b, uint64(len(targets)))
	for i := range targets {
		b = appendTarget(b, &targets[i])
	}
	b = binary.AppendUvarint(b, uint64(len(record)))
	b = binary.LittleEndian.AppendUint32(b, crc)
	return append(b, record...)
}

// appendRef appends the hint form of a put or move with one target.
func appendRef(b []byte, t *target, put int64, offset, size uint32, shared bool) []byte {
	b = append(b, byte(opRef))
	b = appendTarget(b, t)
	b = binary.AppendUvarint(b, uint64(put))
	b = binary.AppendUvarint(b, uint64(offset))
	b = binary.AppendUvarint(b, uint64(size))
	if shared {
		return append(b, 1)
	}
	return append(b, 0)
}

// Upper bounds of encoded sizes in bytes, without the record.
const (
	simpleSize = 1 + 3 + binary.MaxVarintLen64
	targetSize = 1 + 3 + 2*binary.MaxVarintLen64 + 3 + 2
	putSize    = 1 + 3*binary.MaxVarintLen64 + 4
)

// cursor reads fields; after the first that is not there it stays bad.
type cursor struct {
	b   []byte
	pos int
	bad bool
}

func (c *cursor) bytes(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)-c.pos) {
		c.bad = true
		return nil
	}
	f := c.b[c.pos : c.pos+int(n) : c.pos+int(n)]
	c.pos += int(n)
	return f
}

func (c *cursor) u8() byte {
	if f := c.bytes(1); f != nil {
		return f[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if f := c.bytes(2); f != nil {
		return binary.LittleEndian.Uint16(f)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if f := c.bytes(4); f != nil {
		return binary.LittleEndian.Uint32(f)
	}
	return 0
}

func (c *cursor) uvarint() uint64 {
	if c.bad {
		return 0
	}
	v, n := binary.Uvarint(c.b[c.pos:])
	if n <= 0 {
		c.bad = true
		return 0
	}
	c.pos += n
	return v
}

func (c *cursor) client() []byte {
	n := c.uvarint()
	if n > mq.MaxInboxName {
		c.bad = true
	}
	return c.bytes(n)
}

func (c *cursor) target(t *target) {
	flags := c.u8()
	t.flags, t.claim = mq.Flags(flags)&flagMask, flags&flagClaim != 0
	t.client = c.client()
	t.seq = c.uvarint()
	t.expiry = int64(c.uvarint())
	t.origin, t.packet = nil, 0
	if t.claim {
		t.origin = c.client()
		t.packet = c.u16()
	}
}

// op decodes the next op into op. base is the offset in the segment of c.b[0],
// put the Unix second of the frame. It reports false at the end or on bad
// input (then c.bad).
func (c *cursor) op(op *diskOp, base, put int64) bool {
	if c.bad || c.pos == len(c.b) {
		return false
	}
	targets := op.targets[:0]
	*op = diskOp{kind: opKind(c.u8()), put: put}
	switch op.kind {
	case opMove, opPut:
		if op.kind == opMove {
			op.put = int64(c.uvarint())
		}
		n := c.uvarint()
		if n == 0 || n > uint64(len(c.b)) {
			c.bad = true
		}
		for ; n > 0 && !c.bad; n-- {
			targets = append(targets, target{})
			c.target(&targets[len(targets)-1])
		}
		op.shared = len(targets) > 1
		size := c.uvarint()
		op.crc = c.u32()
		op.offset, op.size = uint32(base+int64(c.pos)), uint32(size)
		op.record = c.bytes(size)
	case opRef:
		targets = append(targets, target{})
		c.target(&targets[0])
		op.put = int64(c.uvarint())
		op.offset, op.size = uint32(c.uvarint()), uint32(c.uvarint())
		op.shared = c.u8() != 0
	case opClaim, opRelease:
		op.client, op.packet = c.client(), c.u16()
	case opReleaseAll:
		op.client = c.client()
	case opAck, opSent, opReceived, opClear:
		op.client, op.seq = c.client(), c.uvarint()
	default:
		c.bad = true
	}
	op.targets = targets
	return !c.bad
}
