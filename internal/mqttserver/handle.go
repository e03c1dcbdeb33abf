package mqttserver

import (
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errLongLength      = &mqtt.Error{Code: mqtt.CodeMalformedPacket, Text: "remaining length is not in its shortest form"} // [MQTT-1.5.5-1]
	errSecondConnect   = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a second CONNECT"}                               // [MQTT-3.1.0-2] [MQTT3-3.1.0-2]
	errServerPacket    = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a packet only servers send"}
	errStrictText      = &mqtt.Error{Code: mqtt.CodeMalformedPacket, Text: "a name has a control character or non-character, and mqtt.strict-utf8 is set"}
	errExpiryRaised    = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "DISCONNECT sets a session expiry that CONNECT had not"} // section 3.14.2.2.2
	errServerReference = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "a server reference from a client"}
	errAckMisplaced    = &mqtt.Error{Code: mqtt.CodeProtocolError, Text: "an acknowledgement that does not belong to the QoS, or the state, of its message"} // section 4.3
)

// handle takes one packet of a connected client.
func (c *conn) handle(w *worker, first byte, body []byte) error {
	if w.longLength && c.version == mqtt.V5 {
		return errLongLength
	}
	switch t := mqtt.TypeOf(first); t {
	case mqtt.PUBLISH:
		return c.handlePublish(w, first, body)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		if err := w.ack.Decode(first, body, c.version); err != nil {
			return err
		}
		return c.handleAck(t, w)
	case mqtt.SUBSCRIBE:
		return c.handleSubscribe(w, first, body)
	case mqtt.UNSUBSCRIBE:
		return c.handleUnsubscribe(w, first, body)
	case mqtt.PINGREQ:
		var p mqtt.Pingreq
		if err := p.Decode(first, body, c.version); err != nil {
			return err
		}
		// [MQTT-3.12.4-1] [MQTT3-3.12.4-1]
		c.send(mqtt.PINGRESP, &mqtt.Pingresp{}, &w.batch)
		return nil
	case mqtt.DISCONNECT:
		return c.handleDisconnect(first, body)
	case mqtt.CONNECT:
		return errSecondConnect
	case mqtt.AUTH:
		return c.handleAuth(w, first, body)
	}
	return errServerPacket
}

func (c *conn) handleAck(t mqtt.PacketType, w *worker) error {
	b, pid := c.srv.broker, w.ack.PacketID
	var r broker.AckResult
	switch t {
	case mqtt.PUBACK:
		r = b.Puback(c.sess, c, pid, &w.batch)
	case mqtt.PUBREC:
		// A refusal ends the exchange, also one of a message that is not known:
		// PUBREL answers the others only [MQTT-4.3.3-4].
		failed := w.ack.Code.Failed()
		if r = b.Pubrec(c.sess, c, pid, failed, &w.batch); r == broker.AckUnknown && !failed {
			c.sendNotFound(mqtt.PUBREL, pid, &w.batch)
		}
	case mqtt.PUBREL:
		if r = b.Pubrel(c.sess, c, pid, &w.batch); r == broker.AckUnknown {
			c.sendNotFound(mqtt.PUBCOMP, pid, &w.batch)
		}
	case mqtt.PUBCOMP:
		r = b.Pubcomp(c.sess, c, pid, &w.batch)
	}
	if r == broker.AckMisplaced {
		return errAckMisplaced
	}
	return nil
}

// sendNotFound answers for an unknown packet identifier: in MQTT 5 with 0x92,
// in 3.x as if it were known, so that the client comes to an end.
func (c *conn) sendNotFound(t mqtt.PacketType, pid uint16, b *broker.Batch) {
	c.send(t, &mqtt.Ack{Type: t, PacketID: pid, Code: mqtt.CodePacketIdentifierNotFound}, b)
}

// handleDisconnect ends the connection in good order. Of the will only 0x00 gets
// rid: a client that goes because of an error has not said farewell
// [MQTT-3.1.2-10] [MQTT-3.14.4-3].
func (c *conn) handleDisconnect(first byte, body []byte) error {
	var p mqtt.Disconnect
	if err := p.Decode(first, body, c.version); err != nil {
		return err
	}
	if p.Properties.Has(mqtt.PropServerReference) { // section 3.14.2.2.5
		return errServerReference
	}
	d := c.more()
	if p.Properties.Has(mqtt.PropSessionExpiry) {
		if d.session == 0 && p.Properties.SessionExpiry != 0 {
			return errExpiryRaised
		}
		expiry := min(p.Properties.SessionExpiry, c.srv.opt.SessionExpiry)
		d.departure.Expiry = &expiry
	}
	d.departure.DiscardWill = p.Code == mqtt.CodeNormalDisconnection // [MQTT3-3.1.2-10] [MQTT3-3.14.4-3]
	c.setReason("disconnected by the client")
	return errClosing
}
