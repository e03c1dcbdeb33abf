package test

import (
	"fmt"

	"github.com/homing-mq/homing/internal/mqtt"
)

// connectFlagRows has every value of the connect flags that is not allowed,
// with the fields that it announces.
func connectFlagRows() (rows []malformed) {
	for _, v := range all {
		for flags := range 256 {
			f := byte(flags)
			will, qos, retain := f&0x04 != 0, f>>3&3, f&0x20 != 0
			password, user := f&0x40 != 0, f&0x80 != 0
			switch {
			case f&0x01 != 0 && v != mqtt.V31: // [MQTT-3.1.2-3] [MQTT3-3.1.2-3]; 3.1: unused
			case !will && qos != 0: // [MQTT-3.1.2-11] [MQTT3-3.1.2-11] [MQTT3-3.1.2-13]
			case !will && retain: // [MQTT-3.1.2-13] [MQTT3-3.1.2-11] [MQTT3-3.1.2-15]
			case qos == 3: // [MQTT-3.1.2-12] [MQTT3-3.1.2-14]
			case password && !user && v != mqtt.V5: // [MQTT3-3.1.2-22]
			default:
				continue
			}
			body := head(v, f) + props(v) + text("flags")
			if will {
				body += props(v) + text("t") + text("x")
			}
			if user {
				body += text("u")
			}
			if password {
				body += text("p")
			}
			rows = append(rows, malformed{fmt.Sprintf("flags %02X", flags), v, false, frame(0x10, body), breaksConnect(v, badForm)})
		}
	}
	return rows
}

// connectRows has protocol names, versions, and fields that are missing or too
// many.
func connectRows() (rows []malformed) {
	rest := "02000A" + text("connect")
	for _, name := range []string{"", "M", "MQT", "MQTTT", "mqtt", "MQTU", "MQIsd", "MQISDP", "MQIsdpp", "HTTP", "\x00\x00\x00\x00"} {
		for _, v := range all { // [MQTT-3.1.2-1] [MQTT3-3.1.2-1]
			rows = append(rows, malformed{fmt.Sprintf("protocol name %q", name), v, false, frame(0x10, text(name), fmt.Sprintf("%02X", byte(v)), rest), ends})
		}
	}
	for level := range 256 {
		for _, name := range []string{"MQTT", "MQIsdp"} {
			v, want := mqtt.V311, refuses(mqtt.ReturnUnacceptableVersion) // [MQTT3-3.1.2-2]
			switch {
			case name == "MQIsdp" && level&0x7F == 3, name == "MQTT" && (level&0x7F == 4 || level == 5): // bit 7: a bridge
				continue
			case level > 5 && level != 0x83 && level != 0x84: // [MQTT-3.1.2-2]
				v, want = mqtt.V5, refuses(mqtt.CodeUnsupportedProtocolVersion)
			}
			rows = append(rows, malformed{fmt.Sprintf("%s, version %d", name, level), v, false, frame(0x10, text(name), fmt.Sprintf("%02X", level), rest), want})
		}
	}
	for _, v := range all {
		id, will, user := props(v)+text("connect"), props(v)+text("t")+text("x"), text("u")
		for _, c := range []struct {
			name  string
			flags byte
			rest  string
		}{
			{"no client ID", 0x02, props(v)},                          // [MQTT-3.1.3-3] [MQTT3-3.1.3-3]
			{"no will", 0x06, id},                                     // [MQTT-3.1.2-9] [MQTT3-3.1.2-9]
			{"no will payload", 0x06, id + props(v) + text("t")},      // [MQTT-3.1.2-9] [MQTT3-3.1.2-9]
			{"a will not announced", 0x02, id + will},                 // [MQTT3-3.1.2-11]
			{"a user name not announced", 0x02, id + user},            // [MQTT-3.1.2-16] [MQTT3-3.1.2-18]
			{"a password not announced", 0x82, id + user + text("p")}, // [MQTT-3.1.2-18] [MQTT3-3.1.2-20]
			{"a will in place of a user name", 0x82, id + will},       // [MQTT-3.1.3-1] [MQTT3-3.1.3-1]
			{"a client ID longer than the packet", 0x02, props(v) + "00FF41"},
			{"a user name longer than the packet", 0x82, id + "FFFF41"},
			{"a password longer than the packet", 0xC2, id + user + "FFFF41"},
		} {
			rows = append(rows, malformed{c.name, v, false, frame(0x10, head(v, c.flags), c.rest), breaksConnect(v, badForm)})
		}
		if v != mqtt.V31 { // which lets them be missing
			rows = append(rows,
				malformed{"no user name", v, false, frame(0x10, head(v, 0x82), id), breaksConnect(v, badForm)},      // [MQTT-3.1.2-17] [MQTT3-3.1.2-19]
				malformed{"no password", v, false, frame(0x10, head(v, 0xC2), id, user), breaksConnect(v, badForm)}) // [MQTT-3.1.2-19] [MQTT3-3.1.2-21]
		}
	}
	return append(rows,
		malformed{"an empty client ID", mqtt.V31, false, frame(0x10, head(mqtt.V31, 0x02), text("")), refuses(mqtt.ReturnIdentifierRejected)},
		malformed{"an empty client ID without clean session", mqtt.V311, false, frame(0x10, head(mqtt.V311, 0), text("")), refuses(mqtt.ReturnIdentifierRejected)}, // [MQTT3-3.1.3-8]
		malformed{"a packet before CONNACK after a refusal", mqtt.V311, false, // [MQTT3-3.1.4-5]
			frame(0x10, head(mqtt.V311, 0), text("")) + frame(0x82, "0001", text("t"), "00"), refuses(mqtt.ReturnIdentifierRejected)},
		malformed{"a packet before CONNACK after a refusal", mqtt.V5, false, // [MQTT-3.1.4-6]
			frame(0x10, head(mqtt.V5, 0x02), "03210000", text("x")) + frame(0x82, "0001", "00", text("t"), "00"), refuses(badUse)},
		malformed{"two CONNECTs at once", mqtt.V311, false, frame(0x10, head(mqtt.V311, 0x03), text("x")) + frame(0x10, head(mqtt.V311, 0x02), text("x")), ends})
}
