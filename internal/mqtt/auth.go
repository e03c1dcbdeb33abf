package mqtt

// Auth carries one step of an extended authentication. It exists in MQTT 5
// only.
type Auth struct {
	Code       ReasonCode
	Properties Properties
}

// Decode reads the body of an AUTH.
func (a *Auth) Decode(first byte, body []byte, v Version) error {
	a.Code = CodeSuccess
	a.Properties.Reset()
	if v != V5 {
		return errVersion
	}
	r := open(first, body, v)
	if r.err == nil && len(r.b) == 0 { // the short form of 0x00 without properties
		return nil
	}
	a.Code = r.code(AUTH)
	a.Properties.decode(&r, AUTH)
	if err := r.end(); err != nil {
		return err
	}
	if !a.Properties.Has(PropAuthMethod) {
		return errAuthMethod
	}
	return nil
}

// Append encodes the packet in its shortest form.
func (a *Auth) Append(dst []byte, _ Version) []byte {
	if a.Code == CodeSuccess && a.Properties.Empty() {
		return append(dst, firstByte(AUTH), 0)
	}
	dst = append(dst, firstByte(AUTH), 0, byte(a.Code))
	at := len(dst) - 2
	dst = a.Properties.append(dst)
	return setLength(dst, at)
}
