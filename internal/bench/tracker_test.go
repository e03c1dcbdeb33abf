package bench

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A tracker counts as one would by looking at the whole list of arrivals.
func TestTracker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arrivals := rapid.SliceOf(rapid.Uint64Range(0, 200)).Draw(t, "arrivals")
		var got tracker
		var unique, duplicated, misordered int64
		for i, seq := range arrivals {
			earlier := arrivals[:i]
			isNew := !slices.Contains(earlier, seq)
			switch {
			case !isNew:
				duplicated++
			default:
				unique++
				if i > 0 && slices.Max(earlier) > seq {
					misordered++
				}
			}
			if got.receive(seq) != isNew {
				t.Fatalf("arrival %d: new is %v", i, isNew)
			}
		}
		if got.unique != unique || got.duplicated != duplicated || got.misordered != misordered {
			t.Fatalf("%d unique, %d duplicated, %d out of order; want %d, %d, %d",
				got.unique, got.duplicated, got.misordered, unique, duplicated, misordered)
		}
	})
}

func TestBitset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.Uint64Range(0, 300))
		a, b := numbers.Draw(t, "a"), numbers.Draw(t, "b")
		var as, bs bitset
		for _, n := range b {
			bs.add(n)
		}
		want := map[uint64]bool{}
		for i, n := range a {
			if as.add(n) == slices.Contains(a[:i], n) {
				t.Fatalf("add %d", n)
			}
			if !slices.Contains(b, n) {
				want[n] = true
			}
		}
		if got := as.without(bs); got != int64(len(want)) {
			t.Fatalf("%d, want %d", got, len(want))
		}
	})
}

func TestHeader(t *testing.T) {
	payload := newPayload(MinPayload)
	want := header{run: 1 << 63, pair: 7, seq: 1 << 40, time: 123456789}
	want.put(payload)
	if got, ok := readHeader(payload); !ok || got != want {
		t.Errorf("got %+v", got)
	}
	if _, ok := readHeader(payload[1:]); ok {
		t.Error("a short payload has a header")
	}
}
