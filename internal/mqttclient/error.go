package mqttclient

import (
	"errors"
	"fmt"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Errors that a caller may want to tell from others.
var (
	// ErrClosed says that this side has closed the connection.
	ErrClosed = errors.New("connection closed by this client")
	// ErrWindow says that as many messages are under way as the server's
	// Receive Maximum allows.
	ErrWindow = errors.New("the server's receive maximum is reached")
	// ErrTooLarge says that the server does not take packets of that size.
	ErrTooLarge = errors.New("message is larger than the server's maximum packet size")
	// ErrKeepAlive says that the server did not answer a PINGREQ.
	ErrKeepAlive = errors.New("no answer from the server within the keep alive time")
	// ErrSessionLost completes the messages of a Session that the server no
	// longer knows. They may or may not have been delivered.
	ErrSessionLost = errors.New("the server has lost the session")
	// ErrAbandoned completes the messages of a Session on Abandon.
	ErrAbandoned = errors.New("session abandoned")

	errServer = errors.New("bad server URL")
)

// RefusedError is a CONNACK that is not a success.
type RefusedError struct {
	Version   mqtt.Version
	Code      mqtt.ReasonCode // in 3.x one of the Return constants
	Reason    string          // reason string; MQTT 5
	Reference string          // another server to use; MQTT 5
}

func (e *RefusedError) Error() string {
	return "the server refused the connection: " + explain(e.text(), e.Reason, e.Reference)
}

func (e *RefusedError) text() string {
	if e.Version == mqtt.V5 {
		return e.Code.String()
	}
	switch e.Code {
	case mqtt.ReturnUnacceptableVersion:
		return "unacceptable protocol version"
	case mqtt.ReturnIdentifierRejected:
		return "client ID rejected"
	case mqtt.ReturnServerUnavailable:
		return "server unavailable"
	case mqtt.ReturnBadUserNameOrPassword:
		return "bad user name or password"
	case mqtt.ReturnNotAuthorized:
		return "not authorized"
	}
	return fmt.Sprintf("return code %d", byte(e.Code))
}

// Permanent reports whether trying again without a change is pointless.
func (e *RefusedError) Permanent() bool {
	if e.Version != mqtt.V5 {
		return e.Code != mqtt.ReturnServerUnavailable
	}
	switch e.Code {
	case mqtt.CodeServerUnavailable, mqtt.CodeServerBusy, mqtt.CodeUnspecifiedError, mqtt.CodeImplementationSpecificError,
		mqtt.CodeConnectionRateExceeded, mqtt.CodeQuotaExceeded:
		return false
	}
	return true
}

// DisconnectedError is a DISCONNECT that the server has sent; MQTT 5.
type DisconnectedError struct {
	Code      mqtt.ReasonCode
	Reason    string // reason string
	Reference string // another server to use
}

func (e *DisconnectedError) Error() string {
	return "the server closed the connection: " + explain(e.Code.String(), e.Reason, e.Reference)
}

func explain(text, reason, reference string) string {
	if reason != "" && reason != text {
		text += " (" + reason + ")"
	}
	if reference != "" {
		text += "; use " + reference
	}
	return text
}

// protocolError is a fault of the server.
func protocolError(format string, args ...any) error {
	return fmt.Errorf("protocol error of the server: "+format, args...)
}
