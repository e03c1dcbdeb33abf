package mq

import (
	"context"
	"net/netip"
	"sync/atomic"
)

// Credentials are what a client shows to be let in.
type Credentials struct {
	ClientID    string
	Assigned    bool // the client ID is the server's choice: nobody can have named it before
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
	Kind      PrincipalKind
	ClientID  string
	User      string // user name; empty for anonymous
	AccessKey string // for signature logins
	// Standing is that of the login; nil: there was none, and who it is is looked
	// up by name, as for what a session has stored.
	Standing *Standing
}

// Ended reports whether the login of the principal has ended. p may be nil.
func (p *Principal) Ended() bool { return p != nil && p.Standing.Ended() }

// Standing tells whether a login still holds: it ends when what was shown
// (a user, a password, an access key, nothing) would not let anybody in any
// more. All who have logged in with the same share one. The zero value holds; a
// nil one does, always. It may be used concurrently.
type Standing struct{ ended atomic.Bool }

// End ends the standing, for good.
func (s *Standing) End() { s.ended.Store(true) }

// Ended reports whether the standing has ended.
func (s *Standing) Ended() bool { return s != nil && s.ended.Load() }

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

// Grant is how much of a topic filter a principal may subscribe to.
type Grant uint8

// The grants.
const (
	GrantNone Grant = iota
	GrantPart       // of some topics it may not have the messages: Allow tells
	GrantAll
)

// Authorizer decides what a principal may do. It is called for every publish,
// concurrently, and must not block or allocate.
type Authorizer interface {
	// Allow takes a topic name.
	Allow(p *Principal, a Action, topic []byte) bool
	// Grant takes a topic filter.
	Grant(p *Principal, filter []byte) Grant
	// Version changes with each change of what Allow or Grant would say, and is
	// never the same again. Who keeps a verdict keeps the version that it had
	// before it asked.
	Version() uint64
	// Changed registers a function that is called when the version has changed, or
	// logins have lost their standing. Whoever changes them waits for it.
	Changed(f func())
}
