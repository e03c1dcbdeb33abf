package mqtt

import "fmt"

// Prop is the identifier of an MQTT 5 property.
type Prop byte

// The properties of MQTT 5 (table 2-4).
const (
	PropPayloadFormat           Prop = 0x01
	PropMessageExpiry           Prop = 0x02
	PropContentType             Prop = 0x03
	PropResponseTopic           Prop = 0x08
	PropCorrelationData         Prop = 0x09
	PropSubscriptionID          Prop = 0x0B
	PropSessionExpiry           Prop = 0x11
	PropAssignedClientID        Prop = 0x12
	PropServerKeepAlive         Prop = 0x13
	PropAuthMethod              Prop = 0x15
	PropAuthData                Prop = 0x16
	PropRequestProblemInfo      Prop = 0x17
	PropWillDelay               Prop = 0x18
	PropRequestResponseInfo     Prop = 0x19
	PropResponseInfo            Prop = 0x1A
	PropServerReference         Prop = 0x1C
	PropReasonString            Prop = 0x1F
	PropReceiveMaximum          Prop = 0x21
	PropTopicAliasMaximum       Prop = 0x22
	PropTopicAlias              Prop = 0x23
	PropMaximumQoS              Prop = 0x24
	PropRetainAvailable         Prop = 0x25
	PropUser                    Prop = 0x26
	PropMaximumPacketSize       Prop = 0x27
	PropWildcardAvailable       Prop = 0x28
	PropSubscriptionIDAvailable Prop = 0x29
	PropSharedAvailable         Prop = 0x2A
)

// wireType is how a property's value is written.
type wireType byte

const (
	noProperty wireType = iota
	wireBool            // a byte, 0 or 1
	wireByte            // a byte, 0 or 1, that is no truth value
	wireUint16
	wireUint32
	wireVarint
	wireText
	wireBinary
	wirePair // two strings
)

// Sets of packets that share properties.
const (
	inMessage = 1<<PUBLISH | 1<<will
	inOpening = 1<<CONNECT | 1<<CONNACK
	inReasons = 1<<CONNACK | 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP | 1<<SUBACK | 1<<UNSUBACK | 1<<DISCONNECT | 1<<AUTH
	inAll     = inMessage | inReasons | 1<<CONNECT | 1<<SUBSCRIBE | 1<<UNSUBSCRIBE
)

// propTable has one row per property, indexed by its identifier.
var propTable = [...]struct {
	name    string
	wire    wireType
	in      packetSet // where it may stand
	repeat  packetSet // where it may stand more than once
	nonzero bool
}{
	PropPayloadFormat:           {"payload format indicator", wireByte, inMessage, 0, false},
	PropMessageExpiry:           {"message expiry interval", wireUint32, inMessage, 0, false},
	PropContentType:             {"content type", wireText, inMessage, 0, false},
	PropResponseTopic:           {"response topic", wireText, inMessage, 0, false},
	PropCorrelationData:         {"correlation data", wireBinary, inMessage, 0, false},
	PropSubscriptionID:          {"subscription identifier", wireVarint, 1<<PUBLISH | 1<<SUBSCRIBE, 1 << PUBLISH, true},
	PropSessionExpiry:           {"session expiry interval", wireUint32, inOpening | 1<<DISCONNECT, 0, false},
	PropAssignedClientID:        {"assigned client identifier", wireText, 1 << CONNACK, 0, false},
	PropServerKeepAlive:         {"server keep alive", wireUint16, 1 << CONNACK, 0, false},
	PropAuthMethod:              {"authentication method", wireText, inOpening | 1<<AUTH, 0, false},
	PropAuthData:                {"authentication data", wireBinary, inOpening | 1<<AUTH, 0, false},
	PropRequestProblemInfo:      {"request problem information", wireBool, 1 << CONNECT, 0, false},
	PropWillDelay:               {"will delay interval", wireUint32, 1 << will, 0, false},
	PropRequestResponseInfo:     {"request response information", wireBool, 1 << CONNECT, 0, false},
	PropResponseInfo:            {"response information", wireText, 1 << CONNACK, 0, false},
	PropServerReference:         {"server reference", wireText, inClosing, 0, false},
	PropReasonString:            {"reason string", wireText, inReasons, 0, false},
	PropReceiveMaximum:          {"receive maximum", wireUint16, inOpening, 0, true},
	PropTopicAliasMaximum:       {"topic alias maximum", wireUint16, inOpening, 0, false},
	PropTopicAlias:              {"topic alias", wireUint16, 1 << PUBLISH, 0, false}, // 0 has an error of its own
	PropMaximumQoS:              {"maximum QoS", wireByte, 1 << CONNACK, 0, false},
	PropRetainAvailable:         {"retain available", wireBool, 1 << CONNACK, 0, false},
	PropUser:                    {"user property", wirePair, inAll, inAll, false},
	PropMaximumPacketSize:       {"maximum packet size", wireUint32, inOpening, 0, true},
	PropWildcardAvailable:       {"wildcard subscription available", wireBool, 1 << CONNACK, 0, false},
	PropSubscriptionIDAvailable: {"subscription identifiers available", wireBool, 1 << CONNACK, 0, false},
	PropSharedAvailable:         {"shared subscription available", wireBool, 1 << CONNACK, 0, false},
}

func (p Prop) String() string {
	if int(p) < len(propTable) && propTable[p].name != "" {
		return propTable[p].name
	}
	return fmt.Sprintf("property 0x%02X", byte(p))
}

// property reads one property of a packet of type t and checks everything that
// can be wrong with it. seen has a bit for each property read before.
//
// num is the value of a property that is a number or truth value, data that of
// one that is a string or binary data. A user property is only checked.
// After an error id is 0.
func (r *reader) property(t PacketType, seen *uint64) (id Prop, num uint32, data []byte) {
	id = Prop(r.byte())
	if int(id) >= len(propTable) || !propTable[id].in.has(t) {
		r.fail(errProperty) // section 2.2.2.2: malformed, not a protocol error
		return 0, 0, nil
	}
	row := &propTable[id]
	if *seen>>id&1 != 0 && !row.repeat.has(t) {
		r.fail(errRepeated)
		return 0, 0, nil
	}
	*seen |= 1 << id
	switch row.wire {
	case wireBool, wireByte:
		if num = uint32(r.byte()); num > 1 {
			r.fail(errPropertyValue)
		}
	case wireUint16:
		num = uint32(r.uint16())
	case wireUint32:
		num = r.uint32()
	case wireVarint:
		num = r.varint()
	case wireText:
		// [MQTT-3.3.2-13] [MQTT-3.3.2-19]
		data = r.text()
	case wireBinary:
		data = r.binary()
	// [MQTT-1.5.7-1]
	case wirePair:
		r.text()
		r.text()
	}
	switch {
	case row.nonzero && num == 0:
		r.fail(errPropertyValue)
	case id == PropTopicAlias && num == 0: // [MQTT-3.3.2-8]
		r.fail(errTopicAlias)
	case id == PropResponseTopic && (len(data) == 0 || hasWildcard(data)): // [MQTT-3.3.2-14]
		r.fail(errResponseTopic)
	}
	if r.err != nil {
		return 0, 0, nil
	}
	return id, num, data
}

// section reads a property length and the bytes it covers.
func (r *reader) section() []byte { return r.take(int(r.varint())) }

// pieces joins parts of one buffer. Parts that follow each other stay a slice
// of it; only when there is a gap they are copied to scratch.
type pieces struct {
	of       []byte
	scratch  []byte
	from, to int // the joined part of of, while not copied
	copied   bool
}

// add takes of[from:to].
func (p *pieces) add(from, to int) {
	switch {
	case p.copied:
		p.scratch = append(p.scratch, p.of[from:to]...)
	case p.from == p.to:
		p.from, p.to = from, to
	case p.to == from:
		p.to = to
	default:
		p.scratch = append(p.scratch[:0], p.of[p.from:p.to]...)
		p.scratch = append(p.scratch, p.of[from:to]...)
		p.copied = true
	}
}

// joined returns all parts. They alias of or scratch.
func (p *pieces) joined() []byte {
	if p.copied {
		return p.scratch[:len(p.scratch):len(p.scratch)]
	}
	return p.of[p.from:p.to:p.to]
}
