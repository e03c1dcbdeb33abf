package rocketmq

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxFrame is the largest frame that RocketMQ's own servers and clients read
// (NettyDecoder), in bytes, without the first length field.
const MaxFrame = 16 << 20

var (
	// ErrMalformed is wrapped by the errors about input that is no RocketMQ.
	ErrMalformed = errors.New("malformed")
	// ErrTooLarge is wrapped by the errors about input over a limit.
	ErrTooLarge = errors.New("larger than the limit")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// Serialize is how a header is written.
type Serialize byte

// The serializations (SerializeType). A client chooses; the answer uses the
// same.
const (
	JSON   Serialize = 0
	Binary Serialize = 1 // "ROCKETMQ"
)

// Frame is one message on the wire. Header and Body alias the buffer that was
// split. A frame without a body has an empty one.
type Frame struct {
	Serialize    Serialize
	Header, Body []byte
}

const (
	lengthSize = 4 // the first length field
	prefixSize = 8 // both
)

// Lengths reads the length fields at the start of a frame, of which b need not
// have more. total is the length of the whole frame and header that of its
// header, in bytes; the header begins at byte 8 and the body behind it. ok is
// false while b has fewer than 8 bytes.
//
// Any total that the field can hold is allowed, so that a server can read and
// answer the header of a frame that is too large to be taken.
func Lengths(b []byte) (total, header int, serialize Serialize, ok bool, err error) {
	if len(b) < prefixSize {
		return 0, 0, 0, false, nil
	}
	if total, err = totalLength(b); err != nil {
		return 0, 0, 0, false, err
	}
	mark := binary.BigEndian.Uint32(b[lengthSize:])
	serialize, header = Serialize(mark>>24), int(mark&0xFFFFFF)
	switch {
	case serialize > Binary:
		return 0, 0, 0, false, malformed("unknown serialization %d", serialize)
	case header > total-prefixSize:
		return 0, 0, 0, false, malformed("a header of %d bytes in a frame of %d", header, total)
	}
	return total, header, serialize, true, nil
}

// totalLength reads the first length field of b and returns the length of the
// whole frame.
func totalLength(b []byte) (int, error) {
	rest := int(int32(binary.BigEndian.Uint32(b)))
	if rest < prefixSize-lengthSize {
		return 0, malformed("a frame of %d bytes", rest)
	}
	return rest + lengthSize, nil
}

// Split finds the first frame in b, which may hold more or less than one. size
// is its length in bytes with both length fields, 0 while that is not known;
// complete says that b has all of it, and only then f is set. A frame of more
// than limit bytes is an error, ErrTooLarge, and one with lengths that cannot
// be is another.
func Split(b []byte, limit int) (f Frame, size int, complete bool, err error) {
	if len(b) < lengthSize {
		return Frame{}, 0, false, nil
	}
	if size, err = totalLength(b); err != nil {
		return Frame{}, 0, false, err
	}
	if size > limit {
		return Frame{}, 0, false, fmt.Errorf("%w: a frame of %d bytes, at most %d are taken", ErrTooLarge, size, limit)
	}
	_, header, serialize, ok, err := Lengths(b)
	if !ok {
		if err != nil {
			size = 0
		}
		return Frame{}, size, false, err
	}
	if len(b) < size {
		return Frame{}, size, false, nil
	}
	end := prefixSize + header
	return Frame{serialize, b[prefixSize:end:end], b[end:size:size]}, size, true, nil
}
