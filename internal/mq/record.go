package mq

import (
	"encoding/binary"
	"errors"
)

// The record form of a message: what the pending part of an inbox holds, what
// the store writes, and what DecodeRecord turns back into a Message without
// copying.
//
//	byte 0   bits 7-4 form (1, 2: addressed, 3: renamed), bit 3 keep, or if addressed: live, bit 2 retain,
//	         bits 1-0 QoS as published
//	varint   expiry, Unix milliseconds, 0: never (unsigned)
//	varint   length of the topic name, then the topic name
//	         only if renamed: the topic name that the target sees, in the same way
//	varint   length of the properties, then the properties (MQTT 5 encoding)
//	rest     payload
const (
	recordPlain     = 1
	recordAddressed = 2
	recordRenamed   = 3
)

// ErrRecord says that bytes are not a message record: corruption, or a newer
// format.
var ErrRecord = errors.New("not a message record of a known version")

// RecordSize returns an upper bound of the size of m's record in bytes.
func RecordSize(m *Message) int {
	return 1 + 4*binary.MaxVarintLen64 + len(m.Topic) + len(m.RealTopic) + len(m.Props) + len(m.Payload)
}

// AppendRecord appends the record form of m to dst.
func AppendRecord(dst []byte, m *Message) []byte {
	b := byte(recordPlain<<4) | byte(m.QoS)
	switch {
	case m.Addressed:
		b = byte(recordAddressed<<4) | byte(m.QoS)
	case len(m.RealTopic) > 0:
		b = byte(recordRenamed<<4) | byte(m.QoS)
	}
	if m.Keep && !m.Addressed || m.Live && m.Addressed { // keep is for P2P, which is never addressed
		b |= 8
	}
	if m.Retain {
		b |= 4
	}
	dst = append(dst, b)
	dst = binary.AppendUvarint(dst, uint64(m.Expiry))
	dst = binary.AppendUvarint(dst, uint64(len(m.Topic)))
	dst = append(dst, m.Topic...)
	if b>>4 == recordRenamed {
		dst = binary.AppendUvarint(dst, uint64(len(m.RealTopic)))
		dst = append(dst, m.RealTopic...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Props)))
	dst = append(dst, m.Props...)
	return append(dst, m.Payload...)
}

// DecodeRecord sets m to the message in record. m's slices alias record.
func DecodeRecord(m *Message, record []byte) error {
	if len(record) < 4 || record[0]&3 == 3 {
		return ErrRecord
	}
	form := record[0] >> 4
	if form < recordPlain || form > recordRenamed {
		return ErrRecord
	}
	m.QoS, m.Retain = QoS(record[0]&3), record[0]&4 != 0
	m.Addressed = form == recordAddressed
	m.Keep, m.Live = record[0]&8 != 0 && !m.Addressed, record[0]&8 != 0 && m.Addressed
	expiry, n := binary.Uvarint(record[1:])
	if n <= 0 || int64(expiry) < 0 {
		return ErrRecord
	}
	m.Expiry = int64(expiry)
	rest := record[1+n:]
	var ok bool
	if m.Topic, rest, ok = cutBytes(rest); !ok {
		return ErrRecord
	}
	m.RealTopic = nil
	if form == recordRenamed {
		if m.RealTopic, rest, ok = cutBytes(rest); !ok {
			return ErrRecord
		}
	}
	if m.Props, m.Payload, ok = cutBytes(rest); !ok {
		return ErrRecord
	}
	return nil
}

func cutBytes(b []byte) (field, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}
