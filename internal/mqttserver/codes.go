package mqttserver

import (
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

var ackType = [...]mqtt.PacketType{
	broker.Puback: mqtt.PUBACK, broker.Pubrec: mqtt.PUBREC, broker.Pubrel: mqtt.PUBREL, broker.Pubcomp: mqtt.PUBCOMP,
}

// codeRow maps an outcome to the wire.
type codeRow struct {
	ack     mqtt.ReasonCode // MQTT 5 PUBACK and PUBREC (contract section 5)
	closes3 bool            // 3.x has no code: close instead of acknowledging
	text    string          // reason string of a failure
	connect mqtt.ReasonCode // MQTT 5 CONNACK
	return3 mqtt.ReasonCode // 3.x CONNACK
}

// codeTable is the one table from mq.Code to MQTT.
var codeTable = [...]codeRow{
	mq.OK:             {ack: mqtt.CodeSuccess},
	mq.NoTarget:       {ack: mqtt.CodeNoMatchingSubscribers},
	mq.NotAuthorized:  {mqtt.CodeNotAuthorized, true, "not allowed to publish to this topic", mqtt.CodeNotAuthorized, mqtt.ReturnNotAuthorized},
	mq.BadTopic:       {mqtt.CodeTopicNameInvalid, true, "a P2P topic is {parent}/p2p/{client ID}, and this client ID cannot exist", 0, 0},
	mq.Malformed:      {mqtt.CodeTopicNameInvalid, true, "not a topic name", mqtt.CodeMalformedPacket, mqtt.ReturnServerUnavailable},
	mq.InboxFull:      {ack: mqtt.CodeQuotaExceeded, text: "the target's inbox is full"},
	mq.StoreFull:      {mqtt.CodeQuotaExceeded, true, "the server's disk limit is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable},
	mq.StoreFailed:    {mqtt.CodeImplementationSpecificError, true, "the server could not store the message", mqtt.CodeServerUnavailable, mqtt.ReturnServerUnavailable},
	mq.ShuttingDown:   {mqtt.CodeImplementationSpecificError, true, "the server is shutting down", mqtt.CodeServerUnavailable, mqtt.ReturnServerUnavailable},
	mq.BadCredentials: {connect: mqtt.CodeBadUserNameOrPassword, return3: mqtt.ReturnBadUserNameOrPassword},
	mq.TooManyAttempts: {
		connect: mqtt.CodeConnectionRateExceeded, return3: mqtt.ReturnServerUnavailable,
	},
	mq.BadClientID: {connect: mqtt.CodeClientIdentifierNotValid, return3: mqtt.ReturnIdentifierRejected},
	mq.TooLarge:    {mqtt.CodeQuotaExceeded, true, "larger than allowed", mqtt.CodePacketTooLarge, mqtt.ReturnServerUnavailable},
	mq.Overloaded:  {mqtt.CodeQuotaExceeded, true, "the server is overloaded", mqtt.CodeServerBusy, mqtt.ReturnServerUnavailable},
}

// ackCode is the reason code of an acknowledgement, or that a 3.x client is
// disconnected instead of being told what is not true.
func ackCode(code mq.Code, v mqtt.Version) (reason mqtt.ReasonCode, closes bool) {
	row := &codeTable[code]
	return row.ack, v != mqtt.V5 && row.closes3
}

func ackText(code mq.Code) string { return codeTable[code].text }

// connackCode is how a refused CONNECT is answered.
func connackCode(code mq.Code, v mqtt.Version) mqtt.ReasonCode {
	row := &codeTable[code]
	switch {
	case v != mqtt.V5 && row.return3 != 0:
		return row.return3
	case v != mqtt.V5:
		return mqtt.ReturnServerUnavailable
	case row.connect != 0:
		return row.connect
	}
	return mqtt.CodeUnspecifiedError
}

var closeReasons = [...]struct {
	code mqtt.ReasonCode
	text string
}{
	broker.TakenOver:      {mqtt.CodeSessionTakenOver, "clientId conflict"},
	broker.ServerShutdown: {mqtt.CodeServerShuttingDown, "server shutting down"},
	broker.SessionLost:    {mqtt.CodeImplementationSpecificError, "the store failed"},
}

// suback is the reason code for each outcome of a subscription.
func suback(r broker.SubscribeResult, qos byte, v mqtt.Version) mqtt.ReasonCode {
	if v != mqtt.V5 && r != broker.Granted {
		return mqtt.CodeUnspecifiedError // 0x80, the only one
	}
	switch r {
	case broker.Granted:
		return mqtt.ReasonCode(qos)
	case broker.Refused:
		return mqtt.CodeNotAuthorized
	case broker.FilterInvalid:
		return mqtt.CodeTopicFilterInvalid
	case broker.NoShared:
		return mqtt.CodeSharedSubscriptionsNotSupported
	}
	return mqtt.CodeImplementationSpecificError
}
