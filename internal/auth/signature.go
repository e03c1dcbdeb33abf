package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"strings"

	"github.com/homing-mq/homing/internal/mq"
)

// Sign returns the password of a client in signature mode, and of a user whose
// secret is known: Base64(HMAC-SHA1(secret, client ID)).
func Sign(secret, clientID string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(clientID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// SignatureUser returns the user name of signature mode.
func SignatureUser(accessKey, instance string) string {
	return signaturePrefix + accessKey + "|" + instance
}

func signedWith(secret, clientID string, password []byte) bool {
	return subtle.ConstantTimeCompare([]byte(Sign(secret, clientID)), password) == 1
}

// signsClientID is signedWith, but for client IDs whose signature could be one of
// something else.
func signsClientID(secret, clientID string, password []byte) bool {
	return signedWith(secret, clientID, password) && !mq.SignedElsewhere([]byte(clientID))
}

// errAmbiguous refuses a client ID that RocketMQ clients sign in other places.
var errAmbiguous = &mq.Error{
	Code: mq.BadClientID, Text: "a client ID that looks like a date (20060102T150405Z), or has control characters or {\", cannot be used with a signature",
}

func (a *Auth) checkSignature(_ context.Context, now *policy, c *mq.Credentials) (*mq.Principal, error) {
	if mq.SignedElsewhere([]byte(c.ClientID)) {
		return nil, errAmbiguous
	}
	accessKey, _, _ := strings.Cut(c.Username[len(signaturePrefix):], "|")
	k, known := now.keys[accessKey]
	if !known {
		k = a.noKey // same work, never right
	}
	if !signedWith(string(k.secret), c.ClientID, c.Password) || !known {
		return nil, nil
	}
	// The key's own string: that of the user name would stay with the connection.
	return &mq.Principal{Kind: mq.KindKey, ClientID: c.ClientID, AccessKey: k.owner.AccessKey, Standing: k.owner.Standing}, nil
}
