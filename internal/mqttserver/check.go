package mqttserver

import (
	"bytes"
	"unicode/utf8"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// textMark is the payload format indicator that says UTF-8.
var textMark = mqtt.AppendPayloadFormat(nil, true)

// limitErrors are what ends the connection of who sends a message over a limit.
var limitErrors = [...]*mqtt.Error{
	mq.BreachTopicLength: errTopicLength, mq.BreachTopicText: errStrictText, mq.BreachQoS: errQoS, mq.BreachSize: errTooLarge,
}

// refuseOver counts a message over a limit and returns what ends its sender's
// connection.
func (c *conn) refuseOver(over mq.Breach) error {
	c.srv.broker.Stats.Dropped[over.Drop()].Add(1)
	return limitErrors[over]
}

// badPayload reports whether the payload is not the UTF-8 that the payload
// format indicator in props, travelling properties in their wire encoding, says
// it is. scratch is overwritten. U+0000 is allowed: a payload is no MQTT string.
func badPayload(props, payload []byte, scratch *mqtt.Properties) bool {
	// Most messages have no such properties, and are done after this look.
	if !bytes.Contains(props, textMark) || utf8.Valid(payload) {
		return false
	}
	err := mqtt.DecodeProps(props, scratch)
	return err == nil && scratch.Has(mqtt.PropPayloadFormat) && scratch.PayloadFormat == 1
}

// strictText is mq.StrictText: of topic names mq.Limits asks for it.
func strictText(text []byte) bool { return mq.StrictText(text) }

// refusesText reports whether a string that names something is refused under
// Options.StrictUTF8. Both standards let a receiver treat any packet with such a
// string as malformed; properties and reason strings, which name nothing, are
// taken as they are.
func (c *conn) refusesText(text []byte) bool { return c.srv.opt.StrictUTF8 && !strictText(text) }
