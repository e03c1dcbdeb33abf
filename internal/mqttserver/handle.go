package mqttserver

import (
	"errors"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errSecondConnect = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a second CONNECT"}           // [MQTT-3.1.0-2]
	errServerPacket  = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a packet only servers send"} //
	errReceiveMax    = &mqtt.Error{Code: mqtt.CodeReceiveMaximumExceeded, Text: "more QoS 1 and 2 messages at once than the receive maximum"}
	errAlias         = &mqtt.Error{Code: mqtt.CodeTopicAliasInvalid, Text: "topic alias over the maximum"}
	errAliasUnknown  = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "topic alias was not set"}
	errRetain        = &mqtt.Error{Code: mqtt.CodeRetainNotSupported, Text: "retained messages are not supported yet"}
	errSubID         = &mqtt.Error{Code: mqtt.CodeSubscriptionIdentifiersNotSupported, Text: "subscription identifiers are not supported yet"}
	errSubIDSent     = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a client sends no subscription identifier in PUBLISH"}
	errTopicLength   = &mqtt.Error{Code: mqtt.CodeTopicNameInvalid, Text: "topic name is longer than limits.topic-length"}
	errNoAuth        = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "AUTH without enhanced authentication"}
	errExpiryRaised  = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "DISCONNECT sets a session expiry that CONNECT had not"} // [MQTT-3.14.2-2]
)

// handle takes one packet of a connected client.
func (c *conn) handle(w *worker, first byte, body []byte) error {
	switch t := mqtt.TypeOf(first); t {
	case mqtt.PUBLISH:
		return c.handlePublish(w, first, body)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		if err := w.ack.Decode(first, body, c.version); err != nil {
			return err
		}
		c.handleAck(t, w)
		return nil
	case mqtt.SUBSCRIBE:
		return c.handleSubscribe(w, first, body)
	case mqtt.UNSUBSCRIBE:
		return c.handleUnsubscribe(w, first, body)
	case mqtt.PINGREQ:
		var p mqtt.Pingreq
		if err := p.Decode(first, body, c.version); err != nil {
			return err
		}
		c.send(mqtt.PINGRESP, &mqtt.Pingresp{}, &w.batch)
		return nil
	case mqtt.DISCONNECT:
		return c.handleDisconnect(first, body)
	case mqtt.CONNECT:
		return errSecondConnect
	case mqtt.AUTH:
		var p mqtt.Auth
		if err := p.Decode(first, body, c.version); err != nil {
			return err
		}
		return errNoAuth
	}
	return errServerPacket
}

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
	switch {
	case len(p.SubscriptionIDs) > 0: // [MQTT-3.3.4-6]
		return errSubIDSent
	case len(p.Topic) > c.srv.opt.TopicLength:
		return errTopicLength
	}
	m := &w.msg
	*m = mq.Message{Topic: p.Topic, Payload: p.Payload, Props: p.Props, QoS: mq.QoS(p.QoS), Keep: c.detail != nil && c.detail.session > 0}
	if p.HasExpiry {
		m.Expiry = w.batch.Now() + int64(p.Expiry)*1000
	}
	if p.Retain && c.version == mqtt.V5 {
		if kind, _ := mq.ParseTopic(p.Topic); kind != mq.TopicP2P && kind != mq.TopicBadP2P {
			return errRetain // [MQTT-3.2.2-14]
		}
	}
	return c.publish(m, p.PacketID, w)
}

// publish hands a message to the core, by QoS.
func (c *conn) publish(m *mq.Message, pid uint16, w *worker) error {
	src := broker.Source{Principal: c.principal, Session: c.sess}
	if m.QoS == mq.AtMostOnce {
		if code := c.srv.broker.Publish(src, m, nil, 0, &w.batch); code != mq.OK {
			if _, closes := ackCode(code, c.version); closes {
				c.closeSoon(ackText(code), &w.batch)
			}
		}
		return nil
	}
	room := c.version != mqtt.V5 || int(c.unacked.Load()) < c.srv.opt.ReceiveMax // [MQTT-3.3.4-9]
	// Counted before: the answer may come at once.
	c.unacked.Add(1)
	if m.QoS == mq.AtLeastOnce {
		if !room {
			return errReceiveMax
		}
		c.srv.broker.Publish(src, m, c, uint64(pid), &w.batch)
		return nil
	}
	fresh, answered, ok := c.srv.broker.PublishQoS2(src, m, pid, room, &w.batch)
	if !ok {
		return errReceiveMax
	}
	if c.version == mqtt.V5 && !fresh || c.version != mqtt.V5 && !answered {
		c.unacked.Add(-1) // the same again: counted the first time
	}
	return nil
}

// resolveAlias sets or uses a topic alias [MQTT-3.3.2-12].
func (c *conn) resolveAlias(p *mqtt.Publish) error {
	switch {
	case p.TopicAlias == 0:
		return nil
	case p.TopicAlias > topicAliasMax: // [MQTT-3.3.2-9]
		return errAlias
	}
	d := c.more()
	if d.aliases == nil {
		d.aliases = make([][]byte, topicAliasMax)
	}
	slot := &d.aliases[p.TopicAlias-1]
	if len(p.Topic) > 0 {
		*slot = append((*slot)[:0], p.Topic...)
		return nil
	}
	if *slot == nil {
		return errAliasUnknown
	}
	p.Topic = *slot
	return nil
}

func (c *conn) handleAck(t mqtt.PacketType, w *worker) {
	b, pid := c.srv.broker, w.ack.PacketID
	switch t {
	case mqtt.PUBACK:
		b.Puback(c.sess, c, pid, &w.batch)
	case mqtt.PUBREC:
		if !b.Pubrec(c.sess, c, pid, w.ack.Code.Failed(), &w.batch) {
			c.sendNotFound(mqtt.PUBREL, pid, &w.batch)
		}
	case mqtt.PUBREL:
		if !b.Pubrel(c.sess, c, pid, &w.batch) {
			c.sendNotFound(mqtt.PUBCOMP, pid, &w.batch)
		}
	case mqtt.PUBCOMP:
		b.Pubcomp(c.sess, c, pid, &w.batch)
	}
}

// sendNotFound answers for an unknown packet identifier: in MQTT 5 with 0x92,
// in 3.x as if it were known, so that the client comes to an end.
func (c *conn) sendNotFound(t mqtt.PacketType, pid uint16, b *broker.Batch) {
	c.send(t, &mqtt.Ack{Type: t, PacketID: pid, Code: mqtt.CodePacketIdentifierNotFound}, b)
}

func (c *conn) handleSubscribe(w *worker, first byte, body []byte) error {
	p := &w.subscribe
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	if p.Properties.Has(mqtt.PropSubscriptionID) { // [MQTT-3.2.2-20]
		return errSubID
	}
	subs := make([]mq.Subscription, len(p.Filters))
	for i, f := range p.Filters {
		if len(f.Topic) > c.srv.opt.TopicLength {
			return errTopicLength
		}
		subs[i] = mq.Subscription{
			Filter: string(f.Topic), QoS: mq.QoS(f.QoS), NoLocal: f.NoLocal,
			RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling,
		}
	}
	ack := mqtt.Suback{PacketID: p.PacketID, Codes: make([]mqtt.ReasonCode, len(subs))}
	w.batch.Flush() // the store may block
	for i, r := range c.srv.broker.Subscribe(c.sess, c.principal, subs) {
		ack.Codes[i] = suback(r, byte(subs[i].QoS), c.version)
	}
	w.batch.Begin()
	c.send(mqtt.SUBACK, &ack, &w.batch)
	return nil
}

func (c *conn) handleUnsubscribe(w *worker, first byte, body []byte) error {
	p := &w.unsubscribe
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	filters := make([]string, len(p.Filters))
	for i, f := range p.Filters {
		filters[i] = string(f)
	}
	w.batch.Flush() // the store may block
	had, err := c.srv.broker.Unsubscribe(c.sess, filters)
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

// handleDisconnect ends the connection in good order.
func (c *conn) handleDisconnect(first byte, body []byte) error {
	var p mqtt.Disconnect
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	d := c.more()
	if p.Properties.Has(mqtt.PropSessionExpiry) {
		if d.session == 0 && p.Properties.SessionExpiry != 0 {
			return errExpiryRaised
		}
		expiry := p.Properties.SessionExpiry
		d.expiry = &expiry
	}
	d.discards = p.Code != mqtt.CodeDisconnectWithWillMessage // [MQTT-3.1.2-10]
	c.setReason("disconnected by the client")
	return errClosing
}
