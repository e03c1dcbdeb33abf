package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// What clients speak that have come to the wrong port, as a log line says it.
const (
	speaksHTTP     = "HTTP"
	speaksHTTP2    = "HTTP/2"
	speaksTLS      = "TLS"
	speaksProxy    = "the PROXY protocol, and its address is not in listen.proxy-protocol"
	speaksSSH      = "SSH"
	speaksMQTT     = "MQTT"
	speaksRocketMQ = "RocketMQ remoting"
)

// Spoken guesses from the first bytes of a connection what the client speaks;
// "": nothing that is known.
func Spoken(first []byte) string {
	switch {
	case len(first) == 0:
		return ""
	case first[0] == 0x16 && (len(first) < 2 || first[1] == 3): // a handshake record, version 3.x
		return speaksTLS
	case first[0] == 0x10:
		return speaksMQTT
	case bytes.HasPrefix(first, []byte("PROXY ")), begins(first, signatureV2, 4):
		return speaksProxy
	case bytes.HasPrefix(first, []byte("SSH-")):
		return speaksSSH
	case bytes.HasPrefix(first, []byte("PRI * HTTP/2")):
		return speaksHTTP2
	case isFrame(first):
		return speaksRocketMQ
	}
	for _, method := range methods {
		if bytes.HasPrefix(first, []byte(method)) {
			return speaksHTTP
		}
	}
	return ""
}

var methods = []string{"GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "DELETE ", "CONNECT ", "PATCH ", "TRACE "}

// begins reports whether at least the first few bytes of whole have arrived, and
// no others.
func begins(arrived []byte, whole string, few int) bool {
	n := min(len(arrived), len(whole))
	return n >= few && string(arrived[:n]) == whole[:n]
}

// isFrame reports whether a remoting frame may begin so: a length below 16 MiB, and
// a header in JSON or RocketMQ's binary form within it.
func isFrame(first []byte) bool {
	return len(first) >= 8 && first[0] == 0 && first[4] <= 1 &&
		binary.BigEndian.Uint32(first[4:])&0xFFFFFF <= binary.BigEndian.Uint32(first)
}

// WrongProtocol is the error of a connection that begins with something else than
// its port serves.
type WrongProtocol struct {
	Spoken string // what Spoken has guessed
	Wanted string // what the port serves
}

// Error implements error.
func (e *WrongProtocol) Error() string {
	if e.Spoken == "" {
		return fmt.Sprintf("the client does not speak %s, which this port serves", e.Wanted)
	}
	return fmt.Sprintf("the client speaks %s; this port serves %s", e.Spoken, e.Wanted)
}

// CheckTLS returns an error if a connection that should be TLS begins otherwise.
func CheckTLS(first []byte) error {
	if first[0] == 0x16 {
		return nil
	}
	return &WrongProtocol{Spoken(first), speaksTLS}
}

// CheckHTTP returns an error if a connection that should be HTTP/1 begins
// otherwise. A method is of letters.
func CheckHTTP(first []byte) error {
	switch spoken := Spoken(first); {
	case spoken == speaksHTTP, spoken == "" && first[0] >= 'A' && first[0] <= 'Z':
		return nil
	default:
		return &WrongProtocol{spoken, speaksHTTP}
	}
}
