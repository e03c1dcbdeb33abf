package mqtt

import "encoding/binary"

// Publish carries an application message, in both directions.
//
// Its properties are fields of its own rather than Properties: this is the
// packet that must be read and written without work for what is not there.
type Publish struct {
	Dup        bool
	Retain     bool
	HasExpiry  bool // MQTT 5: Expiry counts
	QoS        byte
	PacketID   uint16 // QoS 1 and 2 only
	TopicAlias uint16 // MQTT 5; 0: none
	Expiry     uint32 // seconds
	Topic      []byte // empty only with a topic alias
	Payload    []byte
	// Props are the travelling properties in their wire encoding, without the
	// length prefix; see UserProperties and DecodeProps. After Decode they
	// alias the body, or memory of this struct that the next Decode reuses.
	Props []byte
	// SubscriptionIDs are those of the matching subscriptions, in packets to a
	// client. In packets from one they are a protocol error that the server
	// must find [MQTT-3.3.4-6]. After Decode they are memory of this struct.
	SubscriptionIDs []uint32

	scratch []byte // holds Props when it had gaps
}

// Decode reads the body of a PUBLISH. With ErrTopicName all fields are set, so
// that the packet can be answered by its packet identifier.
func (p *Publish) Decode(first byte, body []byte, v Version) error {
	*p = Publish{
		Dup:             first&0x08 != 0 && first&0x06 != 0,
		QoS:             first >> 1 & 0x03,
		Retain:          first&0x01 != 0,
		SubscriptionIDs: p.SubscriptionIDs[:0],
		scratch:         p.scratch,
	}
	r := open(first, body, v)
	p.Topic = r.text() // [MQTT-3.3.2-1] [MQTT3-3.3.2-1]
	if p.QoS > 0 {
		p.PacketID = r.packetID() // QoS 0 has none [MQTT-2.2.1-2] [MQTT3-2.3.1-5]
	}
	if v == V5 {
		p.decodeProperties(&r)
	}
	p.Payload = r.rest()
	switch {
	case r.err != nil:
		return r.err
	case len(p.Topic) == 0 && p.TopicAlias == 0: // [MQTT-4.7.3-1] [MQTT3-4.7.3-1]
		return errNoTopic
	case hasWildcard(p.Topic): // [MQTT-3.3.2-2] [MQTT3-3.3.2-2] [MQTT-4.7.0-1] [MQTT3-4.7.1-1]
		return ErrTopicName
	}
	return nil
}

func (p *Publish) decodeProperties(r *reader) {
	all := r.section()
	if len(all) == 0 {
		return
	}
	var seen uint64
	props := pieces{of: all, scratch: p.scratch}
	pr := reader{b: all}
	for len(pr.b) > 0 {
		from := len(all) - len(pr.b)
		id, num, _ := pr.property(PUBLISH, &seen)
		switch id {
		case 0:
			r.fail(pr.err)
			return
		case PropMessageExpiry:
			p.HasExpiry, p.Expiry = true, num
		case PropTopicAlias:
			p.TopicAlias = uint16(num)
		case PropSubscriptionID:
			p.SubscriptionIDs = append(p.SubscriptionIDs, num)
		default:
			props.add(from, len(all)-len(pr.b))
		}
	}
	p.Props, p.scratch = props.joined(), props.scratch
}

// Size returns the exact size in bytes of what Append appends, to be compared
// with the receiver's Maximum Packet Size.
func (p *Publish) Size(v Version) int {
	n := p.remaining(v)
	return 1 + varintSize(uint32(n)) + n
}

// remaining returns the remaining length.
func (p *Publish) remaining(v Version) int {
	n := 2 + stringLen(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if v == V5 {
		props := p.propsSize()
		n += varintSize(uint32(props)) + props
	}
	return n
}

// propsSize returns the property length.
func (p *Publish) propsSize() int {
	n := len(p.Props)
	if p.HasExpiry {
		n += 5
	}
	if p.TopicAlias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintSize(id)
	}
	return n
}

// Append encodes the packet. In 3.x the topic alias, expiry, subscription
// identifiers and Props are ignored.
func (p *Publish) Append(dst []byte, v Version) []byte {
	return append(p.AppendHead(dst, v), p.Payload...)
}

// AppendHead encodes the packet up to its payload, which the caller then sends
// from where it is.
func (p *Publish) AppendHead(dst []byte, v Version) []byte {
	first := byte(PUBLISH)<<4 | p.QoS<<1 | bit(p.Retain, 0x01)
	if p.QoS > 0 {
		first |= bit(p.Dup, 0x08) // [MQTT-3.3.1-2] [MQTT3-3.3.1-2] [MQTT-4.3.1-1] [MQTT3-4.3.1-1]
	}
	dst = append(dst, first)
	dst = appendVarint(dst, uint32(p.remaining(v)))
	dst = appendString(dst, p.Topic)
	if p.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, p.PacketID)
	}
	if v != V5 {
		return dst
	}
	dst = appendVarint(dst, uint32(p.propsSize()))
	if p.HasExpiry {
		dst = append(dst, byte(PropMessageExpiry))
		dst = binary.BigEndian.AppendUint32(dst, p.Expiry)
	}
	if p.TopicAlias != 0 {
		dst = append(dst, byte(PropTopicAlias), byte(p.TopicAlias>>8), byte(p.TopicAlias))
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, byte(PropSubscriptionID)), id)
	}
	return append(dst, p.Props...)
}
