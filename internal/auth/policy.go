package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/homing-mq/homing/internal/mq"
)

// policy is all that decides who may connect and do what, at one time. It does
// not change: whoever asks loads it once, and a change puts another one in its
// place.
type policy struct {
	version uint64 // of the rights: see Auth.Version

	// open: anybody is let in; see Auth.Open.
	open          bool
	anonymous     bool
	groupClientID bool
	userClientIDs []idPattern
	keys          map[string]key // by access key
	users         *userTable     // nil without users file
	usersFile     string
	usersOptional bool // the file may be missing while there are no users
	given         []Rule
	rules         []rule
	topics        map[string]struct{}
	perMinute     int
	failures      *failures

	// anyone is whoever shows nothing, without a client ID. Its standing holds as
	// long as such clients are let in.
	anyone *mq.Principal
}

// lets reports whether a client without credentials is let in.
func (p *policy) letsAnonymous() bool { return p.anonymous || p.open }

// stands reports whether a principal is still one: its login holds or, if it is
// of no login, there is a user, a key or a place for anonymous clients of that name.
func (p *policy) stands(who *mq.Principal) bool {
	if who.Standing != nil {
		return !who.Standing.Ended()
	}
	if p.open {
		return true
	}
	if who.AccessKey != "" {
		_, there := p.keys[who.AccessKey]
		return there
	}
	if who.User != "" {
		return p.users.has(who.User)
	}
	return p.anonymous
}

// newPolicy makes the policy of options that are to follow old, with the users
// of a file that has been read; nil: there is none. What is the same in both
// keeps its standing.
func (a *Auth) newPolicy(o *Options, made compiled, users *userTable, old *policy) *policy {
	p := &policy{
		open:          old.open && len(o.AccessKeys) == 0 && users == nil,
		anonymous:     o.Anonymous,
		groupClientID: o.GroupClientID,
		userClientIDs: made.patterns,
		keys:          make(map[string]key, len(o.AccessKeys)),
		users:         users,
		usersFile:     o.UsersFile,
		usersOptional: o.UsersFileOptional,
		given:         slices.Clone(o.Rules),
		rules:         made.rules,
		topics:        make(map[string]struct{}, len(o.Topics)),
		perMinute:     o.FailuresPerMinute,
		failures:      old.failures,
	}
	if o.FailuresPerMinute != old.perMinute {
		p.failures = newFailures(o.FailuresPerMinute, a.key)
	}
	for _, k := range o.AccessKeys {
		if had, ok := old.keys[k.Key]; ok && string(had.secret) == k.Secret {
			p.keys[k.Key] = had
			continue
		}
		p.keys[k.Key] = key{
			secret: []byte(k.Secret),
			owner:  &mq.Principal{Kind: mq.KindKey, AccessKey: k.Key, Standing: new(mq.Standing)},
		}
	}
	for _, t := range o.Topics {
		p.topics[t] = struct{}{}
	}
	p.follow(old)
	return p
}

// withUsers is the policy with another content of the users file.
func (p *policy) withUsers(users *userTable) *policy {
	next := *p
	next.users, next.open = users, false
	next.follow(p)
	return &next
}

// follow takes over the standing of what is as it was in old, and the version
// if no right differs.
func (p *policy) follow(old *policy) {
	p.users.follow(old.users)
	p.anyone = &mq.Principal{Standing: new(mq.Standing)}
	if old.anyone != nil && p.letsAnonymous() && old.letsAnonymous() {
		p.anyone.Standing = old.anyone.Standing
	}
	if !p.open {
		p.anyone.Kind = mq.KindAnonymous
	}
	p.version = old.version
	if !p.sameRights(old) {
		p.version++
	}
}

// sameRights reports whether everybody has the rights that they had. Passwords and
// secrets are none.
func (p *policy) sameRights(old *policy) bool {
	return p.open == old.open && p.anonymous == old.anonymous &&
		slices.Equal(p.given, old.given) && maps.Equal(p.topics, old.topics) &&
		sameKeys(p.keys, old.keys) && p.users.sameNames(old.users)
}

func sameKeys[V any](a, b map[string]V) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			return false
		}
	}
	return true
}

// retire ends the standing of what is not in p as it was in old.
func (p *policy) retire(old *policy) {
	for name, k := range old.keys {
		if p.keys[name].owner != k.owner {
			k.owner.Standing.End()
		}
	}
	if old.users != nil {
		for name, s := range old.users.standing {
			if p.users == nil || p.users.standing[name] != s {
				s.End()
			}
		}
	}
	if p.anyone.Standing != old.anyone.Standing {
		old.anyone.Standing.End()
	}
}

// put makes p the policy, and tells who wants to know. a.reload is held.
func (a *Auth) put(p *policy) {
	old := a.policy.Load()
	a.policy.Store(p)
	p.retire(old)
	for _, f := range a.changed {
		f()
	}
}

// Changed registers a function that is called after each change of the users
// file and each Apply, when the new policy is in force. The change, and so
// Apply and Reload, return when it has. It must not call them.
func (a *Auth) Changed(f func()) {
	a.reload.Lock()
	defer a.reload.Unlock()
	a.changed = append(a.changed, f)
}

// Version implements mq.Authorizer.
func (a *Auth) Version() uint64 { return a.policy.Load().version }

// Apply puts other options in the place of those there are, all at once, and
// reads the users file that they name. Logger is not looked at. On an error all
// stays as it was. A server that is not open stays so, see Open. When it
// returns, no login and no decision follows the old ones, and the functions of
// Changed have returned.
//
// A changed limit of failed log-ins begins to count anew.
func (a *Auth) Apply(o Options) error {
	made, err := o.check()
	if err != nil {
		return err
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	old := a.policy.Load()
	seen := a.lastSeen
	if o.UsersFile != old.usersFile {
		a.lastSeen = fileState{}
	}
	users, err := a.usersFor(&o, old)
	if err != nil {
		a.lastSeen = seen
		return err
	}
	a.put(a.newPolicy(&o, made, users, old))
	return nil
}

// usersFor reads the users file of options that are to follow old. a.reload is held.
func (a *Auth) usersFor(o *Options, old *policy) (*userTable, error) {
	if o.UsersFile == "" {
		return nil, nil
	}
	users, err := a.readUsers(o.UsersFile)
	if err != nil && o.UsersFileOptional && errors.Is(err, fs.ErrNotExist) {
		if old.users == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("%w; there have been users before, and they stay", err)
	}
	return users, err
}

// readUsers reads a users file. The state is taken before: a change in between
// is seen the next time. a.reload is held.
func (a *Auth) readUsers(path string) (*userTable, error) {
	a.lastSeen = statFile(path)
	f, err := ReadUsersFile(path)
	if err != nil {
		return nil, err
	}
	a.warnReadable(path)
	a.log.Info("users file read", slog.String("file", path), slog.Int("users", len(f.Users)))
	return newUserTable(f, a.key), nil
}
