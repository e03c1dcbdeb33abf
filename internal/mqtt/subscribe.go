package mqtt

import (
	"encoding/binary"
	"slices"
)

// Subscribe asks for subscriptions.
type Subscribe struct {
	PacketID   uint16
	Filters    []Filter // at least one; memory of this struct after Decode
	Properties Properties
}

// Filter is one topic filter of a SUBSCRIBE with its options. The codec checks
// that Topic is UTF-8; what it means is the caller's.
type Filter struct {
	Topic             []byte
	QoS               byte
	NoLocal           bool // MQTT 5; an error with a shared subscription [MQTT-3.8.3-4]
	RetainAsPublished bool // MQTT 5
	RetainHandling    byte // MQTT 5: 0, 1 or 2
}

// Decode reads the body of a SUBSCRIBE.
func (s *Subscribe) Decode(first byte, body []byte, v Version) error {
	s.Filters = s.Filters[:0]
	s.Properties.Reset()
	r := open(first, body, v)
	s.PacketID = r.packetID()
	if v == V5 {
		s.Properties.decode(&r, SUBSCRIBE)
	}
	s.Filters = slices.Grow(s.Filters, r.countFilters(1))
	for len(r.b) > 0 {
		f := Filter{Topic: r.filter()} // [MQTT-3.8.3-1] [MQTT3-3.8.3-1]
		f.setOptions(&r, v)
		s.Filters = append(s.Filters, f)
	}
	if r.err == nil && len(s.Filters) == 0 { // [MQTT-3.8.3-2] [MQTT3-3.8.3-3]
		return errNoFilters
	}
	return r.end()
}

// setOptions reads the options byte.
func (f *Filter) setOptions(r *reader, v Version) {
	o := r.byte()
	reserved := byte(0xC0) // [MQTT-3.8.3-5]
	if v != V5 {
		reserved = 0xFC // [MQTT3-3.8.3-4]
	}
	f.QoS = o & 0x03
	f.NoLocal = o&0x04 != 0
	f.RetainAsPublished = o&0x08 != 0
	f.RetainHandling = o >> 4 & 0x03
	switch {
	case o&reserved != 0:
		r.fail(errSubscribeFlags)
	case f.QoS == 3: // [MQTT3-3.8.3-4]
		r.fail(errMaximumQoS)
	case f.RetainHandling == 3:
		r.fail(errRetainHandling)
	}
}

// Append encodes the packet.
func (s *Subscribe) Append(dst []byte, v Version) []byte {
	dst = append(dst, firstByte(SUBSCRIBE), 0)
	at := len(dst) - 1
	dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	if v == V5 {
		dst = s.Properties.append(dst)
	}
	for i := range s.Filters {
		f := &s.Filters[i]
		options := f.QoS
		if v == V5 {
			options |= bit(f.NoLocal, 0x04) | bit(f.RetainAsPublished, 0x08) | f.RetainHandling<<4
		}
		dst = append(appendString(dst, f.Topic), options)
	}
	return setLength(dst, at)
}

// Suback answers a SUBSCRIBE with one code per filter, in order
// [MQTT-3.8.4-6].
type Suback struct {
	PacketID   uint16
	Codes      []ReasonCode // at least one; memory of this struct after Decode
	Properties Properties
}

// Decode reads the body of a SUBACK.
func (s *Suback) Decode(first byte, body []byte, v Version) error {
	s.Codes = s.Codes[:0]
	s.Properties.Reset()
	r := open(first, body, v)
	s.PacketID = r.packetID()
	if v == V5 {
		s.Properties.decode(&r, SUBACK)
	}
	for len(r.b) > 0 {
		c := r.code(SUBACK)
		if v != V5 && c > CodeGrantedQoS2 && c != CodeUnspecifiedError { // [MQTT3-3.9.3-2]
			r.fail(errReasonCode)
		}
		s.Codes = append(s.Codes, c)
	}
	if r.err == nil && len(s.Codes) == 0 {
		return errNoCodes
	}
	return r.end()
}

// Append encodes the packet. In 3.x every failure is 0x80.
// [MQTT3-3.9.3-2]
func (s *Suback) Append(dst []byte, v Version) []byte {
	dst = append(dst, firstByte(SUBACK), 0)
	at := len(dst) - 1
	dst = binary.BigEndian.AppendUint16(dst, s.PacketID)
	if v == V5 {
		dst = s.Properties.append(dst)
	}
	for _, c := range s.Codes {
		if v != V5 && c.Failed() {
			c = CodeUnspecifiedError
		}
		dst = append(dst, byte(c))
	}
	return setLength(dst, at)
}
