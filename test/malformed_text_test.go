package test

import (
	"fmt"
	"strings"

	"github.com/homing-mq/homing/internal/mqtt"
)

// badTexts are not strings of MQTT.
var badTexts = []struct{ name, text string }{
	{"U+0000", "a\x00b"}, // [MQTT-1.5.4-2] [MQTT-4.7.3-2] [MQTT3-1.5.3-2] [MQTT3-4.7.3-2]
	// The rest: [MQTT-1.5.4-1] [MQTT3-1.5.3-1]
	{"U+D800, a surrogate", "a\xED\xA0\x80"},
	{"U+DBFF, a surrogate", "\xED\xAF\xBFa"},
	{"U+DC00, a surrogate", "\xED\xB0\x80"},
	{"U+DFFF, a surrogate", "\xED\xBF\xBF"},
	{"a pair of surrogates", "\xED\xA0\xBD\xED\xB8\x80"},
	{"U+0000 in two bytes", "\xC0\x80"},
	{"a slash in two bytes", "a\xC0\xAFb"},
	{"U+007F in two bytes", "\xC1\xBF"},
	{"U+07FF in three bytes", "\xE0\x9F\xBF"},
	{"U+FFFF in four bytes", "\xF0\x8F\xBF\xBF"},
	{"U+110000", "\xF4\x90\x80\x80"},
	{"a lead byte over U+10FFFF", "\xF5\x80\x80\x80"},
	{"a sequence of five bytes", "\xF8\x88\x80\x80\x80"},
	{"a sequence of six bytes", "\xFC\x84\x80\x80\x80\x80"},
	{"byte FE", "a\xFE"},
	{"byte FF", "a\xFF"},
	{"a continuation byte alone", "a\x80b"},
	{"two bytes, cut off", "a\xC3"},
	{"three bytes, cut off", "a\xE2\x82"},
	{"four bytes, cut off", "a\xF0\x9F\x98"},
	{"two bytes, the second is a letter", "\xC3a"},
	{"Latin-1", "caf\xE9"},
}

// textField is a string in what a client sends.
type textField struct {
	name    string
	connect bool
	send    func(v mqtt.Version, s string) string
}

// textFields are the strings of all versions.
var textFields = []textField{
	{"client ID", false, func(v mqtt.Version, s string) string { return frame(0x10, head(v, 0x02), props(v), text(s)) }}, // [MQTT-3.1.3-4] [MQTT3-3.1.3-4]
	{"will topic", false, func(v mqtt.Version, s string) string { // [MQTT-3.1.3-11] [MQTT3-3.1.3-10]
		return frame(0x10, head(v, 0x06), props(v), text("text"), props(v), text(s), text("x"))
	}},
	{"user name", false, func(v mqtt.Version, s string) string { // [MQTT-3.1.3-12] [MQTT3-3.1.3-11]
		return frame(0x10, head(v, 0x82), props(v), text("text"), text(s))
	}},
	{"topic name", true, func(v mqtt.Version, s string) string { return frame(0x30, text(s), props(v), "78") }},                  // [MQTT-3.3.2-1] [MQTT3-3.3.2-1]
	{"topic name of QoS 2", true, func(v mqtt.Version, s string) string { return frame(0x34, text(s), "0001", props(v)) }},       // [MQTT-3.3.2-1] [MQTT3-3.3.2-1]
	{"filter in SUBSCRIBE", true, func(v mqtt.Version, s string) string { return frame(0x82, "0001", props(v), text(s), "00") }}, // [MQTT-3.8.3-1] [MQTT3-3.8.3-1]
	{"second filter in SUBSCRIBE", true, func(v mqtt.Version, s string) string {
		return frame(0x82, "0001", props(v), text("t"), "00", text(s), "00")
	}},
	{"filter in UNSUBSCRIBE", true, func(v mqtt.Version, s string) string { return frame(0xA2, "0001", props(v), text(s)) }}, // [MQTT-3.10.3-1] [MQTT3-3.10.3-1]
}

// propertyTexts are the properties that are strings; %s is one.
var propertyTexts = []struct {
	name, before, after string
	in                  []string
}{
	{"content type", "03", "", withMessage},   // [MQTT-3.3.2-19]
	{"response topic", "08", "", withMessage}, // [MQTT-3.3.2-13]
	{"authentication method", "15", "", []string{"CONNECT"}},
	{"reason string", "1F", "", withReason},
	{"key of a user property", "26", text("v"), nil}, // [MQTT-1.5.7-1]
	{"value of a user property", "26" + text("k"), "", nil},
}

// textRows has every string with everything that is not one.
func textRows() (rows []malformed) {
	for _, bad := range badTexts {
		for _, v := range all {
			for _, f := range textFields {
				want := breaks(v, badForm)
				if !f.connect {
					want = breaksConnect(v, badForm)
				}
				rows = append(rows, malformed{f.name + ": " + bad.name, v, f.connect, f.send(v, bad.text), want})
			}
		}
		for _, p := range propertyTexts {
			for _, c := range carriers {
				if p.in == nil || strings.Contains(strings.Join(p.in, " "), c.name) {
					rows = append(rows, c.bad(p.name+": "+bad.name, props(mqtt.V5, p.before, text(bad.text), p.after), badForm))
				}
			}
		}
	}
	for _, v := range all { // what looks strange and is right
		rows = append(rows,
			malformed{"byte order mark", v, true, frame(0x30, text("\uFEFFt"), props(v)), stays}, // [MQTT-1.5.4-3] [MQTT3-1.5.3-3]
			malformed{"four bytes", v, true, frame(0x30, text("\U0002A6D4"), props(v)), stays},
			malformed{"U+D7FF and U+E000", v, true, frame(0x30, text("\uD7FF\uE000"), props(v)), stays},
			malformed{"a password is no string", v, false, frame(0x10, head(v, 0xC2), props(v), text("text"), text("u"), text("\x00\xFF")), answers(mqtt.CONNACK, 0)})
	}
	return rows
}

// topicRows has names that are none.
func topicRows() (rows []malformed) {
	for _, v := range all {
		for _, name := range []string{"#", "+", "a/#", "a/+", "+/a", "#/a", "a/+/b", "a+", "+a", "a#b", "a/b+c/d", "/+", "/#", "++", "$SYS/#"} {
			for qos := range byte(3) { // [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT3-3.3.2-2] [MQTT3-4.7.1-1]
				rows = append(rows, malformed{fmt.Sprintf("%s, QoS %d", name, qos), v, true, publishTo(v, name, qos), breaks(v, badForm)})
			}
			rows = append(rows, malformed{"will to " + name, v, false, willTo(v, name), breaksConnect(v, badForm)})
		}
		for qos := range byte(3) { // [MQTT-4.7.3-1] [MQTT3-4.7.3-1]; section 3.3.2.1
			rows = append(rows, malformed{fmt.Sprintf("empty, QoS %d", qos), v, true, publishTo(v, "", qos), breaks(v, badUse)})
		}
		rows = append(rows, malformed{"will to nowhere", v, false, willTo(v, ""), breaksConnect(v, badForm)}) // [MQTT-4.7.3-1] [MQTT3-4.7.3-1]
	}
	return rows
}

func publishTo(v mqtt.Version, topic string, qos byte) string {
	id := ""
	if qos > 0 {
		id = "0001"
	}
	return frame(0x30|qos<<1, text(topic), id, props(v), "78")
}

func willTo(v mqtt.Version, topic string) string {
	return frame(0x10, head(v, 0x06), props(v), text("will"), props(v), text(topic), text("x"))
}

// filterRows has filters that are none. 5.0 and 3.1.1 let them be refused one
// by one (section 3.9.3 of both); 3.1 has no code for that.
func filterRows() (rows []malformed) {
	filters := []string{
		"",                                                                    // [MQTT-4.7.3-1] [MQTT3-4.7.3-1]
		"a#", "#a", "a/#b", "a/b#", "a/#/b", "#/", "#/#", "##", "/#/", "a/#/", // [MQTT-4.7.1-1] [MQTT3-4.7.1-2]
		"a+", "+a", "++", "a/+b", "a/b+", "a/b+/c", "+#", "#+", "a/+#", // [MQTT-4.7.1-2] [MQTT3-4.7.1-3]
	}
	shared := []string{
		"$share/", "$share//", "$share//t", // [MQTT-4.8.2-1]
		"$share/g", "$share/g/", "$share/+/t", "$share/#/t", "$share/g+/t", "$share/g#/t", // [MQTT-4.8.2-2]
		"$share/g/t#", "$share/g/+t", "$share/g/#/t", // [MQTT-4.7.1-1] [MQTT-4.7.1-2]
	}
	for _, v := range all {
		for _, f := range append(filters, shared...) {
			subscribed, unsubscribed := ends, answers(mqtt.UNSUBACK)
			switch {
			case f == "":
				subscribed = breaks(v, badForm)
				unsubscribed = subscribed
			case v == mqtt.V311: // [MQTT3-3.9.3-2]
				subscribed = answers(mqtt.SUBACK, mqtt.CodeUnspecifiedError)
			case v == mqtt.V5:
				subscribed, unsubscribed = answers(mqtt.SUBACK, mqtt.CodeTopicFilterInvalid), answers(mqtt.UNSUBACK, mqtt.CodeTopicFilterInvalid, mqtt.CodeNoSubscriptionExisted)
			}
			rows = append(rows,
				malformed{fmt.Sprintf("SUBSCRIBE to %q", f), v, true, frame(0x82, "0001", props(v), text(f), "00"), subscribed},
				malformed{fmt.Sprintf("SUBSCRIBE to t and %q", f), v, true, frame(0x82, "0001", props(v), text("t"), "00", text(f), "00"), subscribed},
				malformed{fmt.Sprintf("UNSUBSCRIBE from %q", f), v, true, frame(0xA2, "0001", props(v), text(f)), unsubscribed})
		}
	}
	return rows
}

// optionRows has every options byte of a subscription that is not allowed.
func optionRows() (rows []malformed) {
	for _, v := range all {
		for o := range 256 {
			// [MQTT-3.8.3-5] [MQTT3-3.8.3-4]
			want := breaks(v, badForm)
			switch {
			case v != mqtt.V5:
				if o <= 2 {
					continue
				}
			case o&0xC0 != 0:
			case o&0x03 == 3, o&0x30 == 0x30: // section 3.8.3.1
				want = disconnects(badUse)
			default:
				continue
			}
			rows = append(rows, malformed{fmt.Sprintf("options %02X", o), v, true, frame(0x82, "0001", props(v), text("t"), fmt.Sprintf("%02X", o)), want})
		}
	}
	return append(rows, // [MQTT-3.8.3-4]
		malformed{"no local, shared", mqtt.V5, true, frame(0x82, "0001", "00", text("$share/g/t"), "04"), disconnects(badUse)},
		malformed{"no local, shared, second filter", mqtt.V5, true, frame(0x82, "0001", "00", text("t"), "04", text("$share/g/t"), "05"), disconnects(badUse)})
}

// aliasRows has topic aliases that the server has not allowed or does not know.
func aliasRows() (rows []malformed) {
	alias := func(n int, topic string, qos byte) string {
		id := ""
		if qos > 0 {
			id = "0001"
		}
		return frame(0x30|qos<<1, text(topic), id, props(mqtt.V5, fmt.Sprintf("23%04X", n)), "78")
	}
	for qos := range byte(3) {
		for _, n := range []int{33, 0xFFFF} { // CONNACK says 32 [MQTT-3.2.2-17] [MQTT-3.3.2-9]
			for _, topic := range []string{"t", ""} {
				rows = append(rows, malformed{fmt.Sprintf("alias %d, topic %q, QoS %d", n, topic, qos), mqtt.V5, true, alias(n, topic, qos), disconnects(mqtt.CodeTopicAliasInvalid)})
			}
		}
		// section 3.3.2.3.4
		rows = append(rows, malformed{fmt.Sprintf("an alias that stands for nothing, QoS %d", qos), mqtt.V5, true, alias(1, "", qos), disconnects(badUse)})
	}
	return append(rows,
		malformed{"every alias there is", mqtt.V5, true, alias(32, "t", 0), stays}) // [MQTT-3.3.2-12]
}
