package mq

import (
	"context"
	"net/netip"
)

// Credentials are what a client shows to be let in.
type Credentials struct {
	ClientID    string
	HasUsername bool
	Username    string
	HasPassword bool
	Password    []byte // borrowed for the call
	Remote      netip.Addr
	// PeerCertificate is the verified leaf's DER, nil without mutual TLS.
	PeerCertificate []byte
}

// Principal is who a connection acts for, after authentication. It does not
// change during a connection.
type Principal struct {
	ClientID  string
	User      string // user name; empty for anonymous
	AccessKey string // for signature logins
}

// Authenticator decides who may connect. It may block (hashing), is called
// concurrently, and returns an *Error with BadCredentials, NotAuthorized,
// BadClientID or TooManyAttempts to refuse.
type Authenticator interface {
	Authenticate(ctx context.Context, c *Credentials) (*Principal, error)
}

// Action is what a rule allows or denies.
type Action uint8

// The two actions.
const (
	Publish Action = iota
	Subscribe
)

// Authorizer decides what a principal may do. Allow is called for every
// publish, concurrently, and must not block or allocate.
type Authorizer interface {
	// Allow takes a topic name for Publish and a topic filter for Subscribe.
	Allow(p *Principal, a Action, topic []byte) bool
}
