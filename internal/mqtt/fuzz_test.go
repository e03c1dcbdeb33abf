package mqtt

import "testing"

const fromClient = 1<<CONNECT | 1<<PUBLISH | 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBSCRIBE | 1<<UNSUBSCRIBE | 1<<PINGREQ |
	1<<DISCONNECT | 1<<AUTH

const fromServer = 1<<CONNACK | 1<<PUBLISH | 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBACK | 1<<UNSUBACK | 1<<PINGRESP |
	1<<DISCONNECT | 1<<AUTH

func FuzzFromClient(f *testing.F) { fuzz(f, fromClient) }

func FuzzFromServer(f *testing.F) { fuzz(f, fromServer) }

// fuzz reads packets of the given types one behind the other into structs that
// are reused, as a connection does. Nothing may panic, and what decodes must
// encode to what decodes to the same.
func fuzz(f *testing.F, types packetSet) {
	for _, vec := range vectors(f) {
		for _, in := range vec.inputs {
			if len(in.bytes) > 0 && len(in.bytes) < 1000 && types.has(TypeOf(in.bytes[0])) {
				f.Add(byte(in.version), in.bytes)
			}
		}
	}
	f.Fuzz(func(t *testing.T, version byte, data []byte) {
		v := V31 + Version(version%3)
		reused := map[PacketType]packet{}
		for len(data) > 0 {
			first, body, n, need, err := Split(data, 1<<20)
			if err != nil {
				CodeOf(err)
				return
			}
			if n == 0 {
				if need != 0 && need <= len(data) {
					t.Fatalf("needs %d of %d bytes", need, len(data))
				}
				return
			}
			data = data[n:]
			typ := TypeOf(first)
			if !types.has(typ) {
				continue
			}
			if reused[typ] == nil {
				reused[typ] = newPacket(typ)
			}
			fuzzOne(t, reused[typ], first, body, v)
		}
	})
}

func fuzzOne(t *testing.T, p packet, first byte, body []byte, v Version) {
	err := decode(p, first, body, v)
	if c, ok := p.(*Connect); ok {
		v = c.Version
	}
	fresh := newPacket(TypeOf(first))
	if err2 := decode(fresh, first, body, v); err2 != err {
		t.Fatalf("%v, and %v into a fresh struct", err, err2)
	}
	if err != nil {
		if e, ok := err.(*Error); !ok || !e.Code.Failed() {
			t.Fatalf("error %v", err)
		}
		return
	}
	if diff := diffPackets(p, fresh); diff != "" {
		t.Fatalf("reuse makes a difference: %s", diff)
	}
	checkAgain(t, p, v)
	if pub, ok := p.(*Publish); ok {
		var props Properties
		if err := DecodeProps(pub.Props, &props); err != nil {
			t.Fatalf("properties %x: %v", pub.Props, err)
		}
		n := 0
		for key, value := range UserProperties(pub.Props) {
			n += 5 + len(key) + len(value)
		}
		if n != len(props.User) {
			t.Fatalf("user properties of %d bytes, %d read", len(props.User), n)
		}
	}
}
