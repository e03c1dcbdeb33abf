package mqtt

import "iter"

// The travelling properties are those that go with a message from its sender to
// its receivers: payload format indicator, content type, response topic,
// correlation data and user properties. Publish.Props and the message records
// of the server hold them in their wire encoding, in the sender's order
// [MQTT-3.3.2-18], without a length prefix.

// They are passed on as they came: [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
const travelling = 1<<PropPayloadFormat | 1<<PropContentType | 1<<PropResponseTopic | 1<<PropCorrelationData | 1<<PropUser

// AppendPayloadFormat appends a payload format indicator; isText says that the
// payload is UTF-8.
func AppendPayloadFormat(dst []byte, isText bool) []byte {
	return append(dst, byte(PropPayloadFormat), bit(isText, 1))
}

// AppendContentType appends a content type.
func AppendContentType[T text](dst []byte, contentType T) []byte {
	return appendString(append(dst, byte(PropContentType)), contentType)
}

// AppendResponseTopic appends a response topic, which must be a topic name.
func AppendResponseTopic[T text](dst []byte, topic T) []byte {
	return appendString(append(dst, byte(PropResponseTopic)), topic)
}

// AppendCorrelationData appends correlation data.
func AppendCorrelationData[T text](dst []byte, data T) []byte {
	return appendString(append(dst, byte(PropCorrelationData)), data)
}

// AppendUserProperty appends one user property.
func AppendUserProperty[K, V text](dst []byte, key K, value V) []byte {
	return appendString(appendString(append(dst, byte(PropUser)), key), value)
}

// AppendTravelling appends the travelling properties of p, a will's for
// example.
func (p *Properties) AppendTravelling(dst []byte) []byte {
	return p.appendSome(dst, travelling)
}

// DecodeProps sets p to the travelling properties in props, and checks them as
// Publish.Decode does. p aliases props. Any other property is an error.
func DecodeProps(props []byte, p *Properties) error {
	if err := p.decodeAll(props, PUBLISH); err != nil {
		return err
	}
	if p.present&^travelling != 0 {
		return errProperty
	}
	return nil
}

// UserProperties ranges over the user properties in props, which may hold other
// properties also. Key and value alias props. It stops at what is malformed.
func UserProperties(props []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		r := reader{b: props}
		for len(r.b) > 0 {
			key, value, ok := r.userProperty()
			if ok && !yield(key, value) {
				return
			}
		}
	}
}

// UserProperty returns the value of the first user property in props with that
// key. It aliases props.
func UserProperty(props []byte, key string) (value []byte, ok bool) {
	for k, v := range UserProperties(props) {
		if string(k) == key {
			return v, true
		}
	}
	return nil, false
}

// userProperty reads one property and returns it if it is a user property. The
// text is not checked again.
func (r *reader) userProperty() (key, value []byte, ok bool) {
	id := Prop(r.byte())
	if int(id) >= len(propTable) {
		r.fail(errProperty)
		return nil, nil, false
	}
	switch propTable[id].wire {
	case wireBool, wireByte:
		r.byte()
	case wireUint16:
		r.uint16()
	case wireUint32:
		r.uint32()
	case wireVarint:
		r.varint()
	case wireText, wireBinary:
		r.binary()
	case wirePair:
		key, value = r.binary(), r.binary()
		return key, value, r.err == nil
	default:
		r.fail(errProperty)
	}
	return nil, nil, false
}
