package auth

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// signed is a request that is signed right if the secret is this one.
type signed struct{ key, secret string }

func (s signed) AccessKey() []byte             { return []byte(s.key) }
func (s signed) SignedWith(secret []byte) bool { return string(secret) == s.secret }

func requestCode(t *testing.T, a *Auth, r signed, known *mq.Principal, from string) (mq.Code, *mq.Principal) {
	t.Helper()
	p, err := a.AuthenticateRequest(r, known, netip.MustParseAddr(from))
	if err == nil {
		return mq.OK, p
	}
	e, ok := errors.AsType[*mq.Error](err)
	if !ok || p != nil {
		t.Fatalf("AuthenticateRequest(%v) = %v, %v", r, p, err)
	}
	return e.Code, nil
}

func TestAuthenticateRequest(t *testing.T) {
	keys := []AccessKey{{Key: "AK", Secret: "s1"}, {Key: "BK", Secret: "s2"}}
	for _, c := range []struct {
		name string
		opt  Options
		r    signed
		want mq.Code
		key  string // of the principal
	}{
		{"open server, unsigned", Options{}, signed{}, mq.OK, ""},
		{"open server, signed", Options{}, signed{"AK", "x"}, mq.OK, ""},
		{"right", Options{AccessKeys: keys}, signed{"BK", "s2"}, mq.OK, "BK"},
		{"wrong secret", Options{AccessKeys: keys}, signed{"BK", "s1"}, mq.BadCredentials, ""},
		{"unknown key", Options{AccessKeys: keys}, signed{"CK", "s1"}, mq.BadCredentials, ""},
		{"unsigned", Options{AccessKeys: keys}, signed{}, mq.BadCredentials, ""},
		{"anonymous, unsigned", Options{AccessKeys: keys, Anonymous: true}, signed{}, mq.OK, ""},
		{"anonymous, right", Options{AccessKeys: keys, Anonymous: true}, signed{"AK", "s1"}, mq.OK, "AK"},
		{"anonymous, wrong", Options{AccessKeys: keys, Anonymous: true}, signed{"AK", "s2"}, mq.BadCredentials, ""},
	} {
		a, err := New(c.opt)
		if err != nil {
			t.Fatal(err)
		}
		code, p := requestCode(t, a, c.r, nil, "192.0.2.1")
		if code != c.want || p != nil && (p.AccessKey != c.key || p.ClientID != "" || p.User != "") {
			t.Errorf("%s: %v, %+v, want %v for key %q", c.name, code, p, c.want, c.key)
		}
		a.Close()
	}
}
