package mq

import "encoding/binary"

// QoS is an MQTT quality of service level: 0, 1 or 2.
type QoS uint8

// The three levels (section 4.3).
const (
	AtMostOnce  QoS = 0
	AtLeastOnce QoS = 1
	ExactlyOnce QoS = 2
)

// MaxClientID is the longest client ID in bytes: an MQTT UTF-8 string.
const MaxClientID = 65535

// Message is one application message on its way through the server.
//
// Its byte slices are borrowed from whoever publishes it (often a read
// buffer): they are valid until Publish returns. What must live longer is
// copied with AppendRecord, once.
type Message struct {
	Topic   []byte // full topic name as published
	Payload []byte
	// RealTopic is the topic name that the target of a P2P message sees instead
	// of Topic (contract section 3: mqttRealTopic); empty: it sees Topic. Only
	// gateways that take such a wish set it. The sender must have the right to
	// publish to both.
	RealTopic []byte
	// Props are the MQTT 5 properties that travel with the message (payload
	// format, content type, response topic, correlation data, user
	// properties) in their wire encoding, without the length prefix. Message
	// expiry, topic alias and subscription identifiers are not among them.
	Props  []byte
	Expiry int64 // Unix milliseconds after which the message is worthless; 0: never
	QoS    QoS
	Retain bool // as published; ignored for P2P
	Keep   bool // the sender asks that it be kept for an offline target (contract section 4)
	// Addressed says that this copy was made for one subscriber: it is sent
	// with Retain as it is here, and Props may hold a subscription identifier.
	Addressed bool
	// Live says of an addressed message that it came by a subscription when it was
	// published, so that its RETAIN is for those who ask for it only. The others
	// are retained messages.
	Live bool
}

// SeenTopic is the topic name that a receiver sees. It aliases the message.
func (m *Message) SeenTopic() []byte {
	if len(m.RealTopic) > 0 {
		return m.RealTopic
	}
	return m.Topic
}

// Expired reports whether the message is worthless at now (Unix ms).
func (m *Message) Expired(now int64) bool { return m.Expiry != 0 && now >= m.Expiry }

// RemainingExpiry returns the seconds left at now (Unix ms), rounded up and at
// least 1 so that a message about to expire is not sent as "never expires".
// It must not be called for a message without expiry. [MQTT-3.3.2-6]
func (m *Message) RemainingExpiry(now int64) uint32 {
	left := (m.Expiry - now + 999) / 1000
	return uint32(min(max(left, 1), 1<<32-1))
}

// AppendSubscriptionID appends a subscription identifier to properties in their
// wire encoding (MQTT 5, 3.3.2.3.8). id is 1 to 268 435 455.
func AppendSubscriptionID(props []byte, id uint32) []byte {
	return binary.AppendUvarint(append(props, 0x0B), uint64(id)) // the same encoding as MQTT's variable byte integer
}
