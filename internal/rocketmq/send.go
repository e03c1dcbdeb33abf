package rocketmq

import (
	"bytes"
	"strconv"
)

// The bits of SendHeader.SysFlag (MessageSysFlag).
const (
	SysCompressed          int32 = 0x1
	SysMultiTags           int32 = 0x2
	SysTransaction         int32 = 0xC // a mask: 0 or one of the next three
	SysTransactionPrepared int32 = 0x4
	SysTransactionCommit   int32 = 0x8
	SysTransactionRollback int32 = 0xC
	SysBornHostV6          int32 = 0x10
	SysStoreHostV6         int32 = 0x20
	SysNeedUnwrap          int32 = 0x40
	SysInnerBatch          int32 = 0x80
	SysCompression         int32 = 0x700 // a mask: 0 (Zlib) or one of the next three
	SysLZ4                 int32 = 0x100
	SysZstd                int32 = 0x200
	SysZlib                int32 = 0x300
)

// SendHeader is what the extension fields of a send say
// (SendMessageRequestHeader, SendMessageRequestHeaderV2).
type SendHeader struct {
	ProducerGroup     []byte
	Topic             []byte
	DefaultTopic      []byte // the topic whose settings an unknown one gets
	DefaultQueues     int32
	QueueID           int32
	SysFlag           int32
	BornTimestamp     int64 // of the sender's clock, in milliseconds since 1970
	Flag              int32
	Properties        []byte // see Properties; nil if there are none
	ReconsumeTimes    int32
	UnitMode          bool
	Batch             bool // the body is a batch
	MaxReconsumeTimes int32
	BrokerName        []byte // nil before 5.0
	Namespace         []byte // nil if there is none
}

// sendField is a field of a SendHeader.
type sendField byte

// Those before sendProperties are required: without them RocketMQ takes no
// message.
const (
	sendProducerGroup sendField = iota
	sendTopic
	sendDefaultTopic
	sendDefaultQueues
	sendQueueID
	sendSysFlag
	sendBornTimestamp
	sendFlag
	sendProperties
	sendReconsumeTimes
	sendUnitMode
	sendMaxReconsumeTimes
	sendBatch
	sendBrokerName
	sendNamespace
	sendOther
)

// sendNames are the keys in SEND_MESSAGE. In the V2 requests the key of all
// but the namespace is one letter: a for the first, b for the second, and so
// on.
var sendNames = [...]string{
	sendProducerGroup:     "producerGroup",
	sendTopic:             "topic",
	sendDefaultTopic:      "defaultTopic",
	sendDefaultQueues:     "defaultTopicQueueNums",
	sendQueueID:           "queueId",
	sendSysFlag:           "sysFlag",
	sendBornTimestamp:     "bornTimestamp",
	sendFlag:              "flag",
	sendProperties:        "properties",
	sendReconsumeTimes:    "reconsumeTimes",
	sendUnitMode:          "unitMode",
	sendMaxReconsumeTimes: "maxReconsumeTimes",
	sendBatch:             "batch",
	sendBrokerName:        "bname",
	sendNamespace:         "ns",
}

// sendFieldOf returns the field that a key stands for.
func sendFieldOf(key []byte, v2 bool) sendField {
	if v2 {
		if len(key) == 1 && key[0] >= 'a' && key[0] <= 'a'+byte(sendBrokerName) {
			return sendField(key[0] - 'a')
		}
		if string(key) == sendNames[sendNamespace] {
			return sendNamespace
		}
		return sendOther
	}
	for field, name := range sendNames {
		if string(key) == name {
			return sendField(field)
		}
	}
	return sendOther
}

// Decode reads the fields of a send: with long names for SEND_MESSAGE, with
// one letter for SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE. Byte slices alias
// those of ext. A field that is missing or no number is ErrMalformed. Batch is
// set for SEND_BATCH_MESSAGE whatever its field says.
func (h *SendHeader) Decode(code RequestCode, ext Fields) error {
	*h = SendHeader{Batch: code == SendBatchMessage}
	v2 := code != SendMessage && code != SendReplyMessage
	seen := 0
	for i := range ext {
		field := sendFieldOf(ext[i].Key, v2)
		if !h.set(field, ext[i].Value) {
			return malformed("field %s is %q", sendNames[field], ext[i].Value)
		}
		seen |= 1 << field
	}
	for field := range sendProperties {
		if seen>>field&1 == 0 {
			return malformed("field %s is missing", sendNames[field])
		}
	}
	return nil
}

// set sets one field and reports whether the value has the right form.
func (h *SendHeader) set(field sendField, value []byte) bool {
	switch field {
	case sendProducerGroup:
		h.ProducerGroup = value
	case sendTopic:
		h.Topic = value
	case sendDefaultTopic:
		h.DefaultTopic = value
	case sendDefaultQueues:
		return setInt32(&h.DefaultQueues, value)
	case sendQueueID:
		return setInt32(&h.QueueID, value)
	case sendSysFlag:
		return setInt32(&h.SysFlag, value)
	case sendBornTimestamp:
		return setInt(&h.BornTimestamp, value, 64)
	case sendFlag:
		return setInt32(&h.Flag, value)
	case sendProperties:
		h.Properties = value
	case sendReconsumeTimes:
		return setInt32(&h.ReconsumeTimes, value)
	case sendUnitMode:
		h.UnitMode = isTrue(value)
	case sendMaxReconsumeTimes:
		return setInt32(&h.MaxReconsumeTimes, value)
	case sendBatch:
		h.Batch = h.Batch || isTrue(value)
	case sendBrokerName:
		h.BrokerName = value
	case sendNamespace:
		h.Namespace = value
	}
	return true
}

// isTrue reads a truth value as Java's Boolean.parseBoolean does.
func isTrue(value []byte) bool { return len(value) == 4 && bytes.EqualFold(value, []byte("true")) }

func setInt32(to *int32, value []byte) bool {
	var n int64
	ok := setInt(&n, value, 32)
	*to = int32(n)
	return ok
}

// setInt reads a decimal integer of so many bits.
func setInt(to *int64, value []byte, size int) bool {
	n, err := strconv.ParseInt(string(value), 10, size)
	*to = n
	return err == nil
}
