package rocketmqserver

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// grpcMessage is a pb.Message in place: its bytes alias the request. The
// generated code would copy it field by field, which costs as much as all the
// rest that is done with it here. Properties are in the order sent.
//
// Text is not checked to be UTF-8; what becomes of it is. One with more than
// maxProperties properties is not taken.
type grpcMessage struct {
	namespace, topic []byte
	properties       []property
	body             []byte

	id       []byte
	keys     []byte // with a space in between, as remoting has them
	kind     pb.MessageType
	encoding pb.Encoding
	digest   pb.DigestType
	checksum []byte
	timed    bool // there is a delivery timestamp
	seconds  int64
	nanos    int32

	inflated []byte // memory for bodies that are decompressed
}

// maxProperties is as many as remoting has room for (maxHeader). An empty one
// has two bytes on the wire.
const maxProperties = 8 << 10

type property struct{ key, value []byte }

func (m *grpcMessage) reset() {
	*m = grpcMessage{properties: m.properties[:0], keys: m.keys[:0], inflated: m.inflated[:0]}
}

// memory is how much is kept for the next message, bytes.
func (m *grpcMessage) memory() int {
	return cap(m.properties)*int(unsafe.Sizeof(property{})) + cap(m.keys)
}

var (
	errWire       = errors.New("not a protobuf message of this kind")
	errProperties = fmt.Errorf("one with more than %d properties", maxProperties)
	errBatch      = refuse(tooLarge, "a batch of more than %d messages; split it", maxBatch)
)

// wireField is one field of a protobuf message. Of a varint it has the number,
// of what has a length the bytes, of others nothing.
type wireField struct {
	id    protowire.Number
	bytes []byte // not nil if it has a length
	value uint64
}

// next reads the first field of b. Fields are known by number and wire type: one
// of another type than expected is as one that is not known.
func (f *wireField) next(b []byte) (rest []byte, err error) {
	id, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, errWire
	}
	b = b[n:]
	*f = wireField{id: id}
	switch kind {
	case protowire.BytesType:
		if f.bytes, n = protowire.ConsumeBytes(b); n >= 0 && f.bytes == nil {
			f.bytes = b[:0]
		}
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(b)
	default:
		n = protowire.ConsumeFieldValue(id, kind, b)
	}
	if n < 0 {
		return nil, errWire
	}
	return b[n:], nil
}

// each calls f for every field of b.
func each(b []byte, f func(wireField) error) error {
	var field wireField
	for len(b) > 0 {
		rest, err := field.next(b)
		if err != nil {
			return err
		}
		if err := f(field); err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// decodeSend appends the messages of a pb.SendMessageRequest to list. It returns
// errBatch, and has appended nothing, if there are more than maxBatch.
func decodeSend(list [][]byte, b []byte) ([][]byte, error) {
	n := 0
	err := each(b, func(f wireField) error {
		if f.isMessage() {
			n++
		}
		if n > maxBatch {
			return errBatch
		}
		return nil
	})
	if err != nil {
		return list, err
	}
	list = slices.Grow(list, n)
	err = each(b, func(f wireField) error {
		if f.isMessage() {
			list = append(list, f.bytes)
		}
		return nil
	})
	return list, err
}

// isMessage reports whether a field of a pb.SendMessageRequest is a message.
func (f *wireField) isMessage() bool { return f.id == 1 && f.bytes != nil }

// compressed reports whether an encoded pb.Message may have a body to decompress.
func compressed(b []byte) bool {
	found := false
	_ = each(b, func(f wireField) error { // decode reports errors
		if f.id != 3 || f.bytes == nil {
			return nil
		}
		return each(f.bytes, func(f wireField) error {
			found = found || f.id == 5 && f.bytes == nil && pb.Encoding(f.value) == pb.Encoding_GZIP
			return nil
		})
	})
	return found
}

// decode takes a pb.Message.
func (m *grpcMessage) decode(b []byte) error {
	m.reset()
	return each(b, func(f wireField) error {
		if f.bytes == nil {
			return nil
		}
		switch f.id {
		case 1:
			return each(f.bytes, m.takeTopic)
		case 2:
			if len(m.properties) == maxProperties {
				return errProperties
			}
			m.properties = append(m.properties, property{})
			return each(f.bytes, m.takeProperty)
		case 3:
			return each(f.bytes, m.takeSystem)
		case 4:
			m.body = f.bytes
		}
		return nil
	})
}

// takeTopic takes a field of pb.Resource.
func (m *grpcMessage) takeTopic(f wireField) error {
	switch {
	case f.bytes == nil:
	case f.id == 1:
		m.namespace = f.bytes
	case f.id == 2:
		m.topic = f.bytes
	}
	return nil
}

// takeProperty takes the key or the value of the last property.
func (m *grpcMessage) takeProperty(f wireField) error {
	p := &m.properties[len(m.properties)-1]
	switch {
	case f.bytes == nil:
	case f.id == 1:
		p.key = f.bytes
	case f.id == 2:
		p.value = f.bytes
	}
	return nil
}

// takeSystem takes a field of pb.SystemProperties.
func (m *grpcMessage) takeSystem(f wireField) error {
	if f.bytes == nil {
		switch f.id {
		case 5:
			m.encoding = pb.Encoding(f.value)
		case 6:
			m.kind = pb.MessageType(f.value)
		}
		return nil
	}
	switch f.id {
	case 2:
		if len(m.keys) > 0 {
			m.keys = append(m.keys, ' ')
		}
		m.keys = append(m.keys, f.bytes...)
	case 3:
		m.id = f.bytes
	case 4:
		return each(f.bytes, m.takeDigest)
	case 11:
		m.timed = true
		return each(f.bytes, m.takeTime)
	}
	return nil
}

// takeDigest takes a field of pb.Digest.
func (m *grpcMessage) takeDigest(f wireField) error {
	switch {
	case f.id == 1 && f.bytes == nil:
		m.digest = pb.DigestType(f.value)
	case f.id == 2 && f.bytes != nil:
		m.checksum = f.bytes
	}
	return nil
}

// takeTime takes a field of a google.protobuf.Timestamp.
func (m *grpcMessage) takeTime(f wireField) error {
	switch {
	case f.bytes != nil:
	case f.id == 1:
		m.seconds = int64(f.value)
	case f.id == 2:
		m.nanos = int32(f.value)
	}
	return nil
}
