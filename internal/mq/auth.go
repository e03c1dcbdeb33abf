package mq

import (
	"context"
	"net/netip"
)

// Exchange is one enhanced authentication under way (section 4.12). It belongs to
// one goroutine, is used once, and needs no closing: to give it up is to
// forget it.
type Exchange interface {
	// Next takes the client's authentication data (borrowed for the call) and
	// returns the server's, which the caller owns. It may block (hashing).
	// With done true the client is who it says; the reply goes with the
	// success. With done false and no error the reply goes in an AUTH packet,
	// and the client's answer into the next call. An *Error refuses, for good,
	// with a code of Authenticator: nothing but the code and text is sent.
	Next(data []byte) (reply []byte, done bool, err error)
	// Principal is who the client is; nil before done.
	Principal() *Principal
}

// EnhancedAuthenticator is what an Authenticator is besides if it knows methods
// of enhanced authentication.
//
// To re-authenticate is to Begin again on the same connection, with the same
// credentials. The gateway sees to it that the method is that of the CONNECT
// [MQTT-4.12.1-1], that one exchange is under way at a time, and that the
// client stays who it was: *Exchange.Principal() must equal the Principal of
// the connection, as sessions, wills and rules hang on it. If it does not, or
// Next fails, the connection is closed with a reason code that DISCONNECT has
// (BadCredentials becomes 0x87) [MQTT-4.12.1-2].
type EnhancedAuthenticator interface {
	// Begin starts an exchange; the client's first data goes to its Next. ok
	// is false for a method that is not known [MQTT-4.12.0-1]. c is not kept;
	// its user name and password say nothing here, the method alone decides. ctx
	// bounds the whole exchange.
	Begin(ctx context.Context, method string, c *Credentials) (e Exchange, ok bool)
}

// RequestAuthenticator is what an Authenticator is besides if it knows requests
// that are signed one by one with an access key, and not a login.
type RequestAuthenticator interface {
	// AuthenticateRequest returns whose request r is. known is who sent the last
	// one of the same connection, nil at first and after a refusal: it is not held
	// up by failures of others at its address. An *Error refuses, with a code of Authenticator. It
	// does not block and is called concurrently. The Principal has no client ID
	// and must not be changed.
	AuthenticateRequest(r SignedRequest, known *Principal, remote netip.Addr) (*Principal, error)
}

// SignedRequest is a request that may be signed.
type SignedRequest interface {
	// AccessKey is the key that it says it is signed with, borrowed; empty: not
	// signed.
	AccessKey() []byte
	// SignedWith reports whether it is signed with that secret, which is borrowed.
	// The time it takes depends on neither the secret nor the signature.
	SignedWith(secret []byte) bool
}
