package mq

import "bytes"

// An access key signs texts in three places, all with HMAC-SHA1. So that a signature
// of one place is worth nothing in another, no text belongs to two of them:
//
//   - MQTT: the client ID. One that SignedElsewhere is refused.
//   - RocketMQ gRPC: the date of the call. One that is not IsSignedDate is refused.
//   - RocketMQ remoting: the values of a request and its body. Those that do not
//     have IsSignedRequest are refused: an SDK's message has properties, which end in
//     control characters, and its heartbeat is JSON.

// SignedElsewhere reports whether a text could be what a RocketMQ client signs.
func SignedElsewhere(text []byte) bool { return IsSignedDate(text) || IsSignedRequest(text) }

// IsSignedDate reports whether a text has the form of 20060102T150405Z. Whether there
// is such a date does not matter, nor when it was: SDKs repeat it, and some write
// local time.
func IsSignedDate(text []byte) bool {
	if len(text) != len("20060102T150405Z") || text[8] != 'T' || text[15] != 'Z' {
		return false
	}
	for i, c := range text {
		if i != 8 && i != 15 && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// IsSignedRequest reports whether a part of what is signed shows that all of it is a
// RocketMQ request.
func IsSignedRequest(part []byte) bool {
	for _, c := range part {
		if c < ' ' {
			return true
		}
	}
	return bytes.Contains(part, []byte(`{"`))
}
