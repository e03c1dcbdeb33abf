package auth

import (
	"net/netip"
	"time"

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
func (a *Auth) AuthenticateRequest(r mq.SignedRequest, known *mq.Principal, remote netip.Addr) (*mq.Principal, error) {
	name, now := r.AccessKey(), a.policy.Load()
	switch {
	case now.open, len(name) == 0 && now.anonymous:
		return now.anyone, nil
	case len(name) == 0:
		return nil, errUnsigned
	case len(now.keys) == 0:
		return nil, errNoKeys
	}
	familiar := known != nil && known.AccessKey == string(name)
	if !familiar {
		if err := a.admit(requestOf(name, remote), a.devices.request); err != nil {
			return nil, err
		}
	}
	k, found := now.keys[string(name)]
	if !found {
		k = a.noKey // same work, never right
	}
	if !r.SignedWith(k.secret) || !found {
		now.failures.add(remote, time.Now())
		if now.failures.limited(remote, time.Now()) {
			a.devices.forget(requestOf(name, remote))
		}
		return nil, errBadSignature
	}
	if !familiar && now.failures != nil {
		c := requestOf(name, remote)
		a.devices.add(c, a.devices.request(c))
	}
	return k.owner, nil
}

// requestOf makes the sender of signed requests known as a device that has the
// access key in place of a client ID.
func requestOf(accessKey []byte, remote netip.Addr) *mq.Credentials {
	return &mq.Credentials{ClientID: string(accessKey), Remote: remote}
}

// request is what a signed request shows before its signature is checked: the
// access key.
func (d *knownDevices) request(c *mq.Credentials) digest {
	return d.key.sum("shown request", []byte(c.ClientID))
}
