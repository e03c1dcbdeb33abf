package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// Options are what New needs. The zero value is an open server.
type Options struct {
	// Anonymous lets clients in that show no user name.
	Anonymous  bool
	AccessKeys []AccessKey
	// Secured: a login is asked for also while there is neither a key nor a user.
	Secured bool
	// UsersFile is the path of the users file; empty: there is none. Unless
	// UsersFileOptional is set it must exist.
	UsersFile         string
	UsersFileOptional bool
	Rules             []Rule
	// Topics are the parent topics that may be used; empty: any.
	Topics []string
	// GroupClientID demands client IDs of the form GID_group@@@device.
	GroupClientID bool
	// UserClientIDs are patterns of which a user's client ID must match one; none:
	// users may have any. %u is the user name, * at the end is any rest, %% is a
	// percent sign.
	UserClientIDs []string
	// FailuresPerMinute is how many log-ins of one user with a wrong password an
	// address (of IPv6, a /64) may make per minute, at once or spread out; 0: no
	// limit. See failures for what that means for many users.
	FailuresPerMinute int
	Logger            *slog.Logger // nil: silent
}

// AccessKey is the key and secret of signature log-ins and signed requests.
type AccessKey struct {
	Key    string
	Secret string
}

// Auth implements mq.Authenticator, mq.EnhancedAuthenticator,
// mq.RequestAuthenticator and mq.Authorizer.
type Auth struct {
	policy atomic.Pointer[policy] // never nil

	noKey     key // takes the place of an unknown one
	log       *slog.Logger
	key       digestKey
	passwords *passwords
	scram     *scramKeys
	devices   *knownDevices

	reload   sync.Mutex // held while the policy changes; guards what follows
	lastSeen fileState  // of the users file
	changed  []func()

	stop    context.CancelFunc
	watcher sync.WaitGroup
}

var (
	_ mq.Authenticator         = (*Auth)(nil)
	_ mq.EnhancedAuthenticator = (*Auth)(nil)
	_ mq.RequestAuthenticator  = (*Auth)(nil)
	_ mq.Authorizer            = (*Auth)(nil)
)

// Check says what is wrong with the options, if anything. It reads no file.
func (o *Options) Check() error {
	_, err := o.check()
	return err
}

// compiled is what options say, ready to be used.
type compiled struct {
	rules    []rule
	patterns []idPattern // of client IDs of users
}

func (o *Options) check() (c compiled, err error) {
	secrets := make(map[string]bool, len(o.AccessKeys))
	for _, k := range o.AccessKeys {
		switch {
		case k.Key == "" || strings.ContainsRune(k.Key, '|'):
			return c, fmt.Errorf("auth.access-keys: %q cannot be an access key; give one without |", k.Key)
		case k.Secret == "":
			return c, fmt.Errorf("auth.access-keys: %q has no secret; give one", k.Key)
		case secrets[k.Key]:
			return c, fmt.Errorf("auth.access-keys: %q is there twice; remove one", k.Key)
		}
		secrets[k.Key] = true
	}
	for _, t := range o.Topics {
		if !mq.ValidTarget([]byte(t)) || t[0] == '$' {
			return c, fmt.Errorf("topics: %q cannot be a parent topic; it is one level without / + # and does not start with $", t)
		}
	}
	if c.patterns, err = compilePatterns(o.UserClientIDs); err != nil {
		return c, err
	}
	c.rules, err = compileRules(o.Rules)
	return c, err
}

// New checks the options, reads the users file and watches it until Close.
func New(o Options) (*Auth, error) {
	made, err := o.check()
	if err != nil {
		return nil, err
	}
	secret := newDigestKey()
	a := &Auth{
		noKey:     key{secret: secret[:]},
		log:       o.Logger,
		key:       secret,
		passwords: newPasswords(secret),
		scram:     newSCRAMKeys(secret),
		devices:   newKnownDevices(secret),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	none := &policy{open: !o.Secured}
	users, err := a.usersFor(&o, none)
	if err != nil {
		return nil, err
	}
	a.policy.Store(a.newPolicy(&o, made, users, none))

	ctx, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.watcher.Go(func() { a.watch(ctx) })
	return a, nil
}

// Close stops watching the users file.
func (a *Auth) Close() {
	a.stop()
	a.watcher.Wait()
}

// Open reports whether anybody is let in whatever they show, because neither
// access keys nor a users file are there. It becomes false, for good, when
// one of them appears.
func (a *Auth) Open() bool { return a.policy.Load().open }

// Known reports whether there is anybody who could log in.
func (a *Auth) Known() bool {
	p := a.policy.Load()
	return p.open || len(p.keys) > 0 || p.users != nil
}

// Anonymous reports whether a client gets in without credentials.
func (a *Auth) Anonymous() bool { return a.policy.Load().letsAnonymous() }

const (
	signaturePrefix = "Signature|"
	tokenPrefix     = "Token|"
	devicePrefix    = "DeviceCredential|"
)

var (
	errBadCredentials = &mq.Error{Code: mq.BadCredentials, Text: mq.BadCredentials.String()}
	errTooMany        = &mq.Error{
		Code: mq.TooManyAttempts,
		Text: "too many failed logins of this user, or of many users, from this address; try again in a minute",
	}
)

// Authenticate implements mq.Authenticator.
func (a *Auth) Authenticate(ctx context.Context, c *mq.Credentials) (*mq.Principal, error) {
	now := a.policy.Load()
	if err := now.checkClientID(c.ClientID); err != nil {
		return nil, err
	}
	if now.open {
		return now.anonymousClient(c), nil
	}
	if !c.HasUsername || c.Username == "" {
		if now.anonymous {
			return now.anonymousClient(c), nil
		}
		return nil, mq.Errorf(mq.NotAuthorized, "a user name and a password are needed")
	}
	check, err := a.method(now, c)
	if err != nil {
		return nil, err
	}
	p, err := check(ctx, now, c)
	switch {
	case err != nil:
		return nil, err
	case p == nil:
		return nil, errBadCredentials
	case p.Standing.Ended(): // while the password was hashed
		return nil, errBadCredentials
	}
	if err := now.checkUserClientID(p, c.Assigned); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *policy) anonymousClient(c *mq.Credentials) *mq.Principal {
	return &mq.Principal{Kind: p.anyone.Kind, ClientID: c.ClientID, Standing: p.anyone.Standing}
}

func (p *policy) checkClientID(id string) error {
	if p.groupClientID && !validGroupClientID(id) {
		return mq.Errorf(mq.BadClientID, "the client ID must look like GID_group@@@device, "+
			"up to 64 letters, digits, - and _")
	}
	return nil
}

// admit refuses a user with too many failed log-ins at an address.
func (p *policy) admit(user string, from netip.Addr) error {
	if p.failures.limited(user, from, time.Now()) {
		return errTooMany
	}
	return nil
}

// checkFunc returns nil, nil for wrong credentials.
type checkFunc func(ctx context.Context, now *policy, c *mq.Credentials) (*mq.Principal, error)

// method finds the way to log in that a user name asks for. Its errors are
// about the form or the configuration, reveal nothing about secrets and are
// not counted as failed log-ins: a fleet that is set up wrongly shall go on
// seeing the reason.
func (a *Auth) method(now *policy, c *mq.Credentials) (checkFunc, error) {
	name := c.Username
	switch {
	case strings.HasPrefix(name, signaturePrefix):
		if len(now.keys) == 0 {
			return nil, mq.Errorf(mq.BadCredentials,
				"signature login is not configured on this server; add auth.access-keys, or log in as a user")
		}
		if strings.Count(name, "|") < 2 {
			return nil, mq.Errorf(mq.BadCredentials, "the user name must be Signature|{accessKey}|{instance}")
		}
		return a.checkSignature, nil
	case strings.HasPrefix(name, tokenPrefix):
		return nil, mq.Errorf(mq.BadCredentials,
			"token login is not configured on this server; use Signature|{accessKey}|{instance}, or a user name")
	case strings.HasPrefix(name, devicePrefix):
		return nil, mq.Errorf(mq.BadCredentials,
			"device credential login is not configured on this server; use Signature|{accessKey}|{instance}, or a user name")
	}
	return a.checkUser, nil
}
