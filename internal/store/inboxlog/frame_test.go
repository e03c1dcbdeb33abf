package inboxlog

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
)

// A frame checks only in the segment and at the offset it was written for.
func TestFrameBelongsToItsPlace(t *testing.T) {
	a := &segment{epoch: 7, salt: 1, key: segmentKey(1, 7), size: minSegmentSize}
	var enc encoder
	enc.reset(a, segmentHeaderSize, frameHeader{commit: 3, synced: at(7, 4096), time: 5})
	enc.begin()
	enc.buf = appendSimple(enc.buf, opAck, []byte("client"), 9, 0)
	enc.finish()
	var h frameHeader
	if !h.parse(enc.buf, a.key, segmentHeaderSize) || h.commit != 3 || h.synced != at(7, 4096) || h.time != 5 {
		t.Fatalf("%+v", h)
	}
	if body := enc.buf[frameHeaderSize:][:h.length]; bodyCRC(body, a.key) != h.bodyCRC {
		t.Error("the body does not check")
	}
	for what, key := range map[string]uint32{
		"another life of the file": segmentKey(1, 8), "the same epoch made anew": segmentKey(2, 7),
	} {
		if h.parse(enc.buf, key, segmentHeaderSize) {
			t.Errorf("it checks in %s", what)
		}
	}
	if h.parse(enc.buf, a.key, segmentHeaderSize+8) {
		t.Error("it checks at another offset")
	}
}

// The op decoder never panics, and what it takes it takes to the end.
func FuzzOps(f *testing.F) {
	f.Add(appendSimple(nil, opClaim, []byte("c"), 0, 7))
	f.Add(appendPut(nil, 0, []target{{client: []byte("c"), seq: 1}}, []byte("record"), 0))
	f.Add(appendPut(nil, 5, []target{{client: []byte("c"), claim: true, origin: []byte("o")}, {}}, nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := cursor{b: b}
		var op diskOp
		for c.op(&op, 0, 0) {
		}
		if !c.bad && c.pos != len(b) {
			t.Errorf("stopped at %d of %d", c.pos, len(b))
		}
	})
}

// Ops decode to what was encoded, and fit the size they were measured with.
func TestOpsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var targets []target
		size := putSize
		for range rapid.IntRange(1, 4).Draw(t, "targets") {
			tg := target{
				client: []byte(rapid.StringN(0, 40, -1).Draw(t, "client")), seq: rapid.Uint64().Draw(t, "seq"),
				expiry: rapid.Int64Min(0).Draw(t, "expiry"), flags: mq.Flags(rapid.IntRange(0, 31).Draw(t, "flags")),
			}
			if tg.claim = rapid.Bool().Draw(t, "claim"); tg.claim {
				tg.origin, tg.packet = []byte(rapid.StringN(0, 40, -1).Draw(t, "origin")), rapid.Uint16().Draw(t, "packet")
			}
			targets = append(targets, tg)
			size += targetSize + len(tg.client) + len(tg.origin)
		}
		record := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "record")
		put := rapid.SampledFrom([]int64{0, 1, 1 << 31}).Draw(t, "put")
		b := appendPut(nil, put, targets, record, recordCRC(record))
		if len(b) > size+len(record) {
			t.Fatalf("%d bytes, measured %d", len(b), size+len(record))
		}
		var op diskOp
		c := cursor{b: b}
		if !c.op(&op, 100, 77) || c.pos != len(b) || string(op.record) != string(record) || op.crc != recordCRC(record) {
			t.Fatalf("%+v", op)
		}
		if want := int64(100 + len(b) - len(record)); int64(op.offset) != want || op.shared != (len(targets) > 1) {
			t.Fatalf("offset %d, want %d, shared %v", op.offset, want, op.shared)
		}
		for i, want := range targets {
			got := op.targets[i]
			if string(got.client) != string(want.client) || got.seq != want.seq || got.expiry != want.expiry ||
				got.flags != want.flags || got.claim != want.claim || string(got.origin) != string(want.origin) || got.packet != want.packet {
				t.Fatalf("%+v, want %+v", got, want)
			}
		}
	})
}
