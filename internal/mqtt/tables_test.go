package mqtt

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
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

// Each value of each property arrives in its own field.
func TestPropertyFields(t *testing.T) {
	for _, c := range []struct {
		in    PacketType
		bytes string
		want  string
	}{
		{CONNECT, "11 01020304", "session expiry interval=16909060"},
		{CONNECT, "27 01020304", "maximum packet size=16909060"},
		{CONNECT, "21 0102", "receive maximum=258"},
		{CONNECT, "22 0102", "topic alias maximum=258"},
		{CONNECT, "17 01", "request problem information=true"},
		{CONNECT, "19 00", "request response information=false"},
		{CONNACK, "13 0102", "server keep alive=258"},
		{CONNACK, "1A 0001 78", `response information="x"`},
		{SUBSCRIBE, "0B FFFFFF7F", "subscription identifier=268435455"},
		{will, "18 01020304", "will delay interval=16909060"},
		{will, "02 01020304", "message expiry interval=16909060"},
	} {
		var p Properties
		if err := p.decodeAll(unhex(t, c.bytes), c.in); err != nil {
			t.Fatalf("%s: %v", c.bytes, err)
		}
		if got := describeProperties(&p); got != c.want {
			t.Errorf("%s: got %s, want %s", c.bytes, got, c.want)
		}
	}
}

// Every code in every packet that has one.
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
