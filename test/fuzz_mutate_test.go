package test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// mutate returns a broken copy of a packet; other is one to splice it with.
// Most of the time the length in its header is made right again, so that the
// damage is found by what reads the body, and what comes next still is a
// packet.
func mutate(r *rand.Rand, b, other []byte) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(3) {
		b = mutations[r.IntN(len(mutations))](r, b, other)
		if len(b) == 0 {
			return b
		}
	}
	if r.IntN(10) < 7 {
		b = repair(b)
	}
	return b
}

// maxMutant bounds what mutations make of a packet, bytes.
const maxMutant = 64 << 10

var mutations = []func(r *rand.Rand, b, other []byte) []byte{
	func(r *rand.Rand, b, _ []byte) []byte { // flip a bit
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	},
	func(r *rand.Rand, b, _ []byte) []byte { // set a byte
		b[r.IntN(len(b))] = []byte{0, 1, 2, 0x7F, 0x80, 0xFF, '#', '+', '/', '$', byte(r.IntN(256))}[r.IntN(11)]
		return b
	},
	func(r *rand.Rand, b, _ []byte) []byte { // set two: a length, an identifier
		if i := r.IntN(len(b)); i+2 <= len(b) {
			binary.BigEndian.PutUint16(b[i:], []uint16{0, 1, 0xFF, 0x7FFF, 0xFFFF, uint16(len(b))}[r.IntN(6)])
		}
		return b
	},
	func(r *rand.Rand, b, _ []byte) []byte { // cut off
		return b[:r.IntN(len(b)+1)]
	},
	func(r *rand.Rand, b, _ []byte) []byte { // remove
		i := r.IntN(len(b))
		return slices.Delete(b, i, min(i+1+r.IntN(8), len(b)))
	},
	func(r *rand.Rand, b, _ []byte) []byte { // say again
		i := r.IntN(len(b))
		piece := slices.Clone(b[i:min(i+1+r.IntN(16), len(b))])
		return slices.Insert(b, i, piece...)
	},
	func(r *rand.Rand, b, _ []byte) []byte { // swap
		i, j := r.IntN(len(b)), r.IntN(len(b))
		b[i], b[j] = b[j], b[i]
		return b
	},
	func(r *rand.Rand, b, other []byte) []byte { // splice
		if len(b)+len(other) > maxMutant {
			return b
		}
		return append(b[:r.IntN(len(b)+1)], other[r.IntN(len(other)+1):]...)
	},
	func(r *rand.Rand, b, _ []byte) []byte { // lie about the length
		_, n := binary.Uvarint(b[1:])
		if len(b) < 2 || n <= 0 {
			return b
		}
		lie := [][]byte{{0}, {1}, {0x7F}, {0x80, 1}, {0xFF, 0xFF, 3}, {0xFF, 0xFF, 0xFF, 0x7F}, {0x80, 0x80, 0x80, 0x80, 1}, {0x80, 0}}
		return slices.Replace(b, 1, 1+n, lie[r.IntN(len(lie))]...)
	},
	func(r *rand.Rand, b, _ []byte) []byte { // add a property, or what is not one
		p := fuzzProperties[r.IntN(len(fuzzProperties))]
		i := r.IntN(len(b) + 1)
		b = slices.Insert(b, i, p...)
		if i > 0 && b[i-1] < 0x40 { // perhaps that was the length of the properties
			b[i-1] += byte(len(p))
		}
		return b
	},
	func(r *rand.Rand, b, _ []byte) []byte { // another type, other flags
		b[0] = byte(r.IntN(256))
		return b
	},
	func(r *rand.Rand, b, _ []byte) []byte { // noise
		i := r.IntN(len(b))
		return slices.Insert(b, i, noise(r, 1+r.IntN(20))...)
	},
}

// fuzzProperties are properties of MQTT 5 as they are written.
var fuzzProperties = [][]byte{
	{0x01, 1}, {0x01, 2}, {0x02, 0, 0, 0, 1}, {0x03, 0, 1, 'x'}, {0x08, 0, 1, 'x'}, {0x08, 0, 1, '#'}, {0x09, 0, 1, 0}, {0x0B, 1}, {0x0B, 0},
	{0x0B, 0xFF, 0xFF, 0xFF, 0xFF}, {0x11, 0xFF, 0xFF, 0xFF, 0xFF}, {0x12, 0, 0}, {0x13, 0, 1}, {0x15, 0, 1, 'x'}, {0x16, 0, 0}, {0x17, 0},
	{0x18, 0, 0, 0, 1}, {0x19, 2}, {0x1A, 0, 0}, {0x1C, 0, 0}, {0x1F, 0, 0}, {0x21, 0, 0}, {0x21, 0, 1}, {0x22, 0, 1}, {0x23, 0, 1}, {0x23, 0, 0},
	{0x24, 1}, {0x26, 0, 0, 0, 0}, {0x26, 0, 1, 'k', 0, 1, 'v'}, {0x27, 0, 0, 0, 0}, {0x27, 0, 0, 0, 9}, {0x28, 0}, {0x7F}, {0x80, 0x01, 0},
}

// repair sets the length in a packet's header to what follows it.
func repair(b []byte) []byte {
	if len(b) < 2 {
		return append(b[:1:1], 0)
	}
	_, n := binary.Uvarint(b[1:min(len(b), 5)])
	if n <= 0 {
		n = 1
	}
	body := b[1+n:]
	return append(binary.AppendUvarint([]byte{b[0]}, uint64(len(body))), body...)
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
