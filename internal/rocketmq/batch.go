package rocketmq

import (
	"encoding/binary"
	"iter"
)

// BatchMessage is one message in the body of a batch.
type BatchMessage struct {
	Flag       int32
	Body       []byte
	Properties []byte
}

// batchOverhead is the size of a message in a batch without its body and
// properties: the total length, magic, checksum, flag and two lengths.
const batchOverhead = 5*4 + 2

// Batch gives the messages in the body of a batch (MessageDecoder.encodeMessage).
// What is malformed ends it with an ErrMalformed. The checksum and magic, which
// clients leave 0, are not looked at.
func Batch(body []byte) iter.Seq2[BatchMessage, error] {
	return func(yield func(BatchMessage, error) bool) {
		for rest := body; len(rest) > 0; {
			message, size := splitMessage(rest)
			if size == 0 {
				yield(BatchMessage{}, malformed("batch, byte %d: no message", len(body)-len(rest)))
				return
			}
			if !yield(message, nil) {
				return
			}
			rest = rest[size:]
		}
	}
}

// splitMessage reads the first message in b; size is 0 if there is none.
func splitMessage(b []byte) (m BatchMessage, size int) {
	r := cursor{b: b}
	total := r.int32()
	r.take(8) // magic and checksum
	m.Flag = r.int32()
	m.Body = r.take(int(r.int32()))
	m.Properties = r.take(int(r.int16()))
	if r.short || int(total) != len(b)-len(r.b) {
		return BatchMessage{}, 0
	}
	return m, int(total)
}

// AppendBatchMessage appends a message to the body of a batch. Its properties
// must be at most MaxProperties bytes.
func AppendBatchMessage(dst []byte, m BatchMessage) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(batchOverhead+len(m.Body)+len(m.Properties)))
	dst = binary.BigEndian.AppendUint64(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Flag))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Body)))
	dst = append(dst, m.Body...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(m.Properties)))
	return append(dst, m.Properties...)
}
