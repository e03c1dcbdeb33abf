package mqttserver

import (
	"bytes"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errFilterLength = &mqtt.Error{Code: mqtt.CodeTopicFilterInvalid, Text: "topic filter is longer than limits.topic-length"}
	errNoCode       = &mqtt.Error{Code: mqtt.CodeTopicFilterInvalid, Text: "a subscription was refused, and MQTT 3.1 has no code for why"}
	errNoLocal      = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "no local in a shared subscription"} // [MQTT-3.8.3-4]
	errAnswerSize   = &mqtt.Error{Code: mqtt.CodePacketTooLarge, Text: "the answer would be larger than the client's maximum packet size"}
)

// sharePrefix begins the filter of a shared subscription, in all versions; the
// core looks at the rest [MQTT-4.8.2-1].
var sharePrefix = []byte("$share/")

// handleSubscribe answers with one code for each filter, in order
// [MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6]
// [MQTT-3.9.3-1] [MQTT3-2.3.1-7] [MQTT3-3.8.4-1] [MQTT3-3.8.4-2]
// [MQTT3-3.8.4-4] [MQTT3-3.8.4-5] [MQTT3-3.9.3-1].
func (c *conn) handleSubscribe(w *worker, first byte, body []byte) error {
	p := &w.subscribe
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	subs, err := c.subscriptions(p)
	if err != nil {
		return err
	}
	if answerSize(len(subs)) > int(c.maxPacket) {
		return errAnswerSize
	}
	ack := mqtt.Suback{PacketID: p.PacketID, Codes: make([]mqtt.ReasonCode, len(subs))}
	w.batch.Flush() // the store may block
	w.batch.Begin()
	results := c.srv.broker.Subscribe(c.sess, c.principal, subs, &w.batch)
	w.batch.Begin()
	for i, r := range results {
		var ok bool
		if ack.Codes[i], ok = suback(r, subs[i].QoS, c.version); !ok {
			return errNoCode
		}
		ack.Codes[i] = c.revealed(ack.Codes[i])
	}
	c.send(mqtt.SUBACK, &ack, &w.batch)
	return nil
}

// answerSize is the size of a SUBACK or UNSUBACK of MQTT 5 in bytes. One that the
// client does not take is found before anything is done: a client that never
// heard of it would not know what it is subscribed to [MQTT-3.1.2-24].
func answerSize(codes int) int {
	size := 1 + 1 + 2 + 1 + codes // type, length, packet identifier, no properties
	for length := size - 2; length >= 0x80; length >>= 7 {
		size++
	}
	return size
}

// subscriptions returns what a SUBSCRIBE asks for, with the QoS that is granted
// if it is [MQTT-3.2.2-10]. The subscription identifier is of all its filters
// (section 3.8.2.1.2).
func (c *conn) subscriptions(p *mqtt.Subscribe) ([]mq.Subscription, error) {
	subs := make([]mq.Subscription, len(p.Filters))
	for i, f := range p.Filters {
		switch {
		case len(f.Topic) > c.srv.opt.TopicLength:
			return nil, errFilterLength
		case c.refusesText(f.Topic):
			return nil, errStrictText
		case f.NoLocal && bytes.HasPrefix(f.Topic, sharePrefix):
			return nil, errNoLocal
		}
		subs[i] = mq.Subscription{
			Filter: string(f.Topic), QoS: mq.QoS(min(int(f.QoS), c.srv.opt.MaxQoS)), NoLocal: f.NoLocal,
			RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling,
		}
		if c.detail != nil && c.detail.bridge {
			subs[i].RetainAsPublished, subs[i].NoLocal = true, !bytes.HasPrefix(f.Topic, sharePrefix)
		}
		if p.Properties.Has(mqtt.PropSubscriptionID) {
			subs[i].ID = p.Properties.SubscriptionID
		}
	}
	return subs, nil
}

// handleUnsubscribe answers also if nothing was deleted [MQTT-2.2.1-6]
// [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
// [MQTT-3.11.3-2] [MQTT3-2.3.1-7] [MQTT3-3.10.4-4] [MQTT3-3.10.4-5]
// [MQTT3-3.10.4-6].
func (c *conn) handleUnsubscribe(w *worker, first byte, body []byte) error {
	p := &w.unsubscribe
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	filters := make([]string, len(p.Filters))
	for i, f := range p.Filters {
		if c.refusesText(f) {
			return errStrictText
		}
		filters[i] = string(f)
	}
	if answerSize(len(filters)) > int(c.maxPacket) {
		return errAnswerSize
	}
	w.batch.Flush() // the store may block
	w.batch.Begin()
	had, err := c.srv.broker.Unsubscribe(c.sess, filters, &w.batch)
	w.batch.Begin()
	ack := mqtt.Unsuback{PacketID: p.PacketID, Codes: make([]mqtt.ReasonCode, len(filters))}
	for i := range filters {
		switch {
		case err != nil:
			ack.Codes[i] = mqtt.CodeImplementationSpecificError
		case !mq.ValidFilter(p.Filters[i]):
			ack.Codes[i] = mqtt.CodeTopicFilterInvalid
		case !had[i]:
			ack.Codes[i] = mqtt.CodeNoSubscriptionExisted
		}
	}
	if err != nil {
		c.srv.log.Error("cannot store an unsubscription", "client", c.clientID(), "error", err)
		if c.version != mqtt.V5 {
			return errClosing // no code says it failed
		}
	}
	c.send(mqtt.UNSUBACK, &ack, &w.batch)
	return nil
}
