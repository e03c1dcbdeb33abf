package auth

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"github.com/homing-mq/homing/internal/mq"
)

// maxMessage is the longest message of a SCRAM client in bytes. A user name,
// escaped, takes at most three times maxUserName, and may come twice.
const maxMessage = 4096

// exchange is one SCRAM login.
//
// A name that is not there, or that has nothing to log in with by SCRAM, goes
// all the way with a salt like any other and keys that nobody has, and fails
// at the proof.
type exchange struct {
	auth  *Auth
	ctx   context.Context // of the login, which takes several calls
	who   mq.Credentials  // client ID and address
	table *userTable      // the users when it began
	conv  *scram.ServerConversation
	next  func(*exchange, string) (string, error) // the step to come; nil: over

	name    string // as the client sent it
	user    FileUser
	factors scram.KeyFactors
	keys    keyPair // conv has slices of it
	secret  string  // prepared, of which keys are yet to be made
	missing string  // why the proof must fail, for the log; empty: it may be right

	principal *mq.Principal
}

// Begin implements mq.EnhancedAuthenticator. Without a users file no method is
// known: then there are no keys that the server could prove to have.
func (a *Auth) Begin(ctx context.Context, method string, c *mq.Credentials) (mq.Exchange, bool) {
	table := a.policy.Load().users
	if method != scramMethod || table == nil {
		return nil, false
	}
	e := &exchange{
		auth: a, ctx: ctx, who: mq.Credentials{ClientID: c.ClientID, Assigned: c.Assigned, Remote: c.Remote}, table: table,
		next: (*exchange).first,
	}
	server, err := scram.SHA256.NewServer(e.credential)
	if err != nil {
		return nil, false
	}
	e.conv = server.NewConversation()
	return e, true
}

// Principal implements mq.Exchange.
func (e *exchange) Principal() *mq.Principal { return e.principal }

var errOver = &mq.Error{Code: mq.NotAuthorized, Text: "this authentication is over; begin a new one"}

// Next implements mq.Exchange.
func (e *exchange) Next(data []byte) ([]byte, bool, error) {
	step := e.next
	e.next = nil
	if step == nil {
		e.principal = nil
		return nil, false, errOver
	}
	reply, err := step(e, string(data))
	if err != nil {
		return nil, false, err
	}
	return []byte(reply), e.principal != nil, nil
}

// first answers the client's first message with the challenge. Its errors are
// about the form and, like those of Auth.method, not counted as failed log-ins.
func (e *exchange) first(message string) (string, error) {
	if err := e.auth.policy.Load().checkClientID(e.who.ClientID); err != nil {
		return "", err
	}
	if err := checkMessage(message); err != nil {
		return "", e.refuse(err, "not a SCRAM message")
	}
	if message[0] == 'p' {
		return "", e.refuse(mq.Errorf(mq.NotAuthorized, "channel binding is not supported; use SCRAM-SHA-256 without it"), "channel binding")
	}
	challenge, err := e.conv.Step(message)
	if err != nil {
		return "", e.refuse(errMessage, "not a first SCRAM message")
	}
	if z := e.conv.AuthzID(); z != "" && prepareName(z) != prepareName(e.name) {
		return "", e.refuse(mq.Errorf(mq.NotAuthorized, "a user cannot act for another one; leave out the authorization identity"), "authorization identity")
	}
	if err := e.admit(); err != nil {
		return "", err
	}
	e.next = (*exchange).final
	return challenge, nil
}

// final checks the proof. Whatever is wrong now counts as a failed login.
func (e *exchange) final(message string) (string, error) {
	if err := e.admit(); err != nil {
		return "", err
	}
	if err := checkMessage(message); err != nil {
		return "", e.fail(err, "not a SCRAM message")
	}
	if err := e.makeKeys(); err != nil {
		return "", err
	}
	// The library tells a wrong proof from the rest by its reply.
	reply, err := e.conv.Step(message)
	switch {
	case err != nil && reply == scram.ErrInvalidProof:
		return "", e.fail(errBadCredentials, cmp.Or(e.missing, "wrong password"))
	case err != nil:
		return "", e.fail(errMessage, "not an answer to the challenge")
	case e.missing != "" || !e.conv.Valid(): // nobody has these keys; to be sure
		return "", e.fail(errBadCredentials, e.missing)
	}
	now := e.auth.policy.Load()
	if !now.users.hasAsIs(&e.user) {
		return "", e.fail(errBadCredentials, "the user was changed meanwhile")
	}
	p := &mq.Principal{Kind: mq.KindUser, ClientID: e.who.ClientID, User: e.user.Name, Standing: now.users.standing[e.user.Name]}
	if err := now.checkUserClientID(p, e.who.Assigned); err != nil {
		return "", e.refuse(err, "client ID")
	}
	if now.failures != nil {
		e.auth.devices.add(&e.who, e.user.Name)
	}
	e.principal = p
	return reply, nil
}

var errMessage = &mq.Error{Code: mq.NotAuthorized, Text: "the authentication data is not what SCRAM-SHA-256 wants here"}

// checkMessage refuses what the library need not see.
func checkMessage(m string) *mq.Error {
	switch {
	case len(m) > maxMessage:
		return &mq.Error{
			Code: mq.NotAuthorized,
			Text: fmt.Sprintf("the authentication data has %d bytes; at most %d are taken", len(m), maxMessage),
		}
	case m == "", !utf8.ValidString(m), strings.IndexByte(m, 0) >= 0:
		return errMessage
	}
	return nil
}

// credential is what the library calls with the client's user name. The keys
// of a secret are filled in later, when the client has shown a proof.
func (e *exchange) credential(name string) (scram.StoredCredentials, error) {
	e.name, e.user = name, e.table.find(name)
	e.factors = scram.KeyFactors{Salt: saltOf(&e.table.saltKey, name), Iters: e.table.iterations}
	nobody := e.auth.key.sum("nobody", []byte(name))
	copy(e.keys.stored[:], nobody[:])
	u, err := &e.user, error(nil)
	switch {
	case u.Name == "":
		e.missing = "unknown user"
	case u.Secret != "":
		if e.secret, err = prepare(u.Secret); err != nil {
			e.missing = "the secret cannot be used with SCRAM: " + err.Error()
		}
	case u.SCRAM == "":
		e.missing = "the user has no SCRAM credential; set the password again with `homing passwd`"
	default:
		c, err := parseSCRAM(u.SCRAM)
		if err != nil {
			e.missing = err.Error() // checked when the file was read
			break
		}
		e.factors = c.KeyFactors
		copy(e.keys.stored[:], c.StoredKey)
		copy(e.keys.server[:], c.ServerKey)
	}
	return scram.StoredCredentials{KeyFactors: e.factors, StoredKey: e.keys.stored[:], ServerKey: e.keys.server[:]}, nil
}

// makeKeys makes the keys of a secret. When anybody in the file has one, the
// work is done for each name that shows a proof, once: the time must not tell
// who is there.
func (e *exchange) makeKeys() error {
	if !e.table.secrets {
		return nil
	}
	password := cmp.Or(e.secret, "nobody")
	cache := e.auth.scram
	id := cache.id(password, e.factors)
	keys, ok := cache.get(id)
	if !ok {
		var made scram.StoredCredentials
		var failed error
		trusted := e.auth.policy.Load().failures.trusted(prepareName(e.name), e.who.Remote, time.Now())
		err := e.auth.passwords.queue.run(e.ctx, e.who.Remote, trusted, e.admit, func() { made, failed = makeKeys(password, e.factors) })
		if err != nil {
			return err
		}
		if failed != nil {
			return mq.Errorf(mq.Overloaded, "make SCRAM keys: %w", failed)
		}
		copy(keys.stored[:], made.StoredKey)
		copy(keys.server[:], made.ServerKey)
		cache.put(id, keys)
	}
	if e.secret != "" {
		e.keys = keys
	}
	return nil
}

// admit refuses when the user has too many failed log-ins at the address, unless the
// device has been here before.
func (e *exchange) admit() error {
	err := e.auth.policy.Load().admit(prepareName(e.name), e.who.Remote)
	if err != nil && e.user.Name != "" && e.auth.devices.has(&e.who, e.user.Name) {
		return nil
	}
	return err
}

// refuse logs why a login was refused, without anything that could be secret.
func (e *exchange) refuse(err *mq.Error, why string) *mq.Error {
	e.auth.log.Debug("SCRAM login refused",
		slog.String("client", e.who.ClientID), slog.String("user", e.name), slog.String("reason", why))
	return err
}

// fail refuses, and counts.
func (e *exchange) fail(err *mq.Error, why string) *mq.Error {
	now, failures, name := time.Now(), e.auth.policy.Load().failures, prepareName(e.name)
	if failures.limited(name, e.who.Remote, now) {
		e.auth.devices.forget(&e.who)
		err = errTooMany
	}
	failures.add(name, e.who.Remote, now)
	return e.refuse(err, why)
}
