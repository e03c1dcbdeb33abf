package mqtt

import (
	"bytes"
	"testing"
)

// Variable byte integers, at the ends of each length (table 1-1).
var varints = []struct {
	value uint32
	hex   string
}{
	{0, "00"}, {1, "01"}, {127, "7F"},
	{128, "8001"}, {16383, "FF7F"},
	{16384, "808001"}, {2097151, "FFFF7F"},
	{2097152, "80808001"}, {268435455, "FFFFFF7F"},
}

// [MQTT-1.5.5-1]
func TestVarint(t *testing.T) {
	for _, c := range varints {
		want := unhex(t, c.hex)
		if got := appendVarint(nil, c.value); !bytes.Equal(got, want) {
			t.Errorf("%d is written %x, want %x", c.value, got, want)
		}
		if got := varintSize(c.value); got != len(want) {
			t.Errorf("%d: size %d, want %d", c.value, got, len(want))
		}
		r := reader{b: want}
		if got, err := r.varint(), r.end(); got != c.value || err != nil {
			t.Errorf("%x is read as %d, %v", want, got, err)
		}
	}
}

// setLength, for as many bytes as each length of a length can say; not the
// longest, which would need the memory.
func TestSetLength(t *testing.T) {
	for _, c := range varints[:len(varints)-1] {
		body := bytes.Repeat([]byte{'x'}, int(c.value))
		want := append([]byte("ab"), unhex(t, c.hex)...)
		want = append(want, body...)
		if got := setLength(append([]byte{'a', 'b', 0}, body...), 2); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %x..., want %x...", c.value, got[:8], want[:8])
		}
	}
}

func TestCountFilters(t *testing.T) {
	for _, c := range []struct {
		hex     string
		options int
		want    int
	}{
		{"", 0, 0}, {"00", 0, 0}, {"0000", 0, 1}, {"0000", 1, 0}, {"0001 61", 0, 1}, {"0001 61 00", 1, 1},
		{"0001 61 0002 6161", 0, 2}, {"0001 61 0002 61", 0, 1}, {"0001 61 00 0001 62 00", 1, 2}, {"FFFF", 1, 0},
	} {
		r := reader{b: unhex(t, c.hex)}
		if got := r.countFilters(c.options); got != c.want {
			t.Errorf("%s with %d bytes of options: %d, want %d", c.hex, c.options, got, c.want)
		}
	}
}

// The first error is the one that is reported, and nothing is read after it.
func TestReaderErrorSticks(t *testing.T) {
	r := reader{b: []byte{0, 0, 1, 2, 3, 4, 5, 6}}
	r.packetID()
	if x := r.uint32(); x != 0 || len(r.rest()) != 0 {
		t.Errorf("read on: %x, %x", x, r.b)
	}
	if err := r.end(); err != errPacketID {
		t.Errorf("got %v, want %v", err, errPacketID)
	}
}
