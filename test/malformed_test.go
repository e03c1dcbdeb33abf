package test

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// malformed is input that breaks a rule, and what the server has to do about
// it. The tables are in malformed_*_test.go.
type malformed struct {
	name    string
	version mqtt.Version
	connect bool   // CONNECT and CONNACK come first
	send    string // hex
	want    reaction
}

// reaction is what the standard demands. Where it leaves several reason codes
// any of them will do.
type reaction struct {
	answer mqtt.PacketType   // a packet that comes back; 0: none
	codes  []mqtt.ReasonCode // one of them is in it
	stays  bool              // the connection goes on; otherwise it ends
}

// ends is the end of the connection without a word: all that 3.x has
// [MQTT3-4.8.0-1], and before CONNECT is understood all that there can be
// [MQTT-3.14.0-1].
var ends = reaction{}

// stays is silence, after which the server still serves.
var stays = reaction{stays: true}

// disconnects is a DISCONNECT with one of codes [MQTT-4.13.1-1].
func disconnects(codes ...mqtt.ReasonCode) reaction {
	return reaction{answer: mqtt.DISCONNECT, codes: codes}
}

// refuses is a CONNACK with one of codes, and the end [MQTT-3.2.2-7]
// [MQTT3-3.2.2-5].
func refuses(codes ...mqtt.ReasonCode) reaction {
	return reaction{answer: mqtt.CONNACK, codes: codes}
}

// answers is a packet with one of codes, after which the server still serves.
func answers(t mqtt.PacketType, codes ...mqtt.ReasonCode) reaction {
	return reaction{answer: t, codes: codes, stays: true}
}

// breaks is how a version answers a broken packet of a connected client.
func breaks(v mqtt.Version, codes ...mqtt.ReasonCode) reaction {
	if v != mqtt.V5 {
		return ends
	}
	return disconnects(codes...)
}

// breaksConnect is how a version answers a broken CONNECT whose version could
// be read [MQTT-3.1.4-1] [MQTT3-3.1.4-1].
func breaksConnect(v mqtt.Version, codes ...mqtt.ReasonCode) reaction {
	if v != mqtt.V5 {
		return ends
	}
	return refuses(codes...)
}

// The reason codes that most rules leave the choice of: a packet that cannot be
// parsed, and one that must not be.
const (
	badForm = mqtt.CodeMalformedPacket
	badUse  = mqtt.CodeProtocolError
)

func TestMalformed(t *testing.T) {
	s := startServer(t)
	t.Run("tables", func(t *testing.T) {
		for _, table := range []struct {
			name string
			rows []malformed
		}{
			{"flags", flagRows()},
			{"direction", directionRows()},
			{"first packet", firstPacketRows()},
			{"too short", shortRows()},
			{"too long", longRows()},
			{"remaining length", lengthRows()},
			{"packet identifier", identifierRows()},
			{"reason code", reasonRows()},
			{"property", propertyRows()},
			{"property value", propertyValueRows()},
			{"property length", propertyLengthRows()},
			{"text", textRows()},
			{"topic name", topicRows()},
			{"topic filter", filterRows()},
			{"subscription options", optionRows()},
			{"topic alias", aliasRows()},
			{"connect flags", connectFlagRows()},
			{"connect", connectRows()},
		} {
			t.Run(table.name, func(t *testing.T) {
				t.Parallel()
				seen := make(map[string]bool)
				failures := 0
				for i, m := range table.rows {
					key := fmt.Sprint(m.version, m.connect, m.send)
					if seen[key] {
						t.Errorf("%s %v: is in the table twice", m.name, m.version)
					}
					seen[key] = true
					if err := m.provoke(s, fmt.Sprintf("%s %d", table.name, i)); err != nil {
						t.Errorf("%s %v: %v\nsent %s", m.name, m.version, err, m.send)
						if failures++; failures == 20 { // each may have waited
							t.Fatal("and perhaps more")
						}
					}
				}
				t.Logf("%d inputs", len(table.rows))
			})
		}
	})
	s.connect(mqtt.V5, "afterwards").ping()
	if n := s.metric("homing_panics_total"); n != 0 {
		t.Errorf("%v panics", n)
	}
}

// provoke sends the input on a connection of its own and returns how the
// server reacted otherwise.
func (m *malformed) provoke(s *server, id string) error {
	conn, err := s.dial("mqtt")
	if err != nil {
		return fmt.Errorf("the server is gone: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	r := bufio.NewReader(conn)
	if m.connect {
		c := mqtt.Connect{ClientID: []byte(id), CleanStart: true}
		if err := exchangeFor[*mqtt.Connack](conn, r, m.version, c.Append(nil, m.version)); err != nil {
			return fmt.Errorf("CONNECT: %w", err)
		}
	}
	input, err := hex.DecodeString(m.send)
	if err != nil {
		return err
	}
	_, _ = conn.Write(input) // it may be refused before the end of it
	if m.want.answer != 0 {
		got, err := readPacket(r, m.version)
		if err != nil {
			return fmt.Errorf("%w, want %v", err, m.want)
		}
		if !m.want.meets(got) {
			t, codes := outcome(got)
			return fmt.Errorf("%v %v, want %v", t, codes, m.want)
		}
	}
	if m.want.stays {
		return exchangeFor[*mqtt.Pingresp](conn, r, m.version, pingreq)
	}
	return ended(r, m.version)
}

// exchangeFor sends something and reads a T.
func exchangeFor[T any](conn net.Conn, r *bufio.Reader, v mqtt.Version, send []byte) error {
	if _, err := conn.Write(send); err != nil {
		return err
	}
	got, err := readPacket(r, v)
	if err != nil {
		return err
	}
	if _, ok := got.(T); !ok {
		var want T
		return fmt.Errorf("%T, want %T", got, want)
	}
	return nil
}

// ended reads the end of a connection.
func ended(r *bufio.Reader, v mqtt.Version) error {
	switch got, err := readPacket(r, v); {
	case err == nil:
		return fmt.Errorf("%T, want the end", got)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("still connected, want the end")
	case strings.HasPrefix(err.Error(), "the server sent"):
		return err
	}
	return nil
}

// meets reports whether a packet is the answer.
func (w reaction) meets(got any) bool {
	t, codes := outcome(got)
	if t != w.answer || len(codes) == 0 {
		return t == w.answer && len(w.codes) == 0
	}
	return slices.Contains(w.codes, codes[len(codes)-1]) // of several filters the last one is bad
}

// outcome returns the type of an answer, and its codes if it has any.
func outcome(got any) (mqtt.PacketType, []mqtt.ReasonCode) {
	switch x := got.(type) {
	case *mqtt.Connack:
		return mqtt.CONNACK, []mqtt.ReasonCode{x.Code}
	case *mqtt.Disconnect:
		return mqtt.DISCONNECT, []mqtt.ReasonCode{x.Code}
	case *mqtt.Ack:
		return x.Type, []mqtt.ReasonCode{x.Code}
	case *mqtt.Suback:
		return mqtt.SUBACK, x.Codes
	case *mqtt.Unsuback:
		return mqtt.UNSUBACK, x.Codes
	}
	return 0, nil
}

func (w reaction) String() string {
	text := "the end"
	if w.answer != 0 {
		text = fmt.Sprintf("%v with one of %v", w.answer, w.codes)
	}
	if w.stays {
		text += ", the connection stays"
	}
	return text
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The builders of input write hex, so that it can be put together from parts.

// frame is a packet with that first byte.
func frame(first byte, body ...string) string {
	all := strings.Join(body, "")
	return fmt.Sprintf("%02X", first) + varint(len(all)/2) + all
}

func varint(n int) string {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return fmt.Sprintf("%X", append(b, byte(n)))
}

// text is a string or binary data with its length.
func text(s string) string { return fmt.Sprintf("%04X%X", len(s), s) }

// props are properties with their length, which is all that 3.x has of them.
func props(v mqtt.Version, list ...string) string {
	if v != mqtt.V5 {
		return ""
	}
	all := strings.Join(list, "")
	return varint(len(all)/2) + all
}

// all are the versions there are.
var all = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// specimen is a good packet, of either side.
type specimen struct {
	kind  mqtt.PacketType
	flags byte
	body  string
}

func (s specimen) first() byte { return byte(s.kind)<<4 | s.flags }

// specimens has one of each packet type, with no field left out.
func specimens(v mqtt.Version) []specimen {
	ack, code, none := "0001", "", props(v)
	if v == mqtt.V5 {
		ack, code = "0001"+"00"+none, "00"
	}
	list := []specimen{
		{mqtt.CONNECT, 0, head(v, 0x02) + none + text("specimen")},
		{mqtt.CONNACK, 0, "0000" + none},
		{mqtt.PUBLISH, 2, text("t") + "0001" + none},
		{mqtt.PUBACK, 0, ack},
		{mqtt.PUBREC, 0, ack},
		{mqtt.PUBREL, 2, ack},
		{mqtt.PUBCOMP, 0, ack},
		{mqtt.SUBSCRIBE, 2, "0001" + none + text("t") + "00"},
		{mqtt.SUBACK, 0, "0001" + none + "00"},
		{mqtt.UNSUBSCRIBE, 2, "0001" + none + text("t")},
		{mqtt.UNSUBACK, 0, "0001" + none + code},
		{mqtt.PINGREQ, 0, ""},
		{mqtt.PINGRESP, 0, ""},
		{mqtt.DISCONNECT, 0, code + none},
	}
	if v == mqtt.V5 {
		list = append(list, specimen{mqtt.AUTH, 0, "18" + props(v, "15"+text("X"))})
	}
	return list
}

// head is the variable header of CONNECT up to the keep alive.
func head(v mqtt.Version, flags byte) string {
	name := "MQTT"
	if v == mqtt.V31 {
		name = "MQIsdp"
	}
	return text(name) + fmt.Sprintf("%02X%02X", byte(v), flags) + "000A"
}

// fromServer reports whether only servers send the packet.
func fromServer(t mqtt.PacketType) bool {
	return t == mqtt.CONNACK || t == mqtt.SUBACK || t == mqtt.UNSUBACK || t == mqtt.PINGRESP
}
