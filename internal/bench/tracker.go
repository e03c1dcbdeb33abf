package bench

import "math/bits"

// bitset is a set of sequence numbers, one bit each up to the largest.
type bitset []uint64

// add reports whether n is new.
func (s *bitset) add(n uint64) bool {
	i := int(n / 64)
	for i >= len(*s) {
		*s = append(*s, 0)
	}
	bit := uint64(1) << (n % 64)
	if (*s)[i]&bit != 0 {
		return false
	}
	(*s)[i] |= bit
	return true
}

// without counts the members that are not in other.
func (s bitset) without(other bitset) (n int64) {
	for i, word := range s {
		if i < len(other) {
			word &^= other[i]
		}
		n += int64(bits.OnesCount64(word))
	}
	return n
}

// tracker counts what a receiver gets of one sender's sequence 0, 1, 2 ...
type tracker struct {
	seen       bitset
	next       uint64 // largest seen plus 1
	unique     int64
	duplicated int64 // arrivals of what had arrived before
	misordered int64 // first arrivals after a larger one
}

// receive takes the next arrival, and reports whether it is a new one.
func (t *tracker) receive(seq uint64) bool {
	switch {
	case !t.seen.add(seq):
		t.duplicated++
		return false
	case seq < t.next:
		t.misordered++
	default:
		t.next = seq + 1
	}
	t.unique++
	return true
}
