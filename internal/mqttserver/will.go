package mqttserver

import (
	"bytes"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// will is the message to publish if the connection ends without DISCONNECT
// [MQTT-3.1.2-8]. Its slices are copies.
type will struct {
	topic, payload, props []byte
	qos                   mq.QoS
	expiry                uint32 // seconds
	expires               bool
}

// takeWill checks and copies the will of a CONNECT.
func (c *conn) takeWill(p *mqtt.Connect, b *broker.Batch) error {
	if !p.HasWill {
		return nil
	}
	if p.Will.Retain && c.version == mqtt.V5 { // [MQTT-3.2.2-13]
		return c.reject(mqtt.CodeRetainNotSupported, "retained messages are not supported yet", b)
	}
	c.more().will = &will{
		topic: bytes.Clone(p.Will.Topic), payload: bytes.Clone(p.Will.Payload),
		props: p.Will.Properties.AppendTravelling(nil), qos: mq.QoS(p.Will.QoS),
		expiry: p.Will.Properties.MessageExpiry, expires: p.Will.Properties.Has(mqtt.PropMessageExpiry),
	}
	return nil
}

// publishWill publishes the will unless the client has disconnected in good
// order. It is a publish like any other: rules apply.
func (c *conn) publishWill(b *broker.Batch) {
	if c.detail == nil || c.detail.will == nil || c.detail.discards {
		return
	}
	w := c.detail.will
	m := mq.Message{Topic: w.topic, Payload: w.payload, Props: w.props, QoS: w.qos, Keep: c.detail.session > 0}
	if w.expires {
		m.Expiry = b.Now() + int64(w.expiry)*1000
	}
	c.srv.broker.Publish(broker.Source{Principal: c.principal}, &m, nil, 0, b)
}
