package mqtt

// Connack answers a CONNECT.
type Connack struct {
	SessionPresent bool       // not in 3.1
	Code           ReasonCode // in 3.x one of the Return constants
	Properties     Properties
}

// Decode reads the body of a CONNACK.
func (c *Connack) Decode(first byte, body []byte, v Version) error {
	c.Properties.Reset()
	r := open(first, body, v)
	flags := r.byte()
	if flags > 1 && v != V31 { // [MQTT-3.2.2-1]; in 3.1 the byte is unused
		r.fail(errConnackFlags)
	}
	c.SessionPresent = flags&1 != 0 && v != V31
	if v == V5 {
		c.Code = r.code(CONNACK)
		c.Properties.decode(&r, CONNACK)
	} else if c.Code = ReasonCode(r.byte()); c.Code > ReturnNotAuthorized {
		r.fail(errReasonCode)
	}
	if err := r.end(); err != nil {
		return err
	}
	if c.SessionPresent && c.Code != CodeSuccess { // [MQTT-3.2.2-6] [MQTT3-3.2.2-4]
		return errSessionPresent
	}
	return checkAuth(&c.Properties)
}

// Append encodes the packet. In 3.x a failure code of MQTT 5 is written as the
// nearest return code.
// [MQTT-3.2.2-1]
func (c *Connack) Append(dst []byte, v Version) []byte {
	if v != V5 {
		code := c.Code.returnCode()
		return append(dst, firstByte(CONNACK), 2, bit(c.SessionPresent && v == V311, 1), byte(code))
	}
	dst = append(dst, firstByte(CONNACK), 0, bit(c.SessionPresent, 1), byte(c.Code))
	at := len(dst) - 3
	dst = c.Properties.append(dst)
	return setLength(dst, at)
}
