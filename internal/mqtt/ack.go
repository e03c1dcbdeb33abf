package mqtt

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP: they have one form.
type Ack struct {
	Type       PacketType
	PacketID   uint16
	Code       ReasonCode // MQTT 5
	Properties Properties // MQTT 5: reason string and user properties
}

// Decode reads the body of one of the four packets; first tells which.
func (a *Ack) Decode(first byte, body []byte, v Version) error {
	a.Type, a.Code = TypeOf(first), CodeSuccess
	a.Properties.Reset()
	r := open(first, body, v)
	a.PacketID = r.packetID()
	// Without reason code it is 0x00, without property length there are none
	// (sections 3.4.2 to 3.7.2).
	if v == V5 && len(r.b) > 0 {
		a.Code = r.code(a.Type)
		if len(r.b) > 0 {
			a.Properties.decode(&r, a.Type)
		}
	}
	return r.end()
}

// Append encodes the packet in its shortest form.
func (a *Ack) Append(dst []byte, v Version) []byte {
	if v != V5 || a.Properties.Empty() {
		return AppendAck(dst, v, a.Type, a.PacketID, a.Code)
	}
	dst = append(dst, firstByte(a.Type), 0, byte(a.PacketID>>8), byte(a.PacketID), byte(a.Code))
	at := len(dst) - 4
	dst = a.Properties.append(dst)
	return setLength(dst, at)
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP without properties. In
// 3.x there is no code.
func AppendAck(dst []byte, v Version, t PacketType, packetID uint16, code ReasonCode) []byte {
	if v != V5 || code == CodeSuccess {
		return append(dst, firstByte(t), 2, byte(packetID>>8), byte(packetID))
	}
	return append(dst, firstByte(t), 3, byte(packetID>>8), byte(packetID), byte(code))
}
