package mqttserver

import (
	"bytes"
	"unicode/utf8"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var (
	errWillTopic   = &mqtt.Error{Code: mqtt.CodeTopicNameInvalid, Text: "will topic is longer than limits.topic-length, or a P2P topic without a target"}
	errWillQoS     = &mqtt.Error{Code: mqtt.CodeQoSNotSupported, Text: "will QoS over the server's maximum"}
	errWillPayload = &mqtt.Error{Code: mqtt.CodePayloadFormatInvalid, Text: "will payload is not UTF-8, as its format indicator says"}
)

// checkWill finds out at CONNECT what would keep the will from being published
// later, when nobody is there to be told. Whether the client may publish it is
// left to that time: rules may change until then.
func (c *conn) checkWill(w *mqtt.Will) error {
	kind, _ := mq.ParseTopic(w.Topic)
	over := c.srv.message.Check(&mq.Message{Topic: w.Topic, QoS: mq.QoS(w.QoS)})
	format := w.Properties.Has(mqtt.PropPayloadFormat) && w.Properties.PayloadFormat == 1
	switch {
	case over == mq.BreachTopicText:
		return errStrictText
	case kind == mq.TopicBadP2P, over == mq.BreachTopicLength:
		return errWillTopic
	case over == mq.BreachQoS: // [MQTT-3.2.2-12]
		return errWillQoS
	case format && !utf8.Valid(w.Payload):
		return errWillPayload
	}
	return nil
}

// will returns the will of a CONNECT, a copy with its user properties in order,
// or nil if it has none [MQTT-3.1.3-10] [MQTT3-3.1.2-12].
func (c *conn) will(p *mqtt.Connect) *broker.Will {
	if !p.HasWill || c.isNotification(p.Will.Topic) {
		return nil
	}
	w := &p.Will
	out := &broker.Will{
		Principal: *c.principal,
		Message: mq.Message{
			Topic: bytes.Clone(w.Topic), Payload: bytes.Clone(w.Payload), Props: w.Properties.AppendTravelling(nil),
			QoS: mq.QoS(w.QoS), Keep: c.detail != nil && c.detail.session > 0,
		},
	}
	// [MQTT-3.1.2-14] [MQTT-3.1.2-15] [MQTT3-3.1.2-16] [MQTT3-3.1.2-17]
	out.Message.Retain = w.Retain && !isP2P(w.Topic)
	if w.Properties.Has(mqtt.PropWillDelay) {
		out.Delay = w.Properties.WillDelay
	}
	if w.Properties.Has(mqtt.PropMessageExpiry) {
		out.Expires, out.Expiry = true, w.Properties.MessageExpiry
	}
	return out
}
