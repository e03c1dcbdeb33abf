package mqttserver

import (
	"bytes"
	"errors"
	"math"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errReceiveMax   = &mqtt.Error{Code: mqtt.CodeReceiveMaximumExceeded, Text: "more QoS 1 and 2 messages at once than the receive maximum"}
	errAlias        = &mqtt.Error{Code: mqtt.CodeTopicAliasInvalid, Text: "topic alias over the maximum"}
	errAliasUnknown = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "topic alias was not set"}
	errSubIDSent    = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a client sends no subscription identifier in PUBLISH"}
	errTopicLength  = &mqtt.Error{Code: mqtt.CodeTopicNameInvalid, Text: "topic name is longer than limits.topic-length"}
	errTooLarge     = &mqtt.Error{Code: mqtt.CodePacketTooLarge, Text: "with its topic the message is larger than any packet"}
	errQoS          = &mqtt.Error{Code: mqtt.CodeQoSNotSupported, Text: "QoS over the server's maximum"}
	errPayload      = &mqtt.Error{Code: mqtt.CodePayloadFormatInvalid, Text: "payload is not UTF-8, as its format indicator says"}
)

func (c *conn) handlePublish(w *worker, first byte, body []byte) error {
	p := &w.publish
	if err := p.Decode(first, body, c.version); err != nil {
		if !errors.Is(err, mqtt.ErrTopicName) {
			return err
		}
		if kind, _ := mq.ParseTopic(p.Topic); kind != mq.TopicBadP2P {
			return err
		}
	}
	if err := c.resolveAlias(p); err != nil {
		return err
	}
	if len(p.SubscriptionIDs) > 0 { // [MQTT-3.3.4-6]
		return errSubIDSent
	}
	m := &w.msg
	*m = mq.Message{Topic: p.Topic, Payload: p.Payload, Props: p.Props, QoS: mq.QoS(p.QoS)}
	if over := c.srv.message.Check(m); over != mq.BreachNone { // [MQTT-3.2.2-11]
		return c.refuseOver(over)
	}
	switch {
	case len(p.Props) > 0 && badPayload(p.Props, p.Payload, &w.props):
		return c.refusePayload(p, &w.batch)
	case c.isNotification(p.Topic):
		c.answer(p, mq.DropNotAuthorized, mq.OK, &w.batch)
		return nil
	}
	m.Retain, m.Keep = p.Retain && !isP2P(p.Topic), c.detail != nil && c.detail.session > 0
	if p.HasExpiry {
		m.Expiry = c.srv.broker.Now(&w.batch) + int64(p.Expiry)*1000
	}
	return c.publish(m, p.PacketID, w)
}

// isNotification reports whether this is a bridge that says on a topic of the
// server's own how it is. It gives up if that closes its connection, and MQTT 3
// has no other way to refuse it.
func (c *conn) isNotification(topic []byte) bool {
	return c.detail != nil && c.detail.bridge && bytes.HasPrefix(topic, bridgeTopics)
}

var bridgeTopics = []byte("$SYS/broker/connection/")

// answer counts a PUBLISH that the core does not get, and acknowledges it.
func (c *conn) answer(p *mqtt.Publish, why mq.DropReason, code mq.Code, b *broker.Batch) {
	c.srv.broker.Stats.Dropped[why].Add(1)
	if p.QoS == 0 {
		return
	}
	kind := broker.Puback
	if p.QoS == 2 {
		kind = broker.Pubrec
	}
	c.SendAck(kind, p.PacketID, code, b)
}

// isP2P reports whether a topic is P2P, or meant to be: RETAIN then says
// nothing.
func isP2P(topic []byte) bool {
	kind, _ := mq.ParseTopic(topic)
	return kind == mq.TopicP2P || kind == mq.TopicBadP2P
}

// refusePayload answers a PUBLISH whose payload is not what it says (section
// 3.3.2.3.2). The core does not get it: a QoS 2 identifier is not claimed, and
// PUBREC ends the exchange [MQTT-4.3.3-9].
func (c *conn) refusePayload(p *mqtt.Publish, b *broker.Batch) error {
	c.answer(p, mq.DropBadPayload, mq.BadPayload, b)
	if p.QoS == 0 {
		return errPayload
	}
	return nil
}

// publish hands a message to the core, by QoS.
// [MQTT-3.3.4-1] [MQTT3-3.3.4-1] [MQTT-4.3.2-5]
func (c *conn) publish(m *mq.Message, pid uint16, w *worker) error {
	src := broker.Source{Principal: c.principal, Session: c.sess, Stops: c.version != mqtt.V5}
	if m.QoS == mq.AtMostOnce {
		c.srv.broker.Publish(src, m, nil, 0, &w.batch)
		return c.heed(w)
	}
	room := math.MaxInt
	if c.version == mqtt.V5 { // [MQTT-3.3.4-7]
		room = c.srv.opt.ReceiveMax - int(c.unacked.Load())
	}
	if m.QoS == mq.AtLeastOnce {
		if open, _ := c.sess.Claims(); open >= room {
			return errReceiveMax
		}
		c.unacked.Add(1) // before: the answer may come at once
		c.srv.broker.Publish(src, m, c, uint64(pid), &w.batch)
		return c.heed(w)
	}
	dup := w.publish.Dup
	r := c.srv.broker.PublishQoS2(src, m, broker.QoS2Publish{Conn: c, PacketID: pid, Dup: dup, Room: room}, &w.batch)
	switch r {
	case broker.ClaimOver:
		return errReceiveMax
	case broker.ClaimReused, broker.ClaimReplaced:
		c.logReuse(r, pid)
	}
	return c.heed(w)
}

// heed ends the connection if the message that was just published is refused and
// the client's version has no code to say so. Nothing that it has sent behind
// that message is looked at: it will send all of it again, in order.
func (c *conn) heed(w *worker) error {
	code := w.batch.Refusal()
	if _, closes := ackCode(code, c.version); !closes {
		return nil
	}
	w.batch.Flush() // what was acknowledged before it gets out
	c.closeSoon(ackText(code), &w.batch)
	c.more().lingers = true
	return errClosing
}

// logReuse says, once for each connection, that the client uses a packet
// identifier for another message before it has released it.
func (c *conn) logReuse(r broker.ClaimResult, pid uint16) {
	if c.reuses {
		return
	}
	c.reuses = true
	if r == broker.ClaimReused {
		c.srv.log.Warn("a client uses a packet identifier for another QoS 2 message before it has released it; both are published",
			"client", c.clientID(), "packet_id", pid)
		return
	}
	c.srv.log.Info("a client has lost its QoS 2 state: it uses a packet identifier of a connection before for another message; both are published",
		"client", c.clientID(), "packet_id", pid)
}
