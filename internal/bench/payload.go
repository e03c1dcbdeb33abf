package bench

import (
	"encoding/binary"
	"math/rand/v2"
)

// header is the start of each payload, in big-endian order: run (8 bytes,
// random, so that messages left over from another run are not taken for ours),
// pair (4), sequence number from 0 (8), time the message was meant to be sent
// in ns since the start of the run (8).
type header struct {
	run  uint64
	pair uint32
	seq  uint64
	time int64
}

// MinPayload is the smallest payload in bytes.
const MinPayload = 28

// newPayload returns a payload that does not compress.
func newPayload(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// put writes the header to the start of payload.
func (h header) put(payload []byte) {
	binary.BigEndian.PutUint64(payload[0:], h.run)
	binary.BigEndian.PutUint32(payload[8:], h.pair)
	binary.BigEndian.PutUint64(payload[12:], h.seq)
	binary.BigEndian.PutUint64(payload[20:], uint64(h.time))
}

// readHeader reports false if payload is too short for one.
func readHeader(payload []byte) (header, bool) {
	if len(payload) < MinPayload {
		return header{}, false
	}
	return header{
		run:  binary.BigEndian.Uint64(payload[0:]),
		pair: binary.BigEndian.Uint32(payload[8:]),
		seq:  binary.BigEndian.Uint64(payload[12:]),
		time: int64(binary.BigEndian.Uint64(payload[20:])),
	}, true
}
