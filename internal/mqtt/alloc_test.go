package mqtt

import (
	"bytes"
	"runtime"
	"testing"
)

// The packets of a busy connection, read and written without allocating.
// Vectors named here must decode.
var hotPackets = []struct {
	name    string
	version Version
	hex     string
}{
	{"PUBLISH QoS 0", V311, "30 08 0003 612F62 616263"},
	{"PUBLISH QoS 1", V311, "32 0A 0003 612F62 1234 616263"},
	{"PUBLISH without properties", V5, "32 0B 0003 612F62 1234 00 616263"},
	{"PUBLISH with travelling properties", V5, "30 12 0001 74 0D 01 01 03 0001 63 26 0001 6B 0001 76 70"},
	{"PUBLISH with scattered properties", V5, "30 1A 0001 74 15 01 01 02 00000001 26 0001 6B 0001 76 23 0001 03 0001 63 70"},
	{"PUBLISH with subscription identifiers", V5, "30 0F 0001 74 0A 0B 01 0B 7F 0B 8001 0B FF7F 70"},
	{"PUBACK", V311, "40 02 0001"},
	{"PUBACK with properties", V5, "40 14 0001 00 10 1F 0002 6E6F 26 0001 6B 0005 76616C7565"},
	{"PUBREL", V5, "62 02 0001"},
	{"CONNECT", V5, "10 12 0004 4D515454 05 02 000A 03 21 0014 0002 6964"},
	{"SUBSCRIBE", V5, "82 13 0001 00 0003 612F2B 00 0001 23 01 0003 622F63 02"},
	{"UNSUBSCRIBE", V5, "A2 06 0001 00 0001 61"},
	{"SUBACK", V5, "90 06 0001 00 00 01 80"},
	{"PINGREQ", V5, "C0 00"},
	{"DISCONNECT", V5, "E0 01 8E"},
}

func TestAllocations(t *testing.T) {
	for _, c := range hotPackets {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.hex)
			p, err := read(b, c.version)
			if err != nil {
				t.Fatal(err)
			}
			first, body, _, _, _ := Split(b, len(b))
			if n := testing.AllocsPerRun(100, func() { err = decode(p, first, body, c.version) }); n != 0 || err != nil {
				t.Errorf("Decode: %v allocations, %v", n, err)
			}
			dst := make([]byte, 0, 2*len(b))
			if n := testing.AllocsPerRun(100, func() { dst = p.Append(dst[:0], c.version) }); n != 0 {
				t.Errorf("Append: %v allocations", n)
			}
			if n := testing.AllocsPerRun(100, func() { _, body, _, _, err = Split(b, len(b)) }); n != 0 || err != nil {
				t.Errorf("Split: %v allocations, %v", n, err)
			}
		})
	}
}

// No length that the input does not back leads to an allocation, and neither
// does refusing it.
func TestHostileInputDoesNotAllocate(t *testing.T) {
	for _, vec := range vectors(t) {
		if !vec.wantFail {
			continue
		}
		for _, in := range vec.inputs {
			first, body, _, _, err := Split(in.bytes, vec.max)
			p := packet(nil)
			if err == nil {
				p = newPacket(TypeOf(first))
				err = decode(p, first, body, in.version) // grows what it may keep
			}
			n := testing.AllocsPerRun(10, func() {
				if p == nil {
					_, _, _, _, err = Split(in.bytes, vec.max)
				} else {
					err = decode(p, first, body, in.version)
				}
			})
			if n != 0 || err == nil {
				t.Errorf("%s %v: %v allocations, %v", vec.name, in.version, n, err)
			}
		}
	}
}

// Even the first packet costs no more than in proportion to its size.
func TestMemoryIsBounded(t *testing.T) {
	const size = 1 << 20
	short := append([]byte{0, 1}, bytes.Repeat([]byte{0, 1, 'a', 0}, size/4)...)
	shorter := append([]byte{0, 1}, bytes.Repeat([]byte{0, 1, 'a'}, size/3)...)
	for _, c := range []struct {
		name  string
		first byte
		body  []byte
		times uint64
	}{
		{"SUBSCRIBE", 0x82, short, 9},     // a Filter has 32 bytes for 4
		{"UNSUBSCRIBE", 0xA2, shorter, 9}, // a slice has 24 bytes for 3
		{"user properties between others", 0x10, connectWithUsers(size), 3},
	} {
		var before, after runtime.MemStats
		p := newPacket(TypeOf(c.first))
		runtime.ReadMemStats(&before)
		err := decode(p, c.first, c.body, V311)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; err != nil || got > c.times*uint64(len(c.body)) {
			t.Errorf("%s: %d bytes allocated for %d, %v", c.name, got, len(c.body), err)
		}
	}
}

// connectWithUsers returns the body of a CONNECT with size bytes of user
// properties, with another property in their middle.
func connectWithUsers(size int) []byte {
	half := bytes.Repeat([]byte{byte(PropUser), 0, 0, 0, 0}, size/10)
	props := append(append(bytes.Clone(half), byte(PropReceiveMaximum), 0, 1), half...)
	body := appendString(nil, "MQTT")
	body = append(body, byte(V5), 0, 0, 0)
	body = appendVarint(body, uint32(len(props)))
	body = append(body, props...)
	return append(body, 0, 0)
}
