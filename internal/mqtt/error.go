package mqtt

import "errors"

// Error says what is wrong with a packet. All errors of this package are
// static: hostile input costs no memory.
type Error struct {
	Code ReasonCode // what to tell an MQTT 5 peer
	Text string
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

// CodeOf returns the reason code of an error of this package, and
// CodeUnspecifiedError for any other.
func CodeOf(err error) ReasonCode {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeUnspecifiedError
}

// Errors that a caller may want to tell from others.
var (
	// ErrTooLarge is returned by Split before the body has arrived.
	ErrTooLarge = &Error{CodePacketTooLarge, "larger than the limit"}
	// ErrUnsupportedVersion is returned by Connect.Decode for a protocol level
	// that does not exist; Connect.Version then is what the client asked for.
	ErrUnsupportedVersion = &Error{CodeUnsupportedProtocolVersion, "protocol level is not 3, 4 or 5"}
	// ErrTopicName is returned by Publish.Decode for a topic name with a
	// wildcard, and by Connect.Decode for such a will topic or an empty one,
	// after everything else was found right. All fields are set. Such a name is
	// malformed [MQTT-4.7.0-1]; CodeTopicNameInvalid is for names that are not.
	ErrTopicName = &Error{CodeMalformedPacket, "topic name is empty or has a wildcard"}
)

// Malformed packets: what cannot be parsed [MQTT-4.13.1-1].
var (
	errPacketType     = &Error{CodeMalformedPacket, "packet type is reserved"}
	errFlags          = &Error{CodeMalformedPacket, "reserved flags in the fixed header"}
	errQoS            = &Error{CodeMalformedPacket, "QoS 3"}
	errDup            = &Error{CodeMalformedPacket, "DUP with QoS 0"}
	errVarint         = &Error{CodeMalformedPacket, "length or variable byte integer is too long"}
	errShort          = &Error{CodeMalformedPacket, "ends within a field"}
	errTrailing       = &Error{CodeMalformedPacket, "bytes after the last field"}
	errText           = &Error{CodeMalformedPacket, "string is not UTF-8, or has U+0000"}
	errProtocolName   = &Error{CodeMalformedPacket, "protocol name is unknown"}
	errConnectFlags   = &Error{CodeMalformedPacket, "reserved bit of the connect flags"}
	errWillFlags      = &Error{CodeMalformedPacket, "will QoS or retain without a will"}
	errPasswordFlag   = &Error{CodeMalformedPacket, "password without user name"}
	errConnackFlags   = &Error{CodeMalformedPacket, "reserved bits of the acknowledge flags"}
	errSubscribeFlags = &Error{CodeMalformedPacket, "reserved bits of the subscription options"}
	errProperty       = &Error{CodeMalformedPacket, "property is unknown, or not allowed in this packet"}
	errNoFilter       = &Error{CodeMalformedPacket, "topic filter is empty"}
	errVersion        = &Error{CodeMalformedPacket, "packet does not exist in this version"}
)

// Protocol errors: what can be parsed but must not be [MQTT-4.13.1-1].
var (
	errPacketID       = &Error{CodeProtocolError, "packet identifier 0"}
	errNoTopic        = &Error{CodeProtocolError, "no topic name and no topic alias"}
	errTopicAlias     = &Error{CodeTopicAliasInvalid, "topic alias 0"}
	errRepeated       = &Error{CodeProtocolError, "property is repeated"}
	errPropertyValue  = &Error{CodeProtocolError, "property value is out of range"}
	errResponseTopic  = &Error{CodeProtocolError, "response topic is empty or has a wildcard"}
	errAuthMethod     = &Error{CodeProtocolError, "authentication method is missing"}
	errReasonCode     = &Error{CodeProtocolError, "reason code does not belong in this packet"}
	errMaximumQoS     = &Error{CodeProtocolError, "QoS 3 in a subscription"}
	errRetainHandling = &Error{CodeProtocolError, "retain handling 3"}
	errNoFilters      = &Error{CodeProtocolError, "no topic filter"}
	errNoCodes        = &Error{CodeProtocolError, "no reason code"}
	errSessionPresent = &Error{CodeProtocolError, "session present in a refusal"}
)
