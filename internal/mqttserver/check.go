package mqttserver

import (
	"bytes"
	"unicode/utf8"

	"github.com/homing-mq/homing/internal/mqtt"
)

// textMark is the payload format indicator that says UTF-8.
var textMark = mqtt.AppendPayloadFormat(nil, true)

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

// strictText reports whether text, valid UTF-8, is without the code points that
// a receiver may refuse: control characters and non-characters (5.0 section
// 1.5.4, 3.1.1 section 1.5.3).
func strictText(text []byte) bool {
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

// refusesText reports whether a string that names something is refused under
// Options.StrictUTF8. Both standards let a receiver treat any packet with such a
// string as malformed; properties and reason strings, which name nothing, are
// taken as they are.
func (c *conn) refusesText(text []byte) bool { return c.srv.opt.StrictUTF8 && !strictText(text) }
