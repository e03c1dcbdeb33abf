package rocketmqserver

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// signatureScheme is what the metadata "authorization" begins with.
const signatureScheme = "MQv2-HMAC-SHA1"

// signedCall is a mq.SignedRequest: the metadata "authorization" and
// "x-mq-date-time" of a call (Signature of the SDKs, DefaultAuthenticationContextBuilder
// of RocketMQ). Only the date is signed, as the client wrote it. How old it is does
// not matter: clients write local time in the format of UTC, and repeat it.
type signedCall struct {
	key       []byte
	signature []byte // decoded
	date      []byte
}

var errBadAuthorization = &mq.Error{
	Code: mq.BadCredentials,
	Text: "the metadata authorization is not " + signatureScheme + " Credential=..., SignedHeaders=x-mq-date-time, Signature=...",
}

var errBadDate = &mq.Error{
	Code: mq.BadCredentials,
	Text: "the metadata x-mq-date-time, which is signed, is not a date like 20060102T150405Z",
}

// parse takes the metadata; without authorization, or with an empty key, the call
// is not signed.
func (s *signedCall) parse(authorization, date string) error {
	*s = signedCall{}
	if authorization == "" {
		return nil
	}
	rest, ok := strings.CutPrefix(authorization, signatureScheme+" ")
	if !ok {
		return errBadAuthorization
	}
	for pair := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		switch name {
		case "Credential":
			value, _, _ = strings.Cut(value, "/") // a region and a product follow
			s.key = []byte(value)
		case "SignedHeaders":
			ok = strings.EqualFold(value, "x-mq-date-time")
		case "Signature":
			s.signature, _ = hex.DecodeString(value) // of either case
		}
	}
	switch {
	case ok && len(s.key) == 0: // Python's SDK without credentials
		*s = signedCall{}
		return nil
	case !ok || len(s.signature) != sha1.Size:
		return errBadAuthorization
	case !mq.IsSignedDate([]byte(date)):
		return errBadDate
	}
	s.date = []byte(date)
	return nil
}

// AccessKey implements mq.SignedRequest.
func (s *signedCall) AccessKey() []byte { return s.key }

// SignedWith implements mq.SignedRequest.
func (s *signedCall) SignedWith(secret []byte) bool {
	mac := hmac.New(sha1.New, secret)
	mac.Write(s.date)
	var sum [sha1.Size]byte
	return hmac.Equal(mac.Sum(sum[:0]), s.signature)
}
