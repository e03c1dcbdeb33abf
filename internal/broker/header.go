package broker

import (
	"slices"

	"github.com/homing-mq/homing/internal/mq"
)

// header returns what a PUBLISH of m to this client says besides the message,
// without Seq, PacketID and Dup. s is locked.
//
// Which subscriptions match is found out when the message is sent, not when it
// arrives: nothing of it has to be stored, and the payload of a fan-out is.
// RETAIN is for the present connection, whoever has made the subscription
// [MQTT3-3.3.1-9].
func (s *Session) header(m *mq.Message, qos mq.QoS) Header {
	h := Header{QoS: qos}
	switch {
	case m.Addressed:
		h.Retain = m.Retain && !(m.Live && s.retain == RetainCleared)
	case s.retain == RetainCleared:
	case s.retain == RetainAlways:
		h.Retain = m.Retain
	case s.special > 0:
		s.describe(m, false, &h)
	}
	return h
}

// describe sets what depends on the options of matching subscriptions, all of
// them [MQTT-3.3.4-4]; for a message of its own without those with No Local.
func (s *Session) describe(m *mq.Message, own bool, h *Header) {
	if kind, _ := mq.ParseTopic(m.Topic); kind == mq.TopicP2P {
		return
	}
	var few [4]match
	for _, sub := range s.b.topics.of(s, m.Topic, few[:0]) {
		if own && sub.noLocal {
			continue
		}
		h.Retain = h.Retain || m.Retain && sub.rap
		if sub.id != 0 {
			h.SubscriptionIDs = append(h.SubscriptionIDs, sub.id)
		}
	}
}

// address returns m, which the client itself has published, as a copy for it. s
// is locked.
func (s *Session) address(m *mq.Message) mq.Message {
	var h Header
	s.describe(m, true, &h)
	own := *m
	own.Addressed, own.Live, own.Retain = true, true, h.Retain
	own.Props = slices.Clone(m.Props)
	for _, id := range h.SubscriptionIDs {
		own.Props = mq.AppendSubscriptionID(own.Props, id)
	}
	return own
}

// special reports whether a subscription changes the packets it causes.
func special(sub *mq.Subscription) bool { return sub.ID != 0 || sub.RetainAsPublished }
