package mq

import "unicode/utf8"

// Limits are what a message must keep to, whoever sends it by whatever protocol.
// A gateway has its messages checked before it hands them to the core, refuses
// those that are over a limit with its own code for Breach.Code, and counts them
// by Breach.Drop. What a gateway can see only on its wire stays with it: that of
// MQTT measures a packet before it has arrived, and looks at payload formats, which
// no other protocol can name.
type Limits struct {
	TopicLength int // bytes of a topic name
	// PacketSize is the size in bytes of the message as a PUBLISH of MQTT 5, which
	// is Message.PublishSize; 0: what the protocol allows.
	PacketSize int
	MaxQoS     QoS
	StrictText bool // no control characters and non-characters in topic names: StrictText
}

// maxPublish is the size in bytes of the largest packet of MQTT (section 2.1.4).
const maxPublish = 1 + 4 + 1<<28 - 1

// Breach says which limit a message is over.
type Breach uint8

// The breaches.
const (
	BreachNone Breach = iota
	BreachTopicLength
	BreachTopicText
	BreachQoS
	BreachSize
)

var breaches = [...]struct {
	code Code
	drop DropReason
	text string
}{
	BreachNone:        {OK, 0, "none"},
	BreachTopicLength: {BadTopic, DropBadTopic, "the topic name is longer than limits.topic-length"},
	BreachTopicText:   {BadTopic, DropBadTopic, "the topic name has a control character or non-character, and mqtt.strict-utf8 is set"},
	BreachQoS:         {QoSTooHigh, DropQoSTooHigh, "the QoS is over limits.qos"},
	BreachSize:        {TooLarge, DropTooLarge, "the message is larger than limits.packet-size"},
}

// Code is what the sender is told.
func (b Breach) Code() Code { return breaches[b].code }

// Drop is what the message is counted as.
func (b Breach) Drop() DropReason { return breaches[b].drop }

func (b Breach) String() string { return breaches[b].text }

// Check returns the first limit that m is over. Both topic names must be UTF-8.
// It is called for every message and allocates nothing.
func (l *Limits) Check(m *Message) Breach {
	switch {
	case len(m.Topic) > l.TopicLength, len(m.RealTopic) > l.TopicLength:
		return BreachTopicLength
	case l.StrictText && !(StrictText(m.Topic) && StrictText(m.RealTopic)):
		return BreachTopicText
	case m.QoS > l.MaxQoS:
		return BreachQoS
	}
	limit := l.PacketSize
	if limit == 0 {
		limit = maxPublish
	}
	if m.PublishSize() > limit {
		return BreachSize
	}
	return BreachNone
}

// PublishSize returns the size in bytes of m as a PUBLISH of MQTT 5, with the topic
// name that a receiver sees, and without alias and subscription identifiers.
func (m *Message) PublishSize() int {
	props := len(m.Props)
	if m.Expiry != 0 {
		props += 5
	}
	n := 2 + len(m.SeenTopic()) + varintSize(props) + props + len(m.Payload)
	if m.QoS > 0 {
		n += 2
	}
	return 1 + varintSize(n) + n
}

// varintSize returns the size in bytes of n as a variable byte integer (section
// 1.5.5), as if that could have more than four.
func varintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

// StrictText reports whether text, valid UTF-8, is without the code points that
// a receiver may refuse: control characters and non-characters (5.0 section
// 1.5.4, 3.1.1 section 1.5.3).
func StrictText(text []byte) bool {
	for i := 0; i < len(text); {
		r, size := rune(text[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRune(text[i:])
		}
		switch {
		case r < 0x20, r >= 0x7F && r <= 0x9F: // control characters
			return false
		case r >= 0xFDD0 && r <= 0xFDEF, r&0xFFFE == 0xFFFE: // non-characters
			return false
		}
		i += size
	}
	return true
}
