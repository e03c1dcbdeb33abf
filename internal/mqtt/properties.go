package mqtt

import (
	"encoding/binary"
	"math/bits"
)

// Properties are the MQTT 5 properties of any packet but PUBLISH, and of a
// will. A field counts only if Has says so; Set makes it count:
//
//	p.ReceiveMaximum = 100
//	p.Set(PropReceiveMaximum)
//
// User properties need no Set: they are there if User is not empty.
type Properties struct {
	present uint64 // bit n: property n

	MessageExpiry     uint32 // seconds
	SessionExpiry     uint32 // seconds; 0xFFFFFFFF: never
	WillDelay         uint32 // seconds
	MaximumPacketSize uint32 // bytes
	SubscriptionID    uint32
	ServerKeepAlive   uint16 // seconds
	ReceiveMaximum    uint16
	TopicAliasMaximum uint16
	topicAlias        uint16 // a PUBLISH has its own field

	PayloadFormat byte // 0: bytes, 1: UTF-8
	MaximumQoS    byte // 0 or 1

	RequestProblemInfo      bool
	RequestResponseInfo     bool
	RetainAvailable         bool
	WildcardAvailable       bool
	SubscriptionIDAvailable bool
	SharedAvailable         bool

	ContentType      []byte
	ResponseTopic    []byte
	CorrelationData  []byte
	AssignedClientID []byte
	AuthMethod       []byte
	AuthData         []byte
	ResponseInfo     []byte
	ServerReference  []byte
	ReasonString     []byte

	// User holds the user properties in their wire encoding, in order. Read
	// them with UserProperties, add with AppendUserProperty.
	User []byte

	scratch []byte // holds User when it had gaps
}

// Has reports whether the property is there.
func (p *Properties) Has(id Prop) bool {
	if id == PropUser {
		return len(p.User) > 0
	}
	return p.present>>id&1 != 0
}

// Set says that properties are there.
func (p *Properties) Set(ids ...Prop) {
	for _, id := range ids {
		p.present |= 1 << id
	}
}

// Unset says that a property is not there.
func (p *Properties) Unset(id Prop) {
	if id == PropUser {
		p.User = nil
	}
	p.present &^= 1 << id
}

// Reset removes all properties. The memory is kept for the next Decode.
func (p *Properties) Reset() { *p = Properties{scratch: p.scratch} }

// Empty reports whether there is no property.
func (p *Properties) Empty() bool { return p.present&^(1<<PropUser) == 0 && len(p.User) == 0 }

// decode reads the property length and properties of a packet of type t.
func (p *Properties) decode(r *reader, t PacketType) {
	all := r.section()
	if r.err != nil {
		return
	}
	if err := p.decodeAll(all, t); err != nil {
		r.fail(err)
	}
}

// decodeAll sets p to the properties in all.
func (p *Properties) decodeAll(all []byte, t PacketType) *Error {
	p.Reset()
	user := pieces{of: all, scratch: p.scratch}
	r := reader{b: all}
	for len(r.b) > 0 {
		from := len(all) - len(r.b)
		id, num, data := r.property(t, &p.present)
		switch {
		case id == 0:
			return r.err
		case id == PropUser:
			user.add(from, len(all)-len(r.b))
		default:
			p.store(id, num, data)
		}
	}
	p.User, p.scratch = user.joined(), user.scratch
	p.present &^= 1 << PropUser
	return nil
}

// store sets the field of one property.
func (p *Properties) store(id Prop, num uint32, data []byte) {
	switch propTable[id].wire {
	case wireBool:
		*p.boolField(id) = num == 1
	case wireByte:
		*p.byteField(id) = byte(num)
	case wireUint16:
		*p.uint16Field(id) = uint16(num)
	case wireUint32:
		*p.uint32Field(id) = num
	case wireVarint:
		p.SubscriptionID = num
	case wireText, wireBinary:
		*p.dataField(id) = data
	}
}

func (p *Properties) boolField(id Prop) *bool {
	switch id {
	case PropRequestProblemInfo:
		return &p.RequestProblemInfo
	case PropRequestResponseInfo:
		return &p.RequestResponseInfo
	case PropRetainAvailable:
		return &p.RetainAvailable
	case PropWildcardAvailable:
		return &p.WildcardAvailable
	case PropSubscriptionIDAvailable:
		return &p.SubscriptionIDAvailable
	default:
		return &p.SharedAvailable
	}
}

func (p *Properties) byteField(id Prop) *byte {
	if id == PropPayloadFormat {
		return &p.PayloadFormat
	}
	return &p.MaximumQoS
}

func (p *Properties) uint16Field(id Prop) *uint16 {
	switch id {
	case PropServerKeepAlive:
		return &p.ServerKeepAlive
	case PropReceiveMaximum:
		return &p.ReceiveMaximum
	case PropTopicAliasMaximum:
		return &p.TopicAliasMaximum
	default:
		return &p.topicAlias
	}
}

func (p *Properties) uint32Field(id Prop) *uint32 {
	switch id {
	case PropMessageExpiry:
		return &p.MessageExpiry
	case PropSessionExpiry:
		return &p.SessionExpiry
	case PropWillDelay:
		return &p.WillDelay
	default:
		return &p.MaximumPacketSize
	}
}

func (p *Properties) dataField(id Prop) *[]byte {
	switch id {
	case PropContentType:
		return &p.ContentType
	case PropResponseTopic:
		return &p.ResponseTopic
	case PropCorrelationData:
		return &p.CorrelationData
	case PropAssignedClientID:
		return &p.AssignedClientID
	case PropAuthMethod:
		return &p.AuthMethod
	case PropAuthData:
		return &p.AuthData
	case PropResponseInfo:
		return &p.ResponseInfo
	case PropServerReference:
		return &p.ServerReference
	default:
		return &p.ReasonString
	}
}

// append appends the property length and the properties, by identifier, user
// properties last.
// [MQTT-2.2.2-1]
func (p *Properties) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0)
	dst = p.appendSome(dst, p.present)
	return setLength(dst, at)
}

// appendSome appends those properties that are in set, and the user properties.
func (p *Properties) appendSome(dst []byte, set uint64) []byte {
	for set &= p.present &^ (1 << PropUser); set != 0; set &= set - 1 {
		id := Prop(bits.TrailingZeros64(set))
		if int(id) >= len(propTable) || propTable[id].wire == noProperty {
			continue
		}
		dst = append(dst, byte(id))
		switch propTable[id].wire {
		case wireBool:
			dst = append(dst, bit(*p.boolField(id), 1))
		case wireByte:
			dst = append(dst, *p.byteField(id))
		case wireUint16:
			dst = binary.BigEndian.AppendUint16(dst, *p.uint16Field(id))
		case wireUint32:
			dst = binary.BigEndian.AppendUint32(dst, *p.uint32Field(id))
		case wireVarint:
			dst = appendVarint(dst, p.SubscriptionID)
		case wireText, wireBinary:
			dst = appendString(dst, *p.dataField(id))
		}
	}
	return append(dst, p.User...)
}

// bit returns mask for true and 0 for false.
func bit(b bool, mask byte) byte {
	if b {
		return mask
	}
	return 0
}
