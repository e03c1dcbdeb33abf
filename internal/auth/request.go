package auth

import (
	"net/netip"

	"github.com/homing-mq/homing/internal/mq"
)

// key is an access key, ready to be used.
type key struct {
	secret []byte
	owner  *mq.Principal // of signed requests; never changed
}

var (
	errUnsigned = &mq.Error{Code: mq.BadCredentials, Text: "the request is not signed; give the SDK an access key and its secret"}
	errNoKeys   = &mq.Error{
		Code: mq.BadCredentials,
		Text: "no access key is configured on this server; add one to auth.access-keys",
	}
	errBadSignature = &mq.Error{Code: mq.BadCredentials, Text: "unknown access key or wrong signature"}
)

// AuthenticateRequest implements mq.RequestAuthenticator: access keys sign, as
// in signature logins.
func (a *Auth) AuthenticateRequest(r mq.SignedRequest, _ *mq.Principal, _ netip.Addr) (*mq.Principal, error) {
	name, now := r.AccessKey(), a.policy.Load()
	switch {
	case now.open, len(name) == 0 && now.anonymous:
		return now.anyone, nil
	case len(name) == 0:
		return nil, errUnsigned
	case len(now.keys) == 0:
		return nil, errNoKeys
	}
	k, found := now.keys[string(name)]
	if !found {
		k = a.noKey // same work, never right
	}
	if !r.SignedWith(k.secret) || !found {
		return nil, errBadSignature
	}
	return k.owner, nil
}
