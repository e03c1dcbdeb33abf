package mqtt

// Disconnect is the last packet of a connection. In 3.x it has no body and
// comes from clients only.
type Disconnect struct {
	Code       ReasonCode
	Properties Properties
}

// Decode reads the body of a DISCONNECT. It accepts what either side may send.
func (d *Disconnect) Decode(first byte, body []byte, v Version) error {
	d.Code = CodeNormalDisconnection
	d.Properties.Reset()
	r := open(first, body, v)
	// Without reason code it is 0x00, without property length there are none.
	if v == V5 && len(r.b) > 0 {
		d.Code = r.code(DISCONNECT)
		if len(r.b) > 0 {
			d.Properties.decode(&r, DISCONNECT)
		}
	}
	return r.end()
}

// Append encodes the packet in its shortest form.
func (d *Disconnect) Append(dst []byte, v Version) []byte {
	switch {
	case v != V5, d.Code == CodeNormalDisconnection && d.Properties.Empty():
		return append(dst, firstByte(DISCONNECT), 0)
	case d.Properties.Empty():
		return append(dst, firstByte(DISCONNECT), 1, byte(d.Code))
	}
	dst = append(dst, firstByte(DISCONNECT), 0, byte(d.Code))
	at := len(dst) - 2
	dst = d.Properties.append(dst)
	return setLength(dst, at)
}
