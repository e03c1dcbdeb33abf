package mqttclient

import (
	"slices"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Message is a message from the server. It and its byte slices are the
// reader's: they are valid until Handler returns. Topic is set even if the
// server has used a topic alias.
type Message struct {
	mqtt.Publish
	client *Client
}

// Clone returns a copy that stays valid.
func (m *Message) Clone() *Message {
	n := *m
	n.Topic = slices.Clone(m.Topic)
	n.Payload = slices.Clone(m.Payload)
	n.Props = slices.Clone(m.Props)
	n.SubscriptionIDs = slices.Clone(m.SubscriptionIDs)
	return &n
}

// Ack acknowledges the message with PUBACK or PUBREC; for QoS 0 it does
// nothing. With Options.ManualAck each message needs one, from Handler or, for a
// clone, later. It does not wait; in Handler it leaves at the end of the batch,
// elsewhere with the next Flush.
func (m *Message) Ack() { m.AckWith(mqtt.CodeSuccess) }

// AckWith is Ack with a reason code; MQTT 5.
func (m *Message) AckWith(code mqtt.ReasonCode) {
	switch m.QoS {
	case 1:
		m.client.SendAck(mqtt.PUBACK, m.PacketID, code)
	case 2:
		m.client.SendAck(mqtt.PUBREC, m.PacketID, code)
	}
}

// SendAck enqueues any of PUBACK, PUBREC, PUBREL and PUBCOMP. It does not wait
// and does not flush. After the end of the connection it does nothing.
func (c *Client) SendAck(t mqtt.PacketType, packetID uint16, code mqtt.ReasonCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t == mqtt.PUBREC && !code.Failed() { // also on a broken connection: the handler has the message
		if c.session.received == nil {
			c.session.received = make(map[uint16]struct{})
		}
		c.session.received[packetID] = struct{}{}
	}
	if c.sendable() != nil {
		return
	}
	c.out = mqtt.AppendAck(c.out, c.version, t, packetID, code)
}

// onPublish hands a message to Handler, a QoS 2 message once. [MQTT-4.3.3-10]
func (c *Client) onPublish(first byte, body []byte) error {
	m := &c.message
	if err := m.Decode(first, body, c.version); err != nil {
		return err
	}
	if m.TopicAlias != 0 || len(m.Topic) == 0 {
		if err := c.resolveAlias(m); err != nil {
			return err
		}
	}
	if m.QoS == 2 && c.hasReceived(m.PacketID) {
		c.SendAck(mqtt.PUBREC, m.PacketID, 0)
		return nil
	}
	if c.options.Handler != nil {
		c.options.Handler(m)
	}
	if m.QoS > 0 && !c.options.ManualAck {
		m.Ack()
	}
	return nil
}

func (c *Client) hasReceived(packetID uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.session.received[packetID]
	return ok
}

func (c *Client) resolveAlias(m *Message) error {
	switch a := int(m.TopicAlias); {
	case a == 0 || a >= len(c.aliases):
		return protocolError("topic alias %d of at most %d", a, len(c.aliases)-1)
	case len(m.Topic) > 0:
		c.aliases[a] = string(m.Topic)
	case c.aliases[a] == "":
		return protocolError("topic alias %d has no topic", a)
	default:
		m.Topic = []byte(c.aliases[a])
	}
	return nil
}

// onPubrel lets go of a QoS 2 message. [MQTT-4.3.3-11]
func (c *Client) onPubrel(a *mqtt.Ack) {
	c.mu.Lock()
	_, known := c.session.received[a.PacketID]
	delete(c.session.received, a.PacketID)
	c.mu.Unlock()
	if c.options.OnPubrel != nil && !c.options.OnPubrel(a.PacketID) {
		return
	}
	code := mqtt.CodeSuccess
	if !known {
		code = mqtt.CodePacketIdentifierNotFound
	}
	c.SendAck(mqtt.PUBCOMP, a.PacketID, code)
}
