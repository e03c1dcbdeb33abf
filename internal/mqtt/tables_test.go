package mqtt

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readTable reads a file of rows with columns between bars.
func readTable(t testing.TB, file string, columns int) (rows [][]string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		row := strings.Split(line, "|")
		if len(row) != columns {
			t.Fatalf("%s: %d columns: %s", file, len(row), line)
		}
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	return rows
}

// contexts are the places for properties: packet types by name, and WILL.
func contexts() map[string]PacketType {
	all := map[string]PacketType{"WILL": will}
	for t := CONNECT; t <= AUTH; t++ {
		if t != PINGREQ && t != PINGRESP {
			all[t.String()] = t
		}
	}
	return all
}

// withProperties returns an MQTT 5 packet that is whole but for these
// properties.
func withProperties(t testing.TB, in PacketType, props []byte) []byte {
	t.Helper()
	section := append(appendVarint(nil, uint32(len(props))), props...)
	parts := map[PacketType][2]string{ // before and behind the properties
		will:        {"0004 4D515454 05 04 0000 00 0000", "0001 74 0000"},
		CONNECT:     {"0004 4D515454 05 00 0000", "0000"},
		CONNACK:     {"00 00", ""},
		PUBLISH:     {"0001 74", "70"},
		PUBACK:      {"0001 00", ""},
		PUBREC:      {"0001 00", ""},
		PUBREL:      {"0001 00", ""},
		PUBCOMP:     {"0001 00", ""},
		SUBSCRIBE:   {"0001", "0001 74 00"},
		SUBACK:      {"0001", "00"},
		UNSUBSCRIBE: {"0001", "0001 74"},
		UNSUBACK:    {"0001", "00"},
		DISCONNECT:  {"00", ""},
		AUTH:        {"18", ""},
	}[in]
	typ := in
	if in == will {
		typ = CONNECT
	}
	body := append(append(unhex(t, parts[0]), section...), unhex(t, parts[1])...)
	return frame(firstByte(typ), body)
}

// Every identifier that a byte can hold, in every packet, with good and bad
// values, once and twice, whole and cut.
// [MQTT-3.3.2-13] [MQTT-3.3.2-19] [MQTT-1.5.7-1]
func TestPropertyTable(t *testing.T) {
	known := map[byte][]string{}
	for _, row := range readTable(t, "testdata/properties.txt", 5) {
		id := unhex(t, row[0])[0]
		known[id] = row
		if got := Prop(id).String(); got != row[1] {
			t.Errorf("property %02X is called %q, want %q", id, got, row[1])
		}
	}
	if len(known) != 27 {
		t.Fatalf("%d properties", len(known))
	}
	for id := range 256 {
		row := known[byte(id)]
		if row == nil {
			row = []string{fmt.Sprintf("%02X", id), "", "", "00, 01, 0000, 00000000, 00000000000000000000", ""}
		}
		for name, in := range contexts() {
			checkProperty(t, row, name, in)
		}
	}
}

func checkProperty(t *testing.T, row []string, name string, in PacketType) {
	id := unhex(t, row[0])[0]
	allowed, repeats := false, false
	for _, p := range strings.Fields(row[2]) {
		if strings.TrimSuffix(p, "*") == name {
			allowed, repeats = true, strings.HasSuffix(p, "*")
		}
	}
	// What must stand with it for the packet to be right otherwise.
	var before []byte
	if id == byte(PropAuthData) || in == AUTH && id != byte(PropAuthMethod) {
		before = unhex(t, "15 0001 6D")
	}
	if id == byte(PropAuthData) && in != CONNECT && in != CONNACK && in != AUTH {
		before = nil
	}
	try := func(values ...[]byte) ReasonCode {
		props := append([]byte(nil), before...)
		for _, v := range values {
			props = append(append(props, id), v...)
		}
		p, err := read(withProperties(t, in, props), V5)
		if err == nil {
			checkAgain(t, p, V5)
			return CodeSuccess
		}
		return CodeOf(err)
	}
	expect := func(what string, got, want ReasonCode) {
		if got != want {
			t.Errorf("property %02X %s, %s: got 0x%02X, want 0x%02X", id, name, what, byte(got), byte(want))
		}
	}
	for value := range strings.SplitSeq(row[3], ",") {
		v := unhex(t, strings.TrimSpace(value))
		if !allowed {
			expect(value, try(v), CodeMalformedPacket)
			continue
		}
		expect(value, try(v), CodeSuccess)
		if repeats {
			expect(value+" twice", try(v, v), CodeSuccess)
		} else {
			expect(value+" twice", try(v, v), CodeProtocolError)
		}
		for cut := range v {
			expect(fmt.Sprintf("%s cut to %d", value, cut), try(v[:cut]), CodeMalformedPacket)
		}
	}
	for value := range strings.SplitSeq(row[4], ",") {
		if v := unhex(t, strings.TrimSpace(value)); len(v) > 0 && allowed && !try(v).Failed() {
			t.Errorf("property %02X %s, %s: accepted", id, name, value)
		}
	}
}

// Each property arrives in its own field.
func TestPropertyFields(t *testing.T) {
	text, number := []byte("x"), uint32(0x01020304)
	for _, c := range []struct {
		in   PacketType
		hex  string
		want Properties
	}{
		{will, "01 01", Properties{PayloadFormat: 1}},
		{will, "02 01020304", Properties{MessageExpiry: number}},
		{will, "03 0001 78", Properties{ContentType: text}},
		{will, "08 0001 78", Properties{ResponseTopic: text}},
		{will, "09 0001 78", Properties{CorrelationData: text}},
		{SUBSCRIBE, "0B FFFFFF7F", Properties{SubscriptionID: maxRemaining}},
		{CONNECT, "11 01020304", Properties{SessionExpiry: number}},
		{CONNACK, "12 0001 78", Properties{AssignedClientID: text}},
		{CONNACK, "13 0102", Properties{ServerKeepAlive: 0x0102}},
		{CONNECT, "15 0001 78", Properties{AuthMethod: text}},
		{CONNECT, "16 0001 78", Properties{AuthData: text}},
		{CONNECT, "17 01", Properties{RequestProblemInfo: true}},
		{will, "18 01020304", Properties{WillDelay: number}},
		{CONNECT, "19 01", Properties{RequestResponseInfo: true}},
		{CONNACK, "1A 0001 78", Properties{ResponseInfo: text}},
		{CONNACK, "1C 0001 78", Properties{ServerReference: text}},
		{CONNACK, "1F 0001 78", Properties{ReasonString: text}},
		{CONNECT, "21 0102", Properties{ReceiveMaximum: 0x0102}},
		{CONNECT, "22 0102", Properties{TopicAliasMaximum: 0x0102}},
		{CONNACK, "24 01", Properties{MaximumQoS: 1}},
		{CONNACK, "25 01", Properties{RetainAvailable: true}},
		{CONNECT, "26 0001 78 0001 78", Properties{User: AppendUserProperty(nil, "x", "x")}},
		{CONNECT, "27 01020304", Properties{MaximumPacketSize: number}},
		{CONNACK, "28 01", Properties{WildcardAvailable: true}},
		{CONNACK, "29 01", Properties{SubscriptionIDAvailable: true}},
		{CONNACK, "2A 01", Properties{SharedAvailable: true}},
	} {
		b := unhex(t, c.hex)
		if Prop(b[0]) != PropUser {
			c.want.Set(Prop(b[0]))
		}
		var p Properties
		if err := p.decodeAll(b, c.in); err != nil {
			t.Fatalf("%s: %v", c.hex, err)
		}
		if diff := cmp.Diff(c.want, p, sameFields); diff != "" || !p.Has(Prop(b[0])) {
			t.Errorf("%s: %s", c.hex, diff)
		}
		if got := p.append(nil); !bytes.Equal(got[1:], b) || int(got[0]) != len(b) {
			t.Errorf("%s becomes %x", c.hex, got)
		}
	}
}

// User properties between others are put together, each time anew.
func TestScatteredUserProperties(t *testing.T) {
	var p Properties
	for _, c := range []struct{ hex, want string }{
		{"26 0001 61 0000 21 0001 26 0001 62 0000 22 0002 26 0001 63 0000", `user "a"="", user "b"="", user "c"=""`},
		{"26 0001 64 0000 22 0002 21 0001 26 0001 65 0000", `user "d"="", user "e"=""`},
		{"21 0001 26 0001 66 0000 26 0001 67 0000 22 0002", `user "f"="", user "g"=""`},
	} {
		if err := p.decodeAll(unhex(t, c.hex), CONNECT); err != nil {
			t.Fatal(err)
		}
		if got, want := describeProperties(&p), "receive maximum=1, topic alias maximum=2, "+c.want; got != want {
			t.Errorf("%s: got %s, want %s", c.hex, got, want)
		}
	}
}

// Every code in every packet that has one.
// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2] [MQTT-3.11.3-2]
// [MQTT-3.14.2-1] [MQTT-3.15.2-1]
func TestCodeTable(t *testing.T) {
	rows := map[int][]string{}
	for _, row := range readTable(t, "testdata/codes.txt", 3) {
		code, err := strconv.ParseUint(row[0], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		rows[int(code)] = row
		if got := ReasonCode(code).String(); got != row[1] {
			t.Errorf("code %s is called %q, want %q", row[0], got, row[1])
		}
	}
	packets := map[PacketType]string{
		CONNACK: "00 %02X 00", PUBACK: "0001 %02X", PUBREC: "0001 %02X", PUBREL: "0001 %02X", PUBCOMP: "0001 %02X",
		SUBACK: "0001 00 %02X", UNSUBACK: "0001 00 %02X", DISCONNECT: "%02X", AUTH: "%02X 04 15 0001 6D",
	}
	for code := range 256 {
		for typ, form := range packets {
			want := false
			if row := rows[code]; row != nil {
				want = strings.Contains(" "+row[2]+" ", " "+typ.String()+" ")
			}
			p, err := read(frame(firstByte(typ), unhex(t, fmt.Sprintf(form, code))), V5)
			if want != (err == nil) {
				t.Errorf("%v with code %02X: %v", typ, code, err)
			}
			if err != nil && CodeOf(err) != CodeProtocolError {
				t.Errorf("%v with code %02X: %v", typ, code, err)
			}
			if got := ReasonCode(code).Failed(); got != (code >= 0x80) {
				t.Errorf("code %02X failed: %v", code, got)
			}
			if got := ReasonCode(code).ValidIn(typ); got != want {
				t.Errorf("code %02X valid in %v: %v", code, typ, got)
			}
			if err == nil {
				checkAgain(t, p, V5)
			}
		}
	}
}

// What a 3.x peer is told instead of a code that it does not know.
func TestCodesFor3(t *testing.T) {
	for _, c := range []struct {
		code ReasonCode
		want byte
	}{
		{CodeSuccess, 0}, {ReturnUnacceptableVersion, 1}, {ReturnIdentifierRejected, 2}, {ReturnServerUnavailable, 3},
		{ReturnBadUserNameOrPassword, 4}, {ReturnNotAuthorized, 5},
		{CodeUnsupportedProtocolVersion, 1}, {CodeClientIdentifierNotValid, 2}, {CodeServerBusy, 3}, {CodeServerUnavailable, 3},
		{CodeBadUserNameOrPassword, 4}, {CodeBadAuthenticationMethod, 4}, {CodeNotAuthorized, 5}, {CodeBanned, 5},
	} {
		b := (&Connack{Code: c.code}).Append(nil, V311)
		if b[3] != c.want {
			t.Errorf("CONNACK %v becomes %d, want %d", c.code, b[3], c.want)
		}
	}
	b := (&Suback{PacketID: 1, Codes: []ReasonCode{0, 1, 2, CodeNotAuthorized}}).Append(nil, V311)
	if want := "90060001000102" + "80"; fmt.Sprintf("%x", b) != want {
		t.Errorf("SUBACK %x, want %s", b, want)
	}
}
