package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// reader is a cursor over a packet's body. Its first error sticks: after it
// nothing is left to read and every field reads as zero, so a decoder is a
// straight list of fields with one check at the end.
type reader struct {
	b   []byte
	err *Error
}

func (r *reader) fail(e *Error) {
	if r.err == nil {
		r.err = e
	}
	r.b = nil
}

// end returns the error, which for bytes left over is errTrailing.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = errTrailing
	}
	if r.err != nil { // a nil *Error must not become an error
		return r.err
	}
	return nil
}

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.fail(errShort)
		return 0
	}
	x := r.b[0]
	r.b = r.b[1:]
	return x
}

func (r *reader) uint16() uint16 {
	if len(r.b) < 2 {
		r.fail(errShort)
		return 0
	}
	x := binary.BigEndian.Uint16(r.b)
	r.b = r.b[2:]
	return x
}

func (r *reader) uint32() uint32 {
	if len(r.b) < 4 {
		r.fail(errShort)
		return 0
	}
	x := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return x
}

// varint reads a variable byte integer in its shortest form [MQTT-1.5.5-1].
func (r *reader) varint() uint32 {
	var x uint32
	for i := range 4 {
		c := r.byte()
		x |= uint32(c&0x7F) << (7 * i)
		if c == 0 && i > 0 {
			break // could do without this byte
		}
		if c < 0x80 {
			return x
		}
	}
	r.fail(errVarint)
	return 0
}

// take reads n bytes. They alias the body, and their capacity ends with them.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(errShort)
		return nil
	}
	x := r.b[:n:n]
	r.b = r.b[n:]
	return x
}

func (r *reader) rest() []byte { return r.take(len(r.b)) }

// binary reads two length bytes and as many bytes.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 encoded string, which may be empty.
// Nothing is stripped [MQTT-1.5.4-3] [MQTT3-1.5.3-3]
func (r *reader) text() []byte {
	s := r.binary()
	if !validText(s) {
		r.fail(errText)
		return nil
	}
	return s
}

// filter reads a topic filter, of which only the grammar is left to check
// [MQTT-4.7.3-1].
func (r *reader) filter() []byte {
	s := r.text()
	if len(s) == 0 {
		r.fail(errNoFilter)
	}
	return s
}

// countFilters returns how many topic filters, each with so many bytes of
// options, are left to read. A packet of many short ones would otherwise cost
// several times their memory while the slice of them grows.
func (r *reader) countFilters(options int) (n int) {
	for b := r.b; len(b) >= 2; n++ {
		size := 2 + int(binary.BigEndian.Uint16(b)) + options
		if size > len(b) {
			break
		}
		b = b[size:]
	}
	return n
}

// packetID reads a packet identifier, which is never 0 [MQTT-2.2.1-3]
// [MQTT-2.2.1-4] [MQTT3-2.3.1-1].
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(errPacketID)
	}
	return id
}

// code reads a reason code of MQTT 5 that belongs in packet type t.
func (r *reader) code(t PacketType) ReasonCode {
	c := ReasonCode(r.byte())
	if !c.ValidIn(t) {
		r.fail(errReasonCode)
	}
	return c
}

// validText reports whether s is well-formed UTF-8, which excludes surrogates
// [MQTT-1.5.4-1], without U+0000 [MQTT-1.5.4-2]. Control characters and
// non-characters are allowed: a receiver may refuse them, and gains nothing.
// [MQTT3-1.5.3-1] [MQTT3-1.5.3-2]
func validText(s []byte) bool {
	return bytes.IndexByte(s, 0) < 0 && utf8.Valid(s)
}

func hasWildcard(topic []byte) bool {
	return bytes.IndexByte(topic, '+') >= 0 || bytes.IndexByte(topic, '#') >= 0
}

// text is what the helpers that write strings take.
type text interface{ ~string | ~[]byte }

// appendString appends s behind two length bytes.
func appendString[T text](dst []byte, s T) []byte {
	n := stringLen(s)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	return append(dst, s[:n]...)
}

// stringLen is the length of s on the wire, without its length bytes.
func stringLen[T text](s T) int { return min(len(s), maxString) }

// appendVarint appends x in its shortest form [MQTT-1.5.5-1]
func appendVarint(dst []byte, x uint32) []byte {
	for x >= 0x80 {
		dst = append(dst, byte(x)|0x80)
		x >>= 7
	}
	return append(dst, byte(x))
}

// varintSize returns how many bytes appendVarint appends.
func varintSize(x uint32) int {
	switch {
	case x < 1<<7:
		return 1
	case x < 1<<14:
		return 2
	case x < 1<<21:
		return 3
	}
	return 4
}

// setLength writes the number of bytes behind dst[at] to dst[at], as a variable
// byte integer. The caller has put one byte there; what follows it is moved if
// the integer needs more, which for most packets it does not.
func setLength(dst []byte, at int) []byte {
	n := len(dst) - at - 1
	if n < 0x80 {
		dst[at] = byte(n)
		return dst
	}
	extra := varintSize(uint32(n)) - 1
	dst = append(dst, make([]byte, extra)...)
	copy(dst[at+1+extra:], dst[at+1:at+1+n])
	appendVarint(dst[:at], uint32(n))
	return dst
}
