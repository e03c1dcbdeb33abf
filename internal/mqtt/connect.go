package mqtt

import "encoding/binary"

// Connect opens a session. Its Decode needs no version: it finds it.
type Connect struct {
	Version     Version
	CleanStart  bool   // clean session in 3.x
	HasUsername bool   // the user name may be empty
	HasPassword bool   // without a user name in MQTT 5 only
	HasWill     bool   // Will counts
	Bridge      bool   // 3.x: another server's bridge, known by bit 7 of the level
	KeepAlive   uint16 // seconds; 0: off
	ClientID    []byte // may be empty; what that means is the caller's
	Username    []byte
	Password    []byte
	Will        Will
	Properties  Properties
}

// Will is the message that the server publishes for a client that is gone.
type Will struct {
	Topic      []byte
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties Properties // will delay, message expiry and the travelling ones
}

// The connect flags.
const (
	flagReserved   = 0x01
	flagCleanStart = 0x02
	flagWill       = 0x04
	flagWillQoS    = 0x18
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUsername   = 0x80
)

// Decode reads the body of a CONNECT. With ErrUnsupportedVersion Version is the
// level that the client asked for and nothing else is set; with ErrTopicName
// everything is set.
// The form is checked: [MQTT-3.1.3-1] [MQTT3-3.1.3-1] [MQTT-3.1.3-3] [MQTT3-3.1.3-3] [MQTT-3.1.4-1] [MQTT3-3.1.4-1]
func (c *Connect) Decode(first byte, body []byte) error {
	c.reset()
	r := reader{b: body}
	if err := c.decodeVersion(&r); err != nil {
		return err
	}
	if err := checkFlags(first, c.Version); err != nil {
		return err
	}
	c.setFlags(&r)
	c.KeepAlive = r.uint16()
	if c.Version == V5 {
		c.Properties.decode(&r, CONNECT)
	}
	c.ClientID = r.text() // [MQTT-3.1.3-4] [MQTT3-3.1.3-4]
	if c.HasWill {
		c.Will.decode(&r, c.Version)
	}
	c.decodeCredentials(&r)
	if err := r.end(); err != nil {
		return err
	}
	if err := checkAuth(&c.Properties); err != nil {
		return err
	}
	if c.HasWill && (len(c.Will.Topic) == 0 || hasWildcard(c.Will.Topic)) { // [MQTT-4.7.0-1] [MQTT-4.7.3-1]
		return ErrTopicName
	}
	return nil
}

func (c *Connect) reset() {
	own, wills := c.Properties.scratch, c.Will.Properties.scratch
	*c = Connect{}
	c.Properties.scratch, c.Will.Properties.scratch = own, wills
}

// decodeVersion reads the protocol name and level [MQTT-3.1.2-1]
// [MQTT-3.1.2-2]. The level is set also when it is unknown. By bit 7 of a 3.x
// level bridges make themselves known, mosquitto's unless told otherwise.
// [MQTT3-3.1.2-1] [MQTT3-3.1.2-2]
func (c *Connect) decodeVersion(r *reader) error {
	name := r.binary()
	level := Version(r.byte())
	if r.err != nil {
		return r.err
	}
	if plain := level &^ bridgeBit; plain != level && (plain == V31 || plain == V311) {
		level, c.Bridge = plain, true
	}
	switch string(name) {
	case "MQTT":
		c.Version = level
		if level != V311 && level != V5 {
			return ErrUnsupportedVersion
		}
	case "MQIsdp":
		c.Version = level
		if level != V31 {
			return ErrUnsupportedVersion
		}
	default:
		return errProtocolName
	}
	return nil
}

// bridgeBit of the protocol level is no part of the standard.
const bridgeBit = 0x80

// setFlags reads the connect flags.
func (c *Connect) setFlags(r *reader) {
	flags := r.byte()
	c.CleanStart = flags&flagCleanStart != 0
	c.HasWill = flags&flagWill != 0
	c.Will.QoS = flags & flagWillQoS >> 3
	c.Will.Retain = flags&flagWillRetain != 0
	c.HasPassword = flags&flagPassword != 0
	c.HasUsername = flags&flagUsername != 0
	switch {
	case flags&flagReserved != 0 && c.Version != V31: // [MQTT-3.1.2-3]; unused in 3.1 [MQTT3-3.1.2-3]
		r.fail(errConnectFlags)
	case !c.HasWill && (c.Will.QoS != 0 || c.Will.Retain): // [MQTT-3.1.2-11] [MQTT-3.1.2-13] [MQTT3-3.1.2-11] [MQTT3-3.1.2-13] [MQTT3-3.1.2-15]
		r.fail(errWillFlags)
	case c.Will.QoS == 3: // [MQTT-3.1.2-12] [MQTT3-3.1.2-14]
		r.fail(errQoS)
	case c.HasPassword && !c.HasUsername && c.Version != V5: // [MQTT3-3.1.2-22]
		r.fail(errPasswordFlag)
	}
}

// decode reads what a set will flag announces [MQTT-3.1.2-9] [MQTT3-3.1.2-9]
func (w *Will) decode(r *reader, v Version) {
	if v == V5 {
		w.Properties.decode(r, will)
	}
	w.Topic = r.text() // [MQTT-3.1.3-11] [MQTT3-3.1.3-10]
	w.Payload = r.binary()
}

// decodeCredentials reads user name and password. In MQTT 3.1 the flags may be
// set and the fields be missing at the end: older clients do that, and its
// standard says to let them.
// [MQTT-3.1.2-16] [MQTT-3.1.2-17] [MQTT-3.1.2-18] [MQTT-3.1.2-19] [MQTT3-3.1.2-18] [MQTT3-3.1.2-19] [MQTT3-3.1.2-20]
// [MQTT3-3.1.2-21]
func (c *Connect) decodeCredentials(r *reader) {
	if c.Version == V31 && r.err == nil {
		c.HasUsername = c.HasUsername && len(r.b) > 0
	}
	if c.HasUsername {
		c.Username = r.text() // [MQTT-3.1.3-12] [MQTT3-3.1.3-11]
	}
	if c.Version == V31 && r.err == nil {
		c.HasPassword = c.HasPassword && len(r.b) > 0
	}
	if c.HasPassword {
		c.Password = r.binary()
	}
}

// checkAuth checks that authentication data comes with a method.
func checkAuth(p *Properties) error {
	if p.Has(PropAuthData) && !p.Has(PropAuthMethod) {
		return errAuthMethod
	}
	return nil
}

// Append encodes the packet for v; the field Version, which is Decode's, does
// not matter.
func (c *Connect) Append(dst []byte, v Version) []byte {
	dst = append(dst, firstByte(CONNECT), 0)
	at := len(dst) - 1
	if v == V31 {
		dst = appendString(dst, "MQIsdp")
	} else {
		dst = appendString(dst, "MQTT")
	}
	level := byte(v)
	if c.Bridge && v != V5 {
		level |= bridgeBit
	}
	dst = append(dst, level, c.flags(v))
	dst = binary.BigEndian.AppendUint16(dst, c.KeepAlive)
	if v == V5 {
		dst = c.Properties.append(dst)
	}
	dst = appendString(dst, c.ClientID)
	if c.HasWill {
		if v == V5 {
			dst = c.Will.Properties.append(dst)
		}
		dst = appendString(dst, c.Will.Topic)
		dst = appendString(dst, c.Will.Payload)
	}
	if c.HasUsername {
		dst = appendString(dst, c.Username)
	}
	if c.hasPassword(v) {
		dst = appendString(dst, c.Password)
	}
	return setLength(dst, at)
}

// hasPassword reports whether the password can be sent: in 3.x only with a user
// name.
func (c *Connect) hasPassword(v Version) bool {
	return c.HasPassword && (c.HasUsername || v == V5)
}

func (c *Connect) flags(v Version) byte {
	flags := bit(c.CleanStart, flagCleanStart) | bit(c.HasUsername, flagUsername) | bit(c.hasPassword(v), flagPassword)
	if c.HasWill {
		flags |= flagWill | c.Will.QoS<<3 | bit(c.Will.Retain, flagWillRetain)
	}
	return flags
}
