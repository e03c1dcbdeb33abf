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
	ack     mqtt.ReasonCode // MQTT 5 PUBACK and PUBREC (docs/p2p.md, Acknowledgements)
	closes3 bool            // 3.x has no code: close instead of acknowledging [MQTT3-3.3.5-2] [MQTT3-4.8.0-2]
	text    string          // reason string of a failure
	connect mqtt.ReasonCode // MQTT 5 CONNACK
	return3 mqtt.ReasonCode // 3.x CONNACK
}

// codeTable is the one table from mq.Code to MQTT.
// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.2.2-8] [MQTT-3.1.3-8] [MQTT3-3.1.3-9]
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
	mq.RetainedFull: {
		mqtt.CodeQuotaExceeded, true, "the limit on retained messages is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable,
	},
	mq.BadPayload: {
		mqtt.CodePayloadFormatInvalid, true, "the payload is not UTF-8, as its format indicator says", mqtt.CodePayloadFormatInvalid, 0,
	},
	mq.DelayedFull: {
		mqtt.CodeQuotaExceeded, true, "the limit on delayed messages is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable,
	},
	mq.InboxesFull: {ack: mqtt.CodeQuotaExceeded, text: "the server's limit on inboxes that hold messages is reached"},
	mq.RetainedBytes: {
		mqtt.CodeQuotaExceeded, true, "the limit on bytes of retained messages is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable,
	},
	mq.DelayedBytes: {
		mqtt.CodeQuotaExceeded, true, "the limit on bytes of delayed messages is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable,
	},
	mq.WillsFull: {
		mqtt.CodeQuotaExceeded, true, "the limit on wills is reached", mqtt.CodeQuotaExceeded, mqtt.ReturnServerUnavailable,
	},
	// PUBACK and PUBREC have no code of their own for it.
	mq.QoSTooHigh: {mqtt.CodeImplementationSpecificError, true, "over the server's maximum QoS", mqtt.CodeQoSNotSupported, 0},
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

// closeReasons has the DISCONNECT for each reason [MQTT-3.14.2-1]
var closeReasons = [...]struct {
	code mqtt.ReasonCode
	text string
}{
	broker.TakenOver:      {mqtt.CodeSessionTakenOver, "clientId conflict"},
	broker.ServerShutdown: {mqtt.CodeServerShuttingDown, "server shutting down"},
	broker.SessionLost:    {mqtt.CodeImplementationSpecificError, "the store failed"},
	broker.Revoked:        {mqtt.CodeNotAuthorized, "what was shown at login is not valid any more"},
}

// disconnectCode is how a client is disconnected whose authentication was
// refused after CONNACK: with the code of a refused CONNECT where DISCONNECT has
// it, and 0x87 otherwise [MQTT-4.12.1-2].
func disconnectCode(code mq.Code) mqtt.ReasonCode {
	if c := connackCode(code, mqtt.V5); c.ValidIn(mqtt.DISCONNECT) && c != mqtt.CodeUnspecifiedError {
		return c
	}
	return mqtt.CodeNotAuthorized
}

// suback is the code in SUBACK for the outcome of a subscription; ok is false if
// the version has none, and the connection is to be closed.
//
// MQTT 3.1 has no failure: a server "must make a positive acknowledgement" of
// what it does not allow, says its section on SUBACK, and clients of that time
// know no 0x80. What is broken rather than not allowed it may close for.
// [MQTT-3.8.4-7] [MQTT-3.9.3-2] [MQTT3-3.8.4-5] [MQTT3-3.9.3-2]
func suback(r broker.SubscribeResult, qos mq.QoS, v mqtt.Version) (code mqtt.ReasonCode, ok bool) {
	switch {
	case r == broker.Granted:
		return mqtt.ReasonCode(qos), true
	case v == mqtt.V31:
		return mqtt.ReasonCode(qos), r == broker.Refused
	case v == mqtt.V311: // [MQTT3-3.9.3-2]
		return mqtt.CodeUnspecifiedError, true
	case r == broker.Refused:
		return mqtt.CodeNotAuthorized, true
	case r == broker.TooMany:
		return mqtt.CodeQuotaExceeded, true
	case r == broker.FilterInvalid:
		return mqtt.CodeTopicFilterInvalid, true
	}
	return mqtt.CodeImplementationSpecificError, true
}
