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
	byName map[string]FileUser
	dummy  []byte // stands for the hash of whoever is not there

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
		unprepared: make(map[string]string),
		saltKey:    fallback,
	}
	if f.SaltKey != "" {
		t.saltKey, _ = f.saltKey()
	}
	cost := 0
	for _, u := range f.Users {
		t.byName[u.Name] = u
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

// checkUser checks a name and password with the users file. Whoever is not
// there, or has another password, costs the same time: one bcrypt hash.
func (a *Auth) checkUser(ctx context.Context, c *mq.Credentials) (*mq.Principal, error) {
	t := a.users.Load()
	if t == nil {
		return nil, mq.Errorf(mq.BadCredentials,
			"this server has no users; add one with `homing passwd`, or use Signature|{accessKey}|{instance}")
	}
	u := t.byName[c.Username]
	principal := &mq.Principal{Kind: mq.KindUser, ClientID: c.ClientID, User: u.Name} // its string is shared
	hash := t.dummy
	switch {
	case u.Secret != "":
		if a.isSecret(u.Secret, c.Password) || signedWith(u.Secret, c.ClientID, c.Password) {
			return principal, nil
		}
	case u.Hash != "" && len(c.Password) <= maxPassword:
		if a.passwords.known(u.Name, u.Hash, c.Password) {
			return principal, nil
		}
		hash = []byte(u.Hash)
	}
	right, err := a.passwords.compare(ctx, hash, c.Password[:min(len(c.Password), maxPassword)], func() error {
		return a.admit(c, a.devices.password)
	})
	if err != nil || !right || u.Hash == "" {
		return nil, err
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
	if statFile(a.usersFile).same(a.lastSeen) {
		return
	}
	err := a.readUsers()
	switch {
	case err == nil:
	case a.users.Load() == nil && errors.Is(err, fs.ErrNotExist):
	default:
		a.log.Error("users file not read, the users stay as they were", slog.Any("error", err))
	}
}

// Reload reads the users file now, changed or not (for SIGHUP). On an error
// the users stay as they were.
func (a *Auth) Reload() error {
	if a.usersFile == "" {
		return nil
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	return a.readUsers()
}

// readUsers is called with a.reload held. The state is taken before the file
// is read: a change in between is seen the next time.
func (a *Auth) readUsers() error {
	a.lastSeen = statFile(a.usersFile)
	f, err := ReadUsersFile(a.usersFile)
	if err != nil {
		return err
	}
	if info := a.lastSeen.info; info != nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		a.log.Warn("users file can be read by other users of this machine; run chmod 600 on it",
			slog.String("file", a.usersFile), slog.String("mode", info.Mode().Perm().String()))
	}
	a.users.Store(newUserTable(f, a.key))
	a.open.Store(false)
	a.log.Info("users file read", slog.String("file", a.usersFile), slog.Int("users", len(f.Users)))
	return nil
}
