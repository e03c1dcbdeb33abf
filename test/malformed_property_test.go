package test

import (
	"fmt"
	"slices"

	"github.com/homing-mq/homing/internal/mqtt"
)

// carrier is a place for properties in what a client sends.
type carrier struct {
	name    string
	connect bool
	send    func(properties string) string // properties with their length
}

var carriers = []carrier{
	{"CONNECT", false, func(p string) string { return frame(0x10, head(mqtt.V5, 0x02), p, text("carrier")) }},
	{"will", false, func(p string) string {
		return frame(0x10, head(mqtt.V5, 0x06), "00", text("carrier"), p, text("t"), text("x"))
	}},
	{"PUBLISH", true, func(p string) string { return frame(0x32, text("t"), "0001", p) }},
	{"PUBACK", true, func(p string) string { return frame(0x40, "000100", p) }},
	{"PUBREC", true, func(p string) string { return frame(0x50, "000100", p) }},
	{"PUBREL", true, func(p string) string { return frame(0x62, "000100", p) }},
	{"PUBCOMP", true, func(p string) string { return frame(0x70, "000100", p) }},
	{"SUBSCRIBE", true, func(p string) string { return frame(0x82, "0001", p, text("t"), "00") }},
	{"UNSUBSCRIBE", true, func(p string) string { return frame(0xA2, "0001", p, text("t")) }},
	{"DISCONNECT", true, func(p string) string { return frame(0xE0, "00", p) }},
}

// bad is the row of a carrier with such properties.
func (c carrier) bad(what, properties string, codes ...mqtt.ReasonCode) malformed {
	want := disconnects(codes...)
	if !c.connect {
		want = refuses(codes...)
	}
	return malformed{c.name + ": " + what, mqtt.V5, c.connect, c.send(properties), want}
}

// propertyForm is a property as table 2-4 has it.
type propertyForm struct {
	id    byte
	name  string
	value string   // a good one
	in    []string // carriers that may have it
}

var (
	withMessage = []string{"PUBLISH", "will"}
	withReason  = []string{"PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "DISCONNECT"}
)

// propertyForms are all there are but the user property, which any packet may
// have any number of times.
var propertyForms = []propertyForm{
	{0x01, "payload format indicator", "00", withMessage},
	{0x02, "message expiry interval", "0000000A", withMessage},
	{0x03, "content type", text("x"), withMessage},
	{0x08, "response topic", text("x"), withMessage},
	{0x09, "correlation data", text("x"), withMessage},
	{0x0B, "subscription identifier", "01", []string{"PUBLISH", "SUBSCRIBE"}},
	{0x11, "session expiry interval", "00000000", []string{"CONNECT", "DISCONNECT"}},
	{0x12, "assigned client identifier", text("x"), nil},
	{0x13, "server keep alive", "000A", nil},
	{0x15, "authentication method", text("x"), []string{"CONNECT"}},
	{0x16, "authentication data", text("x"), []string{"CONNECT"}},
	{0x17, "request problem information", "01", []string{"CONNECT"}},
	{0x18, "will delay interval", "00000000", []string{"will"}},
	{0x19, "request response information", "01", []string{"CONNECT"}},
	{0x1A, "response information", text("x"), nil},
	{0x1C, "server reference", text("x"), []string{"DISCONNECT"}},
	{0x1F, "reason string", text("x"), withReason},
	{0x21, "receive maximum", "000A", []string{"CONNECT"}},
	{0x22, "topic alias maximum", "000A", []string{"CONNECT"}},
	{0x23, "topic alias", "0001", []string{"PUBLISH"}},
	{0x24, "maximum QoS", "01", nil},
	{0x25, "retain available", "01", nil},
	{0x27, "maximum packet size", "00001000", []string{"CONNECT"}},
	{0x28, "wildcard subscription available", "01", nil},
	{0x29, "subscription identifiers available", "01", nil},
	{0x2A, "shared subscription available", "01", nil},
}

// wire is the property with a value.
func (f propertyForm) wire(value string) string { return fmt.Sprintf("%02X%s", f.id, value) }

// propertyRows has, for each packet, every property that it must not have, and
// every one twice that it may have once.
func propertyRows() (rows []malformed) {
	for _, c := range carriers {
		known := map[int]bool{0x26: true}
		for _, f := range propertyForms {
			known[int(f.id)] = true
			one := f.wire(f.value)
			if !slices.Contains(f.in, c.name) { // section 2.2.2.2
				rows = append(rows, c.bad(f.name, props(mqtt.V5, one), badForm))
				continue
			}
			// PUBLISH has several subscription identifiers, but from servers [MQTT-3.3.4-6].
			rows = append(rows,
				c.bad("two of "+f.name, props(mqtt.V5, one, one), badUse),
				c.bad("two of "+f.name+", apart", props(mqtt.V5, one, "26"+text("k")+text("v"), one), badUse))
		}
		for id := range 0x80 {
			if !known[id] { // section 2.2.2.2
				rows = append(rows, c.bad(fmt.Sprintf("unknown property 0x%02X", id), props(mqtt.V5, fmt.Sprintf("%02X00", id)), badForm))
			}
		}
		for _, id := range []string{"8001", "FF7F", "808001", "FFFF7F", "80808001", "FFFFFF7F", "8080808001", "8100", "9F00"} {
			rows = append(rows, c.bad("unknown property "+id, props(mqtt.V5, id, text("x")), badForm))
		}
	}
	return append(rows,
		malformed{"PUBLISH: subscription identifier", mqtt.V5, true, carriers[2].send("020B01"), disconnects(badUse)}) // [MQTT-3.3.4-6]
}

// propertyValueRows has values that end too soon or are out of range.
func propertyValueRows() (rows []malformed) {
	in := func(name string) carrier {
		return carriers[slices.IndexFunc(carriers, func(c carrier) bool { return c.name == name })]
	}
	for _, c := range carriers {
		for _, f := range append(propertyForms, propertyForm{0x26, "user property", text("k") + text("v"), []string{c.name}}) {
			if !slices.Contains(f.in, c.name) {
				continue
			}
			for n := range len(f.value) / 2 {
				rows = append(rows, c.bad(fmt.Sprintf("%s of %d bytes", f.name, n), props(mqtt.V5, f.wire(f.value[:2*n])), badForm))
			}
		}
	}
	for _, name := range withMessage {
		c := in(name)
		rows = append(rows,
			c.bad("payload format 2", props(mqtt.V5, "0102"), badForm, badUse),
			c.bad("payload format 255", props(mqtt.V5, "01FF"), badForm, badUse),
			c.bad("response topic with #", props(mqtt.V5, "08"+text("a/#")), badForm, badUse), // [MQTT-3.3.2-14]
			c.bad("response topic with +", props(mqtt.V5, "08"+text("+/a")), badForm, badUse), // [MQTT-3.3.2-14]
			c.bad("response topic is empty", props(mqtt.V5, "08"+text("")), badForm, badUse))  // [MQTT-4.7.3-1]
	}
	c, p, s := in("CONNECT"), in("PUBLISH"), in("SUBSCRIBE")
	return append(rows,
		c.bad("receive maximum 0", props(mqtt.V5, "210000"), badUse),                                                // section 3.1.2.11.3
		c.bad("maximum packet size 0", props(mqtt.V5, "2700000000"), badUse),                                        // section 3.1.2.11.4
		c.bad("request response information 2", props(mqtt.V5, "1902"), badUse),                                     // section 3.1.2.11.6
		c.bad("request problem information 2", props(mqtt.V5, "1702"), badUse),                                      // section 3.1.2.11.7
		c.bad("authentication data without a method", props(mqtt.V5, "16"+text("x")), badUse),                       // section 3.1.2.11.10
		c.bad("unknown authentication method", props(mqtt.V5, "15"+text("NONE")), mqtt.CodeBadAuthenticationMethod), // [MQTT-4.12.0-1]
		c.bad("empty authentication method", props(mqtt.V5, "15"+text("")), mqtt.CodeBadAuthenticationMethod),       // [MQTT-4.12.0-1]
		p.bad("topic alias 0", props(mqtt.V5, "230000"), mqtt.CodeTopicAliasInvalid, badUse),                        // [MQTT-3.3.2-8]
		s.bad("subscription identifier 0", props(mqtt.V5, "0B00"), badUse),                                          // section 3.8.2.1.2
		s.bad("subscription identifier in two bytes that could be one", props(mqtt.V5, "0B8100"), badForm),          // [MQTT-1.5.5-1]
		s.bad("subscription identifier of five bytes", props(mqtt.V5, "0B8080808001"), badForm),
		in("DISCONNECT").bad("a session expiry that CONNECT had not", props(mqtt.V5, "1100000001"), badUse)) // section 3.14.2.2.2
}

// propertyLengthRows has property lengths that do not fit.
func propertyLengthRows() (rows []malformed) {
	for _, c := range carriers {
		rows = append(rows,
			c.bad("property length past the end", "7F", badForm),
			c.bad("property length of four bytes past the end", "FFFFFF7F", badForm),
			c.bad("property length of five bytes", "8080808001", badForm),
			c.bad("property length without an end", "FFFFFFFFFF", badForm),
			c.bad("property length 0 in two bytes", "8000", badForm),                          // [MQTT-1.5.5-1]
			c.bad("property length 7 in two bytes", "8700"+"26"+text("k")+text("v"), badForm), // [MQTT-1.5.5-1]
			c.bad("property length ends within a property", "04"+"26"+text("k")+text("v"), badForm))
	}
	return rows
}
