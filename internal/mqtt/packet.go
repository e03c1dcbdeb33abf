package mqtt

import "fmt"

// Version is the protocol level of a connection as CONNECT has it.
type Version byte

// The versions this package reads and writes.
const (
	V31  Version = 3
	V311 Version = 4
	V5   Version = 5
)

func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return fmt.Sprintf("level %d", byte(v))
}

// PacketType is the upper half of a packet's first byte.
type PacketType byte

// The control packet types, spelt as the standard spells them. AUTH exists in
// MQTT 5 only.
const (
	CONNECT     PacketType = 1
	CONNACK     PacketType = 2
	PUBLISH     PacketType = 3
	PUBACK      PacketType = 4
	PUBREC      PacketType = 5
	PUBREL      PacketType = 6
	PUBCOMP     PacketType = 7
	SUBSCRIBE   PacketType = 8
	SUBACK      PacketType = 9
	UNSUBSCRIBE PacketType = 10
	UNSUBACK    PacketType = 11
	PINGREQ     PacketType = 12
	PINGRESP    PacketType = 13
	DISCONNECT  PacketType = 14
	AUTH        PacketType = 15
)

// will stands for the will properties of CONNECT where a set of packets is
// asked for: they are a context of their own.
const will PacketType = 0

var packetNames = [...]string{
	"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

func (t PacketType) String() string {
	if int(t) < len(packetNames) {
		return packetNames[t]
	}
	return fmt.Sprintf("packet type %d", byte(t))
}

// TypeOf returns the packet type in a packet's first byte.
func TypeOf(first byte) PacketType { return PacketType(first >> 4) }

// packetSet has bit n set for packet type n.
type packetSet uint16

func (s packetSet) has(t PacketType) bool { return s>>t&1 != 0 }

const (
	maxRemaining = 1<<28 - 1 // what four length bytes can say
	maxString    = 1<<16 - 1

	// MaxPacketSize is the size in bytes of the largest packet there can be,
	// fixed header included.
	MaxPacketSize = 1 + 4 + maxRemaining
)

// Split finds one whole packet at the start of b.
//
// n is its size in bytes, body (an alias of b) what follows the fixed header,
// and first the packet's first byte, to be given to Decode. With n == 0 and no
// error b ends within the packet; need then is the size of the whole packet in
// bytes, or 0 if not even its length has arrived.
//
// limit is the largest whole packet to accept, in bytes. It is checked as soon
// as the length is there, before the body is: ErrTooLarge, and need is the size.
// Of the first byte only what no version has is refused here; Decode, which
// knows the version, checks the rest.
//
// A length with needless bytes (0x80 0x00) is read as what it says; see
// Shortest.
func Split(b []byte, limit int) (first byte, body []byte, n, need int, err error) {
	if len(b) == 0 {
		return 0, nil, 0, 0, nil
	}
	first = b[0]
	switch {
	case TypeOf(first) == 0:
		return first, nil, 0, 0, errPacketType
	case TypeOf(first) == PUBLISH && first&0x06 == 0x06: // [MQTT-3.3.1-4]
		return first, nil, 0, 0, errQoS
	}
	length, head := 0, 1
	for more := true; more; head++ {
		if head == 5 {
			return first, nil, 0, 0, errVarint
		}
		if head == len(b) {
			return first, nil, 0, 0, nil
		}
		length |= int(b[head]&0x7F) << (7 * (head - 1))
		more = b[head] >= 0x80
	}
	size := head + length
	if size > limit {
		return first, nil, 0, size, ErrTooLarge
	}
	if size > len(b) {
		return first, nil, 0, size, nil
	}
	return first, b[head:size:size], size, 0, nil
}

// Shortest reports whether a packet of n bytes in all, body of them behind the
// fixed header, has its length in the shortest form [MQTT-1.5.5-1]. MQTT 3.1.1
// does not ask for that.
func Shortest(n, body int) bool { return n-body == 1+varintSize(uint32(body)) }

// checkFlags checks the flags in a packet's first byte [MQTT-2.1.3-1]
// [MQTT3-2.2.2-2]. MQTT 3.1 calls those it does not use unused, not
// reserved, and its clients set DUP on a SUBSCRIBE or PUBREL they repeat.
// [MQTT-3.3.1-4] [MQTT3-3.3.1-4] [MQTT3-3.3.1-2] [MQTT3-3.6.1-1] [MQTT3-3.8.1-1] [MQTT3-3.10.1-1] [MQTT3-3.14.1-1]
func checkFlags(first byte, v Version) *Error {
	t, flags := TypeOf(first), first&0x0F
	switch {
	case t == PUBLISH && flags&0x06 == 0x06: // [MQTT-3.3.1-4]
		return errQoS
	case v == V31:
		return nil
	case t == PUBLISH:
		if flags&0x0E == 0x08 { // [MQTT-3.3.1-2]
			return errDup
		}
	case first != firstByte(t): // [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
		return errFlags
	}
	return nil
}

// open starts reading the body of a packet, after a look at its flags.
func open(first byte, body []byte, v Version) reader {
	if err := checkFlags(first, v); err != nil {
		return reader{err: err}
	}
	return reader{b: body}
}

// firstByte returns the first byte of every packet but PUBLISH.
// [MQTT3-2.2.2-1] [MQTT-2.1.3-1]
func firstByte(t PacketType) byte {
	switch t {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return byte(t)<<4 | 0x02
	}
	return byte(t) << 4
}
