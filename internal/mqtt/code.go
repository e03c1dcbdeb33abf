package mqtt

import "fmt"

// ReasonCode is an MQTT 5 reason code. 0x80 and above are failures.
//
// In 3.x only CONNACK (0 to 5, the Return constants) and SUBACK (0 to 2, 0x80)
// have a code on the wire.
type ReasonCode byte

// The reason codes of MQTT 5 (table 2-6), by their names in the standard.
const (
	CodeSuccess                             ReasonCode = 0x00
	CodeNormalDisconnection                 ReasonCode = 0x00
	CodeGrantedQoS0                         ReasonCode = 0x00
	CodeGrantedQoS1                         ReasonCode = 0x01
	CodeGrantedQoS2                         ReasonCode = 0x02
	CodeDisconnectWithWillMessage           ReasonCode = 0x04
	CodeNoMatchingSubscribers               ReasonCode = 0x10
	CodeNoSubscriptionExisted               ReasonCode = 0x11
	CodeContinueAuthentication              ReasonCode = 0x18
	CodeReauthenticate                      ReasonCode = 0x19
	CodeUnspecifiedError                    ReasonCode = 0x80
	CodeMalformedPacket                     ReasonCode = 0x81
	CodeProtocolError                       ReasonCode = 0x82
	CodeImplementationSpecificError         ReasonCode = 0x83
	CodeUnsupportedProtocolVersion          ReasonCode = 0x84
	CodeClientIdentifierNotValid            ReasonCode = 0x85
	CodeBadUserNameOrPassword               ReasonCode = 0x86
	CodeNotAuthorized                       ReasonCode = 0x87
	CodeServerUnavailable                   ReasonCode = 0x88
	CodeServerBusy                          ReasonCode = 0x89
	CodeBanned                              ReasonCode = 0x8A
	CodeServerShuttingDown                  ReasonCode = 0x8B
	CodeBadAuthenticationMethod             ReasonCode = 0x8C
	CodeKeepAliveTimeout                    ReasonCode = 0x8D
	CodeSessionTakenOver                    ReasonCode = 0x8E
	CodeTopicFilterInvalid                  ReasonCode = 0x8F
	CodeTopicNameInvalid                    ReasonCode = 0x90
	CodePacketIdentifierInUse               ReasonCode = 0x91
	CodePacketIdentifierNotFound            ReasonCode = 0x92
	CodeReceiveMaximumExceeded              ReasonCode = 0x93
	CodeTopicAliasInvalid                   ReasonCode = 0x94
	CodePacketTooLarge                      ReasonCode = 0x95
	CodeMessageRateTooHigh                  ReasonCode = 0x96
	CodeQuotaExceeded                       ReasonCode = 0x97
	CodeAdministrativeAction                ReasonCode = 0x98
	CodePayloadFormatInvalid                ReasonCode = 0x99
	CodeRetainNotSupported                  ReasonCode = 0x9A
	CodeQoSNotSupported                     ReasonCode = 0x9B
	CodeUseAnotherServer                    ReasonCode = 0x9C
	CodeServerMoved                         ReasonCode = 0x9D
	CodeSharedSubscriptionsNotSupported     ReasonCode = 0x9E
	CodeConnectionRateExceeded              ReasonCode = 0x9F
	CodeMaximumConnectTime                  ReasonCode = 0xA0
	CodeSubscriptionIdentifiersNotSupported ReasonCode = 0xA1
	CodeWildcardSubscriptionsNotSupported   ReasonCode = 0xA2
)

// The CONNACK return codes of MQTT 3.1 and 3.1.1.
const (
	ReturnAccepted              ReasonCode = 0
	ReturnUnacceptableVersion   ReasonCode = 1
	ReturnIdentifierRejected    ReasonCode = 2
	ReturnServerUnavailable     ReasonCode = 3
	ReturnBadUserNameOrPassword ReasonCode = 4
	ReturnNotAuthorized         ReasonCode = 5
)

// Sets of packets that share their reason codes.
const (
	inPubacks = 1<<PUBACK | 1<<PUBREC
	inClosing = 1<<CONNACK | 1<<DISCONNECT
	inRequest = inPubacks | inClosing | 1<<SUBACK | 1<<UNSUBACK
)

// codeTable has, for each reason code, its text and the packets it belongs in.
var codeTable = [...]struct {
	text string
	in   packetSet
}{
	0x00: {"success", inRequest | 1<<PUBREL | 1<<PUBCOMP | 1<<AUTH},
	0x01: {"granted QoS 1", 1 << SUBACK},
	0x02: {"granted QoS 2", 1 << SUBACK},
	0x04: {"disconnect with will message", 1 << DISCONNECT},
	0x10: {"no matching subscribers", inPubacks},
	0x11: {"no subscription existed", 1 << UNSUBACK},
	0x18: {"continue authentication", 1 << AUTH},
	0x19: {"re-authenticate", 1 << AUTH},
	0x80: {"unspecified error", inRequest},
	0x81: {"malformed packet", inClosing},
	0x82: {"protocol error", inClosing},
	0x83: {"implementation specific error", inRequest},
	0x84: {"unsupported protocol version", 1 << CONNACK},
	0x85: {"client identifier not valid", 1 << CONNACK},
	0x86: {"bad user name or password", 1 << CONNACK},
	0x87: {"not authorized", inRequest},
	0x88: {"server unavailable", 1 << CONNACK},
	0x89: {"server busy", inClosing},
	0x8A: {"banned", 1 << CONNACK},
	0x8B: {"server shutting down", 1 << DISCONNECT},
	0x8C: {"bad authentication method", inClosing},
	0x8D: {"keep alive timeout", 1 << DISCONNECT},
	0x8E: {"session taken over", 1 << DISCONNECT},
	0x8F: {"topic filter invalid", 1<<SUBACK | 1<<UNSUBACK | 1<<DISCONNECT},
	0x90: {"topic name invalid", inPubacks | inClosing},
	0x91: {"packet identifier in use", inPubacks | 1<<SUBACK | 1<<UNSUBACK},
	0x92: {"packet identifier not found", 1<<PUBREL | 1<<PUBCOMP},
	0x93: {"receive maximum exceeded", 1 << DISCONNECT},
	0x94: {"topic alias invalid", 1 << DISCONNECT},
	0x95: {"packet too large", inClosing},
	0x96: {"message rate too high", 1 << DISCONNECT},
	0x97: {"quota exceeded", inPubacks | inClosing | 1<<SUBACK},
	0x98: {"administrative action", 1 << DISCONNECT},
	0x99: {"payload format invalid", inPubacks | inClosing},
	0x9A: {"retain not supported", inClosing},
	0x9B: {"QoS not supported", inClosing},
	0x9C: {"use another server", inClosing},
	0x9D: {"server moved", inClosing},
	0x9E: {"shared subscriptions not supported", 1<<SUBACK | 1<<DISCONNECT},
	0x9F: {"connection rate exceeded", inClosing},
	0xA0: {"maximum connect time", 1 << DISCONNECT},
	0xA1: {"subscription identifiers not supported", 1<<SUBACK | 1<<DISCONNECT},
	0xA2: {"wildcard subscriptions not supported", 1<<SUBACK | 1<<DISCONNECT},
}

func (c ReasonCode) String() string {
	if int(c) < len(codeTable) && codeTable[c].text != "" {
		return codeTable[c].text
	}
	return fmt.Sprintf("reason code 0x%02X", byte(c))
}

// Failed reports whether c is a failure of MQTT 5.
func (c ReasonCode) Failed() bool { return c >= 0x80 }

// ValidIn reports whether MQTT 5 lets a packet of type t carry c.
func (c ReasonCode) ValidIn(t PacketType) bool {
	return int(c) < len(codeTable) && codeTable[c].in.has(t)
}

// returnCode is c for a CONNACK of MQTT 3.x: the six codes that exist there are
// left alone, MQTT 5's failures become the nearest of them.
func (c ReasonCode) returnCode() ReasonCode {
	switch {
	case c <= ReturnNotAuthorized:
		return c
	case c == CodeUnsupportedProtocolVersion:
		return ReturnUnacceptableVersion
	case c == CodeClientIdentifierNotValid:
		return ReturnIdentifierRejected
	case c == CodeBadUserNameOrPassword, c == CodeBadAuthenticationMethod:
		return ReturnBadUserNameOrPassword
	case c == CodeNotAuthorized, c == CodeBanned:
		return ReturnNotAuthorized
	}
	return ReturnServerUnavailable
}
