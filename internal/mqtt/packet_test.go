package mqtt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var versions = []Version{V31, V311, V5}

// packet is any of the packets.
type packet interface {
	Append(dst []byte, v Version) []byte
}

// newPacket returns a struct for packets of type t.
func newPacket(t PacketType) packet {
	switch t {
	case CONNECT:
		return new(Connect)
	case CONNACK:
		return new(Connack)
	case PUBLISH:
		return new(Publish)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return new(Ack)
	case SUBSCRIBE:
		return new(Subscribe)
	case SUBACK:
		return new(Suback)
	case UNSUBSCRIBE:
		return new(Unsubscribe)
	case UNSUBACK:
		return new(Unsuback)
	case PINGREQ:
		return new(Pingreq)
	case PINGRESP:
		return new(Pingresp)
	case DISCONNECT:
		return new(Disconnect)
	case AUTH:
		return new(Auth)
	}
	panic(t.String())
}

// decode reads a packet into p, whichever it is.
func decode(p packet, first byte, body []byte, v Version) error {
	if c, ok := p.(*Connect); ok {
		return c.Decode(first, body)
	}
	return p.(interface {
		Decode(first byte, body []byte, v Version) error
	}).Decode(first, body, v)
}

// read splits and decodes one packet that fills b.
func read(b []byte, v Version) (packet, error) {
	first, body, n, _, err := Split(b, MaxPacketSize)
	if err != nil {
		return nil, err
	}
	if n == 0 || n != len(b) {
		return nil, errors.New("not one whole packet")
	}
	p := newPacket(TypeOf(first))
	return p, decode(p, first, body, v)
}

// frame puts a fixed header in front of body.
func frame(first byte, body []byte) []byte {
	return append(appendVarint([]byte{first}, uint32(len(body))), body...)
}

// sameFields compares packets by what they mean: nil is as good as empty, and
// memory kept for reuse does not count.
var sameFields = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.FilterValues(func(x, y []byte) bool { return len(x)+len(y) > 0 }, cmp.Comparer(bytes.Equal)), // or it takes forever
	cmp.AllowUnexported(Properties{}),
	cmpopts.IgnoreUnexported(Publish{}),
	cmpopts.IgnoreFields(Properties{}, "scratch"),
}

// describe writes a packet as the vectors in testdata do: its type, then every
// field that is not zero or empty, in the order of the struct.
func describe(p packet) string {
	name := strings.ToUpper(reflect.TypeOf(p).Elem().Name())
	if a, ok := p.(*Ack); ok {
		name = a.Type.String()
	}
	return strings.TrimSpace(name + " " + strings.Join(fields(reflect.ValueOf(p).Elem()), " "))
}

func fields(s reflect.Value) (out []string) {
	for i := range s.NumField() {
		f, name := s.Field(i), s.Type().Field(i).Name
		if !s.Type().Field(i).IsExported() || name == "Type" || f.IsZero() || f.Kind() == reflect.Slice && f.Len() == 0 {
			continue
		}
		switch x := f.Interface().(type) {
		case bool:
			out = append(out, name)
		case Version:
			out = append(out, name+"="+x.String())
		case ReasonCode:
			out = append(out, fmt.Sprintf("%s=0x%02X", name, byte(x)))
		case []byte:
			out = append(out, fmt.Sprintf("%s=%q", name, x))
		case Properties:
			if !x.Empty() {
				out = append(out, name+"={"+describeProperties(&x)+"}")
			}
		case Will:
			out = append(out, name+"={"+strings.Join(fields(f), " ")+"}")
		case []Filter:
			for i := range x {
				out = append(out, "{"+strings.Join(fields(f.Index(i)), " ")+"}")
			}
		case [][]byte:
			for _, b := range x {
				out = append(out, fmt.Sprintf("%q", b))
			}
		case []ReasonCode:
			for _, c := range x {
				out = append(out, fmt.Sprintf("0x%02X", byte(c)))
			}
		default:
			out = append(out, fmt.Sprintf("%s=%v", name, x))
		}
	}
	return out
}

func describeProperties(p *Properties) string {
	var out []string
	for id := range Prop(len(propTable)) {
		if id == PropUser || !p.Has(id) {
			continue
		}
		var value any
		switch propTable[id].wire {
		case wireBool:
			value = *p.boolField(id)
		case wireByte:
			value = *p.byteField(id)
		case wireUint16:
			value = *p.uint16Field(id)
		case wireUint32:
			value = *p.uint32Field(id)
		case wireVarint:
			value = p.SubscriptionID
		default:
			value = fmt.Sprintf("%q", *p.dataField(id))
		}
		out = append(out, fmt.Sprintf("%s=%v", id, value))
	}
	for key, value := range UserProperties(p.User) {
		out = append(out, fmt.Sprintf("user %q=%q", key, value))
	}
	return strings.Join(out, ", ")
}

// unhex decodes hexadecimal digits between which there may be spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// Each type and each of its sixteen flags, in each version.
// [MQTT-2.1.3-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1] [MQTT3-2.2.2-1]
// [MQTT3-2.2.2-2] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.10.1-1] [MQTT3-3.14.1-1]
func TestHeaderFlags(t *testing.T) {
	bodies := map[PacketType]string{
		CONNACK: "0000", PUBLISH: "0001 61 0001", PUBACK: "0001", PUBREC: "0001", PUBREL: "0001", PUBCOMP: "0001",
		SUBSCRIBE: "0001 0001 61 00", SUBACK: "0001 00", UNSUBSCRIBE: "0001 0001 61", UNSUBACK: "0001",
	}
	bodies5 := map[PacketType]string{
		CONNACK: "0000 00", PUBLISH: "0001 61 0001 00", SUBSCRIBE: "0001 00 0001 61 00", SUBACK: "0001 00 00",
		UNSUBSCRIBE: "0001 00 0001 61", UNSUBACK: "0001 00 00",
	}
	connects := map[Version]string{
		V31: "0006 4D5149736470 03 02 0000 0000", V311: "0004 4D515454 04 02 0000 0000", V5: "0004 4D515454 05 02 0000 00 0000",
	}
	for _, v := range versions {
		for typ := CONNECT; typ <= AUTH; typ++ {
			if typ == AUTH && v != V5 {
				continue
			}
			body := bodies[typ]
			if b, ok := bodies5[typ]; ok && v == V5 {
				body = b
			}
			if typ == CONNECT {
				body = connects[v]
			}
			for flags := range byte(16) {
				_, err := read(frame(byte(typ)<<4|flags, unhex(t, body)), v)
				var ok bool
				switch {
				case typ == PUBLISH:
					ok = flags&6 != 6 && (v == V31 || flags&0x0E != 8)
				case v == V31:
					ok = true
				case typ == PUBREL, typ == SUBSCRIBE, typ == UNSUBSCRIBE:
					ok = flags == 2
				default:
					ok = flags == 0
				}
				if ok != (err == nil) {
					t.Errorf("%v %v with flags %04b: error %v", v, typ, flags, err)
				}
				if err != nil && CodeOf(err) != CodeMalformedPacket {
					t.Errorf("%v %v with flags %04b: %v", v, typ, flags, err)
				}
			}
		}
	}
}

// Split must give the same answer however the bytes arrive.
func TestSplitPieces(t *testing.T) {
	for _, size := range []int{0, 1, 126, 127, 128, 16383, 16384, 70000, 2097152} {
		whole := frame(0x30, bytes.Repeat([]byte{'x'}, size))
		head := len(whole) - size
		two := append(bytes.Clone(whole), whole...)
		for _, cut := range []int{0, 1, 2, 3, 4, 5, head - 1, head, head + 1, len(whole) - 1, len(whole), len(whole) + 1, len(two)} {
			if cut > len(two) {
				continue
			}
			first, body, n, need, err := Split(two[:cut], len(whole))
			if err != nil {
				t.Fatalf("%d of %d: %v", cut, len(whole), err)
			}
			switch {
			case cut >= len(whole):
				if first != 0x30 || n != len(whole) || !bytes.Equal(body, whole[head:]) || cap(body) != len(body) {
					t.Errorf("%d of %d: first %02x, %d bytes, body of %d/%d", cut, len(whole), first, n, len(body), cap(body))
				}
			case n != 0 || body != nil:
				t.Errorf("%d of %d: %d bytes", cut, len(whole), n)
			case cut >= head && need != len(whole), cut < head && need != 0:
				t.Errorf("%d of %d: needs %d", cut, len(whole), need)
			}
			if cut >= head {
				if _, _, _, _, err := Split(two[:cut], len(whole)-1); err != ErrTooLarge {
					t.Errorf("%d of %d over the limit: %v", cut, len(whole), err)
				}
			}
		}
	}
}

// The slices of a decoded packet end where they end: appending to one must not
// write into the read buffer.
func TestSlicesAreCapped(t *testing.T) {
	var seen int
	var check func(name string, x reflect.Value)
	check = func(name string, x reflect.Value) {
		switch x.Kind() {
		case reflect.Struct:
			for i := range x.NumField() {
				if x.Type().Field(i).IsExported() {
					check(name+"."+x.Type().Field(i).Name, x.Field(i))
				}
			}
		case reflect.Slice:
			if x.Type().Elem().Kind() != reflect.Uint8 || x.Type().Elem() == reflect.TypeFor[ReasonCode]() {
				for i := range x.Len() {
					check(name, x.Index(i))
				}
			} else if seen++; x.Cap() != x.Len() {
				t.Errorf("%s: length %d, capacity %d", name, x.Len(), x.Cap())
			}
		}
	}
	for _, vec := range vectors(t) {
		for _, in := range vec.inputs {
			if p, err := read(in.bytes, in.version); err == nil {
				check(vec.name, reflect.ValueOf(p).Elem())
			}
		}
	}
	if seen < 100 {
		t.Fatalf("looked at %d slices only", seen)
	}
}

// Decode must not rely on Split for the one flag that Split checks too.
// [MQTT-3.3.1-4] [MQTT3-3.3.1-4]
func TestDecodeChecksQoS(t *testing.T) {
	var p Publish
	for _, v := range versions {
		if err := p.Decode(0x36, unhex(t, "0001 61 0001 00"), v); err != errQoS {
			t.Errorf("%v: %v", v, err)
		}
	}
	if _, _, _, _, err := Split([]byte{0x36}, 10); err != errQoS { // before the length is there
		t.Errorf("Split: %v", err)
	}
}

// [MQTT-3.3.1-2]
// [MQTT3-3.3.1-2] [MQTT-4.3.1-1] [MQTT3-4.3.1-1]
func TestNoDupWithQoS0(t *testing.T) {
	for _, v := range versions {
		for qos, want := range []byte{0x30, 0x3A, 0x3C} {
			p := &Publish{Dup: true, QoS: byte(qos), PacketID: 1, Topic: []byte("t")}
			if b := p.Append(nil, v); b[0] != want {
				t.Errorf("%v QoS %d: first byte %02X, want %02X", v, qos, b[0], want)
			}
		}
	}
}

func TestStrings(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{V311.String(), "3.1.1"},
		{Version(9).String(), "level 9"},
		{PUBREL.String(), "PUBREL"},
		{PacketType(16).String(), "packet type 16"},
		{CodeQuotaExceeded.String(), "quota exceeded"},
		{ReasonCode(0x03).String(), "reason code 0x03"},
		{ReasonCode(0xA3).String(), "reason code 0xA3"},
		{ReasonCode(0xFF).String(), "reason code 0xFF"},
		{PropWillDelay.String(), "will delay interval"},
		{Prop(0x04).String(), "property 0x04"},
		{Prop(0x2B).String(), "property 0x2B"},
		{ErrTooLarge.Error(), "packet too large: larger than the limit"},
		{CodeOf(fmt.Errorf("read: %w", errQoS)).String(), "malformed packet"},
		{CodeOf(errors.New("else")).String(), "unspecified error"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// diffPackets returns how two packets differ, "" if they do not.
func diffPackets(p, q packet) string { return cmp.Diff(p, q, sameFields) }
