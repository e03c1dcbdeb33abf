package mqtt

import (
	"encoding/binary"
	"slices"
)

// Unsubscribe ends subscriptions.
type Unsubscribe struct {
	PacketID   uint16
	Filters    [][]byte // at least one; memory of this struct after Decode
	Properties Properties
}

// Decode reads the body of an UNSUBSCRIBE.
func (u *Unsubscribe) Decode(first byte, body []byte, v Version) error {
	u.Filters = u.Filters[:0]
	u.Properties.Reset()
	r := open(first, body, v)
	u.PacketID = r.packetID()
	if v == V5 {
		u.Properties.decode(&r, UNSUBSCRIBE)
	}
	u.Filters = slices.Grow(u.Filters, r.countFilters(0))
	for len(r.b) > 0 {
		u.Filters = append(u.Filters, r.filter()) // [MQTT-3.10.3-1] [MQTT3-3.10.3-1]
	}
	if r.err == nil && len(u.Filters) == 0 { // [MQTT-3.10.3-2] [MQTT3-3.10.3-2]
		return errNoFilters
	}
	return r.end()
}

// Append encodes the packet.
func (u *Unsubscribe) Append(dst []byte, v Version) []byte {
	dst = append(dst, firstByte(UNSUBSCRIBE), 0)
	at := len(dst) - 1
	dst = binary.BigEndian.AppendUint16(dst, u.PacketID)
	if v == V5 {
		dst = u.Properties.append(dst)
	}
	for _, f := range u.Filters {
		dst = appendString(dst, f)
	}
	return setLength(dst, at)
}

// Unsuback answers an UNSUBSCRIBE.
type Unsuback struct {
	PacketID   uint16
	Codes      []ReasonCode // MQTT 5: one per filter; memory of this struct after Decode
	Properties Properties
}

// Decode reads the body of an UNSUBACK.
func (u *Unsuback) Decode(first byte, body []byte, v Version) error {
	u.Codes = u.Codes[:0]
	u.Properties.Reset()
	r := open(first, body, v)
	u.PacketID = r.packetID()
	if v != V5 {
		return r.end()
	}
	u.Properties.decode(&r, UNSUBACK)
	for len(r.b) > 0 {
		u.Codes = append(u.Codes, r.code(UNSUBACK))
	}
	if r.err == nil && len(u.Codes) == 0 {
		return errNoCodes
	}
	return r.end()
}

// Append encodes the packet.
func (u *Unsuback) Append(dst []byte, v Version) []byte {
	dst = append(dst, firstByte(UNSUBACK), 0)
	at := len(dst) - 1
	dst = binary.BigEndian.AppendUint16(dst, u.PacketID)
	if v == V5 {
		dst = u.Properties.append(dst)
		for _, c := range u.Codes {
			dst = append(dst, byte(c))
		}
	}
	return setLength(dst, at)
}
