package broker

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestWindow: the ring does what a list does, with gaps between seqs, and over
// the wrap of the packet identifier.
// [MQTT-2.2.1-4] [MQTT3-2.3.1-4]
func TestWindow(t *testing.T) {
	for seed := range uint64(torture(20)) {
		windowAgainstList(t, rng(seed), seed)
	}
}

func windowAgainstList(t *testing.T, r *rand.Rand, seed uint64) {
	var w window
	var list []uint64 // unacknowledged, ascending
	next := 1 + uint64(r.IntN(3*65535))
	if seed%2 == 0 {
		next = 65535*uint64(r.IntN(3)+1) - uint64(r.IntN(40))
	}
	grow := 4
	for i := range 3000 {
		if i%300 == 0 {
			grow = 3 + r.IntN(4)
		}
		switch n := r.IntN(10); {
		case n < grow:
			if r.IntN(9) == 0 {
				next += uint64(r.IntN(1000))
			}
			limit := int32(1 + r.IntN(3000))
			taken := slices.ContainsFunc(list, func(seq uint64) bool { return packetID(seq) == packetID(next) })
			room := len(list) < int(limit) && !taken
			if got := w.room(limit) && w.free(next); got != room {
				t.Fatalf("%d is admitted under %d: %v, with %d unacknowledged from %v", next, limit, got, len(list), list[:min(1, len(list))])
			}
			if room {
				w.push(inflight{seq: next, state: durable})
				list = append(list, next)
				next++
			} else if r.IntN(3) == 0 {
				next += uint64(r.IntN(70000))
			}
		case n < 8 && len(list) > 0:
			i := 0
			if r.IntN(2) == 0 {
				i = r.IntN(len(list))
			}
			e := w.find(packetID(list[i]))
			if e == nil || e.seq != list[i] {
				t.Fatalf("identifier %d of %d finds %+v", packetID(list[i]), list[i], e)
			}
			w.finish(e)
			list = slices.Delete(list, i, i+1)
		case n == 8 && r.IntN(50) == 0:
			w.reset()
			list = nil
		}
		windowIs(t, &w, list, r)
	}
}

func windowIs(t *testing.T, w *window, list []uint64, r *rand.Rand) {
	t.Helper()
	if w.unack != len(list) {
		t.Fatalf("%d unacknowledged, want %d", w.unack, len(list))
	}
	var got []uint64
	for i := range w.n {
		if e := w.at(i); e.state != acked {
			got = append(got, e.seq)
		}
	}
	if !slices.Equal(got, list) {
		t.Fatalf("the window has %v, want %v", got, list)
	}
	if len(list) == 0 {
		if w.n != 0 || w.find(packetID(uint64(r.IntN(65535)))) != nil {
			t.Fatalf("an empty window has %d entries", w.n)
		}
		return
	}
	seq := list[0] + uint64(r.IntN(int(list[len(list)-1]-list[0])+3))
	if i := w.search(seq); i > 0 && w.at(i-1).seq >= seq || i < w.n && w.at(i).seq < seq {
		t.Fatalf("search(%d) is %d of %d", seq, i, w.n)
	}
	in := slices.ContainsFunc(list, func(s uint64) bool { return packetID(s) == packetID(seq) })
	if in != (w.find(packetID(seq)) != nil) {
		t.Fatalf("find of %d: in the list %v", seq, in)
	}
}

// TestTail: the queue does what a list does.
func TestTail(t *testing.T) {
	for seed := range uint64(torture(20)) {
		tailAgainstList(t, rng(seed))
	}
}

func tailAgainstList(t *testing.T, r *rand.Rand) {
	var q tail
	var list []queued
	seq := uint64(1)
	grow := 4
	for i := range 4000 {
		if i%400 == 0 {
			grow = 2 + r.IntN(7)
		}
		switch n := r.IntN(10); {
		case n < grow:
			e := queued{seq: seq, rec: make([]byte, r.IntN(50)), state: state(1 + r.IntN(3))}
			if r.IntN(3) == 0 {
				e.seq, e.qos0 = seq-1, true
			} else {
				seq += 1 + uint64(r.IntN(3))
			}
			q.push(e)
			list = append(list, e)
		case len(list) == 0:
		case n < 9:
			if e := q.pop(); e.seq != list[0].seq || e.qos0 != list[0].qos0 || e.state != list[0].state {
				t.Fatalf("popped %+v, want %+v", e, list[0])
			}
			list = list[1:]
		default:
			at := r.IntN(len(list))
			q.kill(q.at(at))
			list[at] = queued{seq: list[at].seq, state: acked}
		}
		tailIs(t, &q, list, seq, r)
	}
}

func tailIs(t *testing.T, q *tail, list []queued, next uint64, r *rand.Rand) {
	t.Helper()
	bytes := int64(0)
	for i := range list {
		bytes += int64(len(list[i].rec))
	}
	if q.n != len(list) || q.bytes != bytes {
		t.Fatalf("%d entries, %d bytes; want %d, %d", q.n, q.bytes, len(list), bytes)
	}
	seq := next - uint64(r.IntN(int(min(next, 200))))
	want := slices.IndexFunc(list, func(e queued) bool { return e.seq == seq && !e.qos0 && e.state != acked })
	if got := q.find(seq); want < 0 && got != nil || want >= 0 && got != q.at(want) {
		t.Fatalf("find(%d) is %+v, want index %d", seq, got, want)
	}
}
