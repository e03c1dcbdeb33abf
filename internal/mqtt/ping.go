package mqtt

// Pingreq asks the server for a sign of life.
type Pingreq struct{}

// Decode checks that the body is empty.
func (*Pingreq) Decode(first byte, body []byte, v Version) error {
	r := open(first, body, v)
	return r.end()
}

// Append encodes the packet.
func (*Pingreq) Append(dst []byte, _ Version) []byte { return append(dst, firstByte(PINGREQ), 0) }

// Pingresp answers a PINGREQ.
type Pingresp struct{}

// Decode checks that the body is empty.
func (*Pingresp) Decode(first byte, body []byte, v Version) error {
	r := open(first, body, v)
	return r.end()
}

// Append encodes the packet.
func (*Pingresp) Append(dst []byte, _ Version) []byte { return append(dst, firstByte(PINGRESP), 0) }
