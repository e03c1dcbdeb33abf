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
	CodeSuccess:                             {"success", inRequest | 1<<PUBREL | 1<<PUBCOMP | 1<<AUTH},
	CodeGrantedQoS1:                         {"granted QoS 1", 1 << SUBACK},
	CodeGrantedQoS2:                         {"granted QoS 2", 1 << SUBACK},
	CodeDisconnectWithWillMessage:           {"disconnect with will message", 1 << DISCONNECT},
	CodeNoMatchingSubscribers:               {"no matching subscribers", inPubacks},
	CodeNoSubscriptionExisted:               {"no subscription existed", 1 << UNSUBACK},
	CodeContinueAuthentication:              {"continue authentication", 1 << AUTH},
	CodeReauthenticate:                      {"re-authenticate", 1 << AUTH},
	CodeUnspecifiedError:                    {"unspecified error", inRequest},
	CodeMalformedPacket:                     {"malformed packet", inClosing},
	CodeProtocolError:                       {"protocol error", inClosing},
	CodeImplementationSpecificError:         {"implementation specific error", inRequest},
	CodeUnsupportedProtocolVersion:          {"unsupported protocol version", 1 << CONNACK},
	CodeClientIdentifierNotValid:            {"client identifier not valid", 1 << CONNACK},
	CodeBadUserNameOrPassword:               {"bad user name or password", 1 << CONNACK},
	CodeNotAuthorized:                       {"not authorized", inRequest},
	CodeServerUnavailable:                   {"server unavailable", 1 << CONNACK},
	CodeServerBusy:                          {"server busy", inClosing},
	CodeBanned:                              {"banned", 1 << CONNACK},
	CodeServerShuttingDown:                  {"server shutting down", 1 << DISCONNECT},
	CodeBadAuthenticationMethod:             {"bad authentication method", inClosing},
	CodeKeepAliveTimeout:                    {"keep alive timeout", 1 << DISCONNECT},
	CodeSessionTakenOver:                    {"session taken over", 1 << DISCONNECT},
	CodeTopicFilterInvalid:                  {"topic filter invalid", 1<<SUBACK | 1<<UNSUBACK | 1<<DISCONNECT},
	CodeTopicNameInvalid:                    {"topic name invalid", inPubacks | inClosing},
	CodePacketIdentifierInUse:               {"packet identifier in use", inPubacks | 1<<SUBACK | 1<<UNSUBACK},
	CodePacketIdentifierNotFound:            {"packet identifier not found", 1<<PUBREL | 1<<PUBCOMP},
	CodeReceiveMaximumExceeded:              {"receive maximum exceeded", 1 << DISCONNECT},
	CodeTopicAliasInvalid:                   {"topic alias invalid", 1 << DISCONNECT},
	CodePacketTooLarge:                      {"packet too large", inClosing},
	CodeMessageRateTooHigh:                  {"message rate too high", 1 << DISCONNECT},
	CodeQuotaExceeded:                       {"quota exceeded", inPubacks | inClosing | 1<<SUBACK},
	CodeAdministrativeAction:                {"administrative action", 1 << DISCONNECT},
	CodePayloadFormatInvalid:                {"payload format invalid", inPubacks | inClosing},
	CodeRetainNotSupported:                  {"retain not supported", inClosing},
	CodeQoSNotSupported:                     {"QoS not supported", inClosing},
	CodeUseAnotherServer:                    {"use another server", inClosing},
	CodeServerMoved:                         {"server moved", inClosing},
	CodeSharedSubscriptionsNotSupported:     {"shared subscriptions not supported", 1<<SUBACK | 1<<DISCONNECT},
	CodeConnectionRateExceeded:              {"connection rate exceeded", inClosing},
	CodeMaximumConnectTime:                  {"maximum connect time", 1 << DISCONNECT},
	CodeSubscriptionIdentifiersNotSupported: {"subscription identifiers not supported", 1<<SUBACK | 1<<DISCONNECT},
	CodeWildcardSubscriptionsNotSupported:   {"wildcard subscriptions not supported", 1<<SUBACK | 1<<DISCONNECT},
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
// [MQTT-3.2.2-8] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1] [MQTT-3.9.3-2] [MQTT-3.11.3-2]
// [MQTT-3.14.2-1] [MQTT-3.15.2-1]
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
