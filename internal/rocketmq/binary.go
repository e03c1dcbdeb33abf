package rocketmq

import (
	"encoding/binary"
	"math"
)

// cursor reads the binary header. A read beyond the end sets short and gives
// zeros.
type cursor struct {
	b     []byte
	short bool
}

func (r *cursor) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.short, r.b = true, nil
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

func (r *cursor) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *cursor) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *cursor) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// decodeBinary reads the serialization "ROCKETMQ" (RocketMQSerializable).
//
// An ACL client of Java 5.x writes the fields of a send twice, so repeated
// keys are nothing unusual. An empty value stays one, although Java's server
// reads it as none.
func (c *Command) decodeBinary(header []byte) error {
	r := cursor{b: header}
	c.Code = int32(r.int16())
	c.Language = Language(r.byte())
	c.Version = int(r.int16())
	c.Opaque = r.int32()
	c.Flag = r.int32()
	if n := r.int32(); n != 0 {
		c.Remark = r.take(int(n))
	}
	fields := r.int32()
	if r.short {
		return malformed("a binary header of %d bytes that is cut off", len(header))
	}
	if int(fields) != len(r.b) {
		return malformed("extension fields of %d bytes where %d are left", fields, len(r.b))
	}
	for len(r.b) > 0 {
		key := r.take(int(r.int16()))
		value := r.take(int(r.int32()))
		if r.short {
			return malformed("an extension field that is cut off")
		}
		if !c.set(key, value) {
			return malformed("more than %d extension fields", MaxFields)
		}
	}
	return nil
}

func (c *Command) appendBinary(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(c.Code))
	dst = append(dst, byte(c.Language))
	dst = binary.BigEndian.AppendUint16(dst, uint16(c.Version))
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.Opaque))
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.Flag))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c.Remark)))
	dst = append(dst, c.Remark...)
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, 0)
	for _, field := range c.Ext {
		if field.Value == nil {
			continue
		}
		key := field.Key[:min(len(field.Key), math.MaxInt16)]
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(key)))
		dst = append(dst, key...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(field.Value)))
		dst = append(dst, field.Value...)
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}
