package test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/homing-mq/homing/internal/mqtt"
)

// flagRows has every packet type with every value of its flags that is not
// allowed. MQTT 3.1 calls the flags it does not use unused and lets them be.
func flagRows() (rows []malformed) {
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
		for _, s := range specimens(v) {
			for flags := range byte(16) {
				m := malformed{fmt.Sprintf("%v with flags %X", s.kind, flags), v, true, frame(byte(s.kind)<<4|flags, s.body), breaks(v, badForm)}
				switch {
				case s.kind == mqtt.PUBLISH && flags&0x06 == 0x06: // [MQTT-3.3.1-4] [MQTT3-3.3.1-4]
				case s.kind == mqtt.PUBLISH && flags&0x0E == 0x08: // [MQTT-3.3.1-2] [MQTT3-3.3.1-2]
					m.send = frame(0x30|flags, text("t"), props(v))
				case s.kind == mqtt.PUBLISH || flags == s.flags:
					continue
				case s.kind == mqtt.CONNECT: // [MQTT-2.1.3-1] [MQTT3-2.2.2-2]
					m.connect, m.want = false, breaksConnect(v, badForm)
				case fromServer(s.kind): // two faults
					m.want = breaks(v, badForm, badUse)
				}
				// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
				// [MQTT3-2.2.2-1] [MQTT3-2.2.2-2] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.10.1-1] [MQTT3-3.14.1-1]
				rows = append(rows, m)
			}
		}
	}
	return append(rows,
		malformed{"SUBSCRIBE with DUP", mqtt.V31, true, frame(0x8A, "0001", text("t"), "00"), answers(mqtt.SUBACK, 0)},
		malformed{"UNSUBSCRIBE with DUP", mqtt.V31, true, frame(0xAA, "0001", text("t")), answers(mqtt.UNSUBACK)},
		malformed{"PUBREL with DUP", mqtt.V31, true, frame(0x6A, "0001"), answers(mqtt.PUBCOMP, 0)},
		malformed{"PINGREQ with unused flags", mqtt.V31, true, frame(0xCF), stays},
		malformed{"QoS 3", mqtt.V31, true, frame(0x36, text("t"), "0001"), ends})
}

// directionRows has what only a server sends, what a client sends once only,
// and what does not exist.
func directionRows() (rows []malformed) {
	for _, v := range all {
		for _, s := range specimens(v) {
			switch {
			case fromServer(s.kind):
			case s.kind == mqtt.CONNECT: // [MQTT-3.1.0-2] [MQTT3-3.1.0-2]
			case s.kind == mqtt.AUTH: // without a method in CONNECT [MQTT-4.12.0-6] [MQTT-4.12.0-7]
			default:
				continue
			}
			rows = append(rows, malformed{s.kind.String(), v, true, frame(s.first(), s.body), breaks(v, badUse)})
		}
		for flags := range byte(16) {
			rows = append(rows, malformed{fmt.Sprintf("packet type 0, flags %X", flags), v, true, frame(flags), breaks(v, badForm, badUse)})
			if v != mqtt.V5 { // table 2.1: reserved
				rows = append(rows, malformed{fmt.Sprintf("packet type 15, flags %X", flags), v, true, frame(0xF0 | flags), ends})
			}
		}
	}
	return rows
}

// firstPacketRows begins with anything but CONNECT: there is no version yet
// to answer in [MQTT-3.1.0-1] [MQTT3-3.1.0-1].
func firstPacketRows() (rows []malformed) {
	for _, v := range all {
		for _, s := range specimens(v) {
			if s.kind != mqtt.CONNECT {
				rows = append(rows, malformed{s.kind.String(), v, false, frame(s.first(), s.body), ends})
			}
		}
	}
	for first := range 256 {
		if kind := mqtt.TypeOf(byte(first)); kind != mqtt.CONNECT {
			rows = append(rows, malformed{fmt.Sprintf("first byte %02X", first), mqtt.V311, false, frame(byte(first), "00"), ends})
		}
	}
	return append(rows,
		malformed{"a request of HTTP", mqtt.V311, false, fmt.Sprintf("%X", "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a browser that has lost its way\r\nAccept: */*\r\n\r\n"), ends},
		malformed{"a client hello of TLS", mqtt.V311, false, "16030100050100000100", ends})
}

// shortRows has each packet cut off after each of its bytes, its length
// telling so.
func shortRows() (rows []malformed) {
	for _, v := range all {
		for _, s := range specimens(v) {
			if fromServer(s.kind) {
				continue
			}
			for n := range len(s.body) / 2 {
				m := malformed{fmt.Sprintf("%v of %d bytes", s.kind, n), v, true, frame(s.first(), s.body[:2*n]), breaks(v, badForm)}
				switch {
				case s.kind == mqtt.CONNECT:
					m.connect, m.want = false, breaksConnect(v, badForm)
					if 2*n <= strings.Index(s.body, fmt.Sprintf("%02X02000A", byte(v))) { // no version yet
						m.want = ends
					}
				case v != mqtt.V5:
				case s.kind >= mqtt.PUBACK && s.kind <= mqtt.PUBCOMP && n >= 2, s.kind == mqtt.DISCONNECT:
					continue // a code and properties may be left out
				case (s.kind == mqtt.SUBSCRIBE || s.kind == mqtt.UNSUBSCRIBE) && n == 3: // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
					m.want = disconnects(badUse)
				case s.kind == mqtt.AUTH && n == 0: // complete, but there is nothing to authenticate
					m.want = disconnects(badUse)
				}
				// [MQTT3-3.8.3-3] [MQTT3-3.10.3-2]
				rows = append(rows, m)
			}
		}
	}
	return rows
}

// longRows has each packet with a byte after its last field.
func longRows() (rows []malformed) {
	for _, v := range all {
		for _, s := range specimens(v) {
			m := malformed{s.kind.String(), v, true, frame(s.first(), s.body, "00"), breaks(v, badForm)}
			switch {
			case s.kind == mqtt.CONNECT:
				m.connect, m.want = false, breaksConnect(v, badForm)
			case fromServer(s.kind), s.kind == mqtt.PUBLISH: // a payload of one byte
				continue
			}
			rows = append(rows, m)
		}
	}
	return rows
}

// lengthRows has remaining lengths that are none, or promise too much.
func lengthRows() (rows []malformed) {
	for _, v := range all {
		for _, s := range specimens(v) {
			if fromServer(s.kind) {
				continue
			}
			first := fmt.Sprintf("%02X", s.first())
			connect, broken, needless := true, breaks(v, badForm), breaks(v, badForm)
			if s.kind == mqtt.CONNECT {
				connect, broken, needless = false, ends, refuses(badForm)
			}
			rows = append(rows,
				malformed{fmt.Sprintf("%v with five length bytes", s.kind), v, connect, first + "FFFFFFFF7F" + s.body, broken},
				malformed{fmt.Sprintf("%v with a length in five bytes that four would do for", s.kind), v, connect, first + "8080808000" + s.body, broken},
				malformed{fmt.Sprintf("%v with length bytes that do not end", s.kind), v, connect, first + "FFFFFFFFFF" + s.body, broken})
			if v == mqtt.V5 { // [MQTT-1.5.5-1]
				n := len(s.body) / 2
				rows = append(rows,
					malformed{fmt.Sprintf("%v with a needless length byte", s.kind), v, connect, first + fmt.Sprintf("%02X00", n|0x80) + s.body, needless},
					malformed{fmt.Sprintf("%v with three needless length bytes", s.kind), v, connect, first + fmt.Sprintf("%02X808000", n|0x80) + s.body, needless})
			}
		}
		// [MQTT-3.2.2-15]
		rows = append(rows,
			malformed{"PUBLISH over the maximum packet size", v, true, "30" + varint(8<<20) + text("t"), breaks(v, mqtt.CodePacketTooLarge)},
			malformed{"PINGREQ over the maximum packet size", v, true, "C0FFFFFF7F", breaks(v, mqtt.CodePacketTooLarge)},
			malformed{"CONNECT of 1 MiB", v, false, "10" + varint(1<<20) + head(v, 0x02), breaksConnect(v, mqtt.CodePacketTooLarge)})
	}
	return append(rows, malformed{"PINGREQ with a needless length byte, which 3.x does not forbid", mqtt.V311, true, "C08000", stays})
}

// identifierRows has packet identifiers that are 0 or not in use.
func identifierRows() (rows []malformed) {
	for _, v := range all {
		none := props(v)
		rows = append(rows, // [MQTT-2.2.1-3] [MQTT3-2.3.1-1]
			malformed{"PUBLISH of QoS 1 with identifier 0", v, true, frame(0x32, text("t"), "0000", none), breaks(v, badUse)},
			malformed{"PUBLISH of QoS 2 with identifier 0", v, true, frame(0x34, text("t"), "0000", none), breaks(v, badUse)},
			malformed{"SUBSCRIBE with identifier 0", v, true, frame(0x82, "0000", none, text("t"), "00"), breaks(v, badUse)},
			malformed{"UNSUBSCRIBE with identifier 0", v, true, frame(0xA2, "0000", none, text("t")), breaks(v, badUse)})
		for _, first := range []byte{0x40, 0x50, 0x62, 0x70} {
			rows = append(rows, malformed{fmt.Sprintf("%v with identifier 0", mqtt.TypeOf(first)), v, true, frame(first, "0000"), breaks(v, badUse)})
		}
		unknown := mqtt.CodeSuccess // 3.x goes on: the client may repeat what was complete
		if v == mqtt.V5 {
			unknown = mqtt.CodePacketIdentifierNotFound // sections 3.6.2.1 and 3.7.2.1
		}
		rows = append(rows,
			malformed{"PUBACK with an unknown identifier", v, true, frame(0x40, "1234"), stays},
			malformed{"PUBREC with an unknown identifier", v, true, frame(0x50, "1234"), answers(mqtt.PUBREL, unknown)},
			malformed{"PUBREL with an unknown identifier", v, true, frame(0x62, "1234"), answers(mqtt.PUBCOMP, unknown)},
			malformed{"PUBCOMP with an unknown identifier", v, true, frame(0x70, "1234"), stays})
	}
	return append(rows, // no PUBREL after a refusal [MQTT-4.3.3-4]
		malformed{"PUBREC 0x80 with an unknown identifier", mqtt.V5, true, frame(0x50, "123480"), stays},
		malformed{"PUBACK 0x80 with an unknown identifier", mqtt.V5, true, frame(0x40, "123480"), stays})
}

// reasonRows has every reason code that a packet must not carry.
func reasonRows() (rows []malformed) {
	publishing := []byte{0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
	releasing := []byte{0x00, 0x92}
	// Those of DISCONNECT that only servers may send end the connection as any
	// other does.
	leaving := []byte{
		0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
		0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
	}
	for _, p := range []struct {
		first byte
		id    string
		valid []byte
	}{
		{0x40, "0001", publishing}, // [MQTT-3.4.2-1]
		{0x50, "0001", publishing}, // [MQTT-3.5.2-1]
		{0x62, "0001", releasing},  // [MQTT-3.6.2-1]
		{0x70, "0001", releasing},  // [MQTT-3.7.2-1]
		{0xE0, "", leaving},        // [MQTT-3.14.2-1]
		{0xF0, "", nil},            // [MQTT-3.15.2-1]
	} {
		for code := range 256 {
			if slices.Contains(p.valid, byte(code)) {
				continue
			}
			name := fmt.Sprintf("%v 0x%02X", mqtt.TypeOf(p.first), code)
			rows = append(rows,
				malformed{name, mqtt.V5, true, frame(p.first, p.id, fmt.Sprintf("%02X", code)), disconnects(badUse, badForm)},
				malformed{name + " with properties", mqtt.V5, true, frame(p.first, p.id, fmt.Sprintf("%02X", code), "00"), disconnects(badUse, badForm)})
		}
	}
	return rows
}
