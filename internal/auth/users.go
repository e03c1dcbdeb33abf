package auth

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/homing-mq/homing/internal/mq"
)

// userTable is the users file in memory; it does not change.
type userTable struct {
	byName   map[string]FileUser
	standing map[string]*mq.Standing // by name; that of the table before where the user is the same
	dummy    []byte                  // stands for the hash of whoever is not there

	// For SCRAM:
	unprepared map[string]string // prepared name to the name in the file, if it is another; "" if several
	saltKey    digestKey         // makes the salts that are not in the file
	iterations int               // of whoever has no count in the file: the highest there
	secrets    bool              // somebody has a secret, of which the keys must be made
}

// newUserTable takes a file that was checked. fallback is the salt key of a
// file without one.
func newUserTable(f *UsersFile, fallback digestKey) *userTable {
	t := &userTable{
		byName:     make(map[string]FileUser, len(f.Users)),
		standing:   make(map[string]*mq.Standing, len(f.Users)),
		unprepared: make(map[string]string),
		saltKey:    fallback,
	}
	if f.SaltKey != "" {
		t.saltKey, _ = f.saltKey()
	}
	cost := 0
	for _, u := range f.Users {
		t.byName[u.Name], t.standing[u.Name] = u, new(mq.Standing)
		if u.Hash != "" {
			c, _ := checkHash(u.Hash) // checked when the file was read
			cost = max(cost, c)
		}
		t.addSCRAM(&u)
	}
	if t.iterations == 0 {
		t.iterations = DefaultIterations
	}
	if cost == 0 {
		cost = bcrypt.DefaultCost
	}
	t.dummy = dummyHash(cost)
	return t
}

// follow takes over the standing of the users that are as they were in old. It is
// called before anybody else sees t. Both may be nil.
func (t *userTable) follow(old *userTable) {
	if t == nil || old == nil {
		return
	}
	for name, u := range t.byName {
		if had, ok := old.byName[name]; ok && had == u {
			t.standing[name] = old.standing[name]
		}
	}
}

// has reports whether there is a user; in a nil table there is none.
func (t *userTable) has(name string) bool {
	if t == nil {
		return false
	}
	_, ok := t.byName[name]
	return ok
}

// hasAsIs reports whether a user is there, unchanged.
func (t *userTable) hasAsIs(u *FileUser) bool {
	return t != nil && t.byName[u.Name] == *u
}

// sameNames reports whether the users of both have the same names. No table has
// those of an empty one.
func (t *userTable) sameNames(o *userTable) bool {
	var a, b map[string]FileUser
	if t != nil {
		a = t.byName
	}
	if o != nil {
		b = o.byName
	}
	return sameKeys(a, b)
}

// checkUser checks a name and password with the users file. Whoever is not
// there, or has another password, costs the same time: one bcrypt hash.
func (a *Auth) checkUser(ctx context.Context, now *policy, c *mq.Credentials) (*mq.Principal, error) {
	t := now.users
	if t == nil {
		return nil, mq.Errorf(mq.BadCredentials,
			"this server has no users; add one with `homing passwd`, or use Signature|{accessKey}|{instance}")
	}
	u := t.byName[c.Username]
	principal := &mq.Principal{Kind: mq.KindUser, ClientID: c.ClientID, User: u.Name, Standing: t.standing[u.Name]} // its string is shared
	hash := t.dummy
	if u.Hash != "" && len(c.Password) <= maxPassword {
		if a.passwords.known(u.Name, u.Hash, c.Password) {
			return principal, nil
		}
		hash = []byte(u.Hash)
	}
	admit := func() error { return now.admit(c.Username, c.Remote) }
	if err := admit(); err != nil {
		return nil, err
	}
	if u.Secret != "" && (a.isSecret(u.Secret, c.Password) || signsClientID(u.Secret, c.ClientID, c.Password)) {
		return principal, nil
	}
	right := false
	trusted := now.failures.trusted(c.Username, c.Remote, time.Now())
	err := a.passwords.queue.run(ctx, c.Remote, trusted, admit, func() {
		right = bcrypt.CompareHashAndPassword(hash, c.Password[:min(len(c.Password), maxPassword)]) == nil
	})
	switch {
	case err != nil:
		return nil, err
	case !right || u.Hash == "" || len(c.Password) > maxPassword:
		now.failures.add(c.Username, c.Remote, time.Now())
		return nil, nil
	}
	a.passwords.remember(u.Name, u.Hash, c.Password)
	return principal, nil
}

// isSecret compares in a time that does not depend on the secret's length.
func (a *Auth) isSecret(secret string, password []byte) bool {
	return a.key.sum("secret", []byte(secret)) == a.key.sum("secret", password)
}

// watchInterval is how often the users file is looked at.
const watchInterval = 3 * time.Second

func (a *Auth) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.reloadChanged()
		}
	}
}

// fileState tells a file from what was read before. The identity matters: a
// file of the same size can be renamed to the place within one clock tick.
type fileState struct {
	info fs.FileInfo
	err  string
}

func (s fileState) same(o fileState) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil && s.err == o.err
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

func statFile(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{err: err.Error()}
	}
	return fileState{info: info}
}

// reloadChanged reads the users file if it is not what was last read. A
// failure is logged once for each change of the file.
func (a *Auth) reloadChanged() {
	a.reload.Lock()
	defer a.reload.Unlock()
	now := a.policy.Load()
	if now.usersFile == "" || statFile(now.usersFile).same(a.lastSeen) {
		return
	}
	err := a.reloadUsers()
	switch {
	case err == nil:
	case now.users == nil && errors.Is(err, fs.ErrNotExist):
	default:
		a.log.Error("users file not read, the users stay as they were", slog.Any("error", err))
	}
}

// Reload reads the users file now, changed or not (for SIGHUP). On an error
// the users stay as they were.
func (a *Auth) Reload() error {
	a.reload.Lock()
	defer a.reload.Unlock()
	if a.policy.Load().usersFile == "" {
		return nil
	}
	return a.reloadUsers()
}

// reloadUsers puts the content of the users file in force. a.reload is held.
func (a *Auth) reloadUsers() error {
	now := a.policy.Load()
	users, err := a.readUsers(now.usersFile)
	if err != nil {
		return err
	}
	a.put(now.withUsers(users))
	return nil
}

// warnReadable logs if others of this machine can read the users file that was
// looked at last. a.reload is held.
func (a *Auth) warnReadable(path string) {
	if info := a.lastSeen.info; info != nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		a.log.Warn("users file can be read by other users of this machine; run chmod 600 on it",
			slog.String("file", path), slog.String("mode", info.Mode().Perm().String()))
	}
}
