package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/xdg-go/scram"
	"github.com/xdg-go/stringprep"
)

// scramMethod is the one method of enhanced authentication (RFC 5802, RFC 7677).
const scramMethod = "SCRAM-SHA-256"

// Bounds and default of the iterations of PBKDF2 in a SCRAM credential. The
// client pays for them at each login: 15,000 take a PC 2 to 5 ms and a small
// microcontroller in the order of a second. RFC 7677 demands 4096 and recommends 15,000.
// The server pays only when it makes keys of a secret; the upper bound keeps
// that below a second.
const (
	MinIterations     = 4096
	DefaultIterations = 15_000
	MaxIterations     = 1_000_000
)

// prepare is SASLprep (RFC 4013). It fails for what SASLprep prohibits, and
// for what it makes empty.
func prepare(s string) (string, error) {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) && s != "" {
		return s, nil
	}
	p, err := stringprep.SASLprep.Prepare(s)
	if err != nil || p == "" {
		return "", errors.New("it has characters that SCRAM (SASLprep) does not allow, such as emoji")
	}
	return p, nil
}

// prepareName prepares a user name. One that cannot be prepared, or is longer
// than any user's, stands for itself.
func prepareName(name string) string {
	if len(name) > maxUserName {
		return name
	}
	if p, err := prepare(name); err == nil {
		return p
	}
	return name
}

// makeKeys derives the keys of a prepared password.
func makeKeys(prepared string, f scram.KeyFactors) (scram.StoredCredentials, error) {
	client, err := scram.SHA256.NewClientUnprepped("", prepared, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return client.GetStoredCredentialsWithError(f)
}

// formatSCRAM writes a credential as RFC 5803 does:
//
//	SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey
//
// with Base64 for salt and keys.
func formatSCRAM(c *scram.StoredCredentials) string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("%s$%d:%s$%s:%s", scramMethod, c.Iters, b64([]byte(c.Salt)), b64(c.StoredKey), b64(c.ServerKey))
}

var errNotSCRAM = errors.New("scram is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey; set the password again with `homing passwd`")

func parseSCRAM(s string) (c scram.StoredCredentials, err error) {
	s, ok := strings.CutPrefix(s, scramMethod+"$")
	factors, keys, ok2 := strings.Cut(s, "$")
	iterations, salt, ok3 := strings.Cut(factors, ":")
	stored, server, ok4 := strings.Cut(keys, ":")
	n, err := strconv.Atoi(iterations)
	if err != nil || !ok || !ok2 || !ok3 || !ok4 {
		return c, errNotSCRAM
	}
	if err := checkIterations(n); err != nil {
		return c, err
	}
	var parts [3][]byte
	for i, text := range [...]string{salt, stored, server} {
		if parts[i], err = base64.StdEncoding.DecodeString(text); err != nil {
			return c, errNotSCRAM
		}
	}
	if n := len(parts[0]); n < 8 || n > 64 || len(parts[1]) != sha256.Size || len(parts[2]) != sha256.Size {
		return c, errNotSCRAM
	}
	c.Iters, c.Salt, c.StoredKey, c.ServerKey = n, string(parts[0]), parts[1], parts[2]
	return c, nil
}

func checkIterations(n int) error {
	if n < MinIterations || n > MaxIterations {
		return fmt.Errorf("%d SCRAM iterations are not possible; give %d to %d", n, MinIterations, MaxIterations)
	}
	return nil
}

// ErrNotPrepared is the error of SetSCRAM for a password that SCRAM cannot
// use; it still works as a password.
var ErrNotPrepared = errors.New("this password cannot be used with SCRAM")

// SetSCRAM gives u, which is to be a user of this file, the SCRAM credential of
// a password. The salt is made of the salt key and the name, so that nobody
// who asks for salts sees when a user is added or changed.
func (f *UsersFile) SetSCRAM(u *FileUser, password []byte, iterations int) error {
	if err := checkIterations(iterations); err != nil {
		return err
	}
	prepared, err := prepare(string(password))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotPrepared, err)
	}
	if f.SaltKey == "" {
		var key digestKey
		_, _ = rand.Read(key[:]) // never fails
		f.SaltKey = base64.StdEncoding.EncodeToString(key[:])
	}
	key, err := f.saltKey()
	if err != nil {
		return err
	}
	c, err := makeKeys(prepared, scram.KeyFactors{Salt: saltOf(&key, u.Name), Iters: iterations})
	if err != nil {
		return fmt.Errorf("make SCRAM credential: %w", err)
	}
	u.SCRAM = formatSCRAM(&c)
	return nil
}

// saltKey returns the file's salt key; zero if there is none.
func (f *UsersFile) saltKey() (k digestKey, err error) {
	b, err := base64.StdEncoding.DecodeString(f.SaltKey)
	if err != nil || len(b) != len(k) && len(b) != 0 {
		return k, fmt.Errorf("salt-key must be %d random bytes in Base64; remove it, and set the passwords again", len(k))
	}
	copy(k[:], b)
	return k, nil
}

// saltOf is the salt of a name, whether there is such a user or not.
func saltOf(key *digestKey, name string) string {
	d := key.sum("salt", []byte(prepareName(name)))
	return string(d[:])
}

// addSCRAM prepares the table for the SCRAM log-ins of a user.
func (t *userTable) addSCRAM(u *FileUser) {
	t.secrets = t.secrets || u.Secret != ""
	if c, err := parseSCRAM(u.SCRAM); err == nil {
		t.iterations = max(t.iterations, c.Iters)
	}
	if p := prepareName(u.Name); p != u.Name {
		if _, several := t.unprepared[p]; several {
			t.unprepared[p] = ""
		} else {
			t.unprepared[p] = u.Name
		}
	}
}

// find looks a user up by the name that a SCRAM client sent: as it is,
// prepared, or as a name that prepared is the same. A user has no empty name,
// so the zero FileUser is nobody.
func (t *userTable) find(name string) FileUser {
	if u, ok := t.byName[name]; ok {
		return u
	}
	name = prepareName(name)
	if u, ok := t.byName[name]; ok {
		return u
	}
	return t.byName[t.unprepared[name]]
}

// keyPair is the secret half of a SCRAM credential.
type keyPair struct{ stored, server [sha256.Size]byte }

// scramKeys remembers keys that were made of secrets: that takes
// milliseconds of a core.
type scramKeys struct {
	key digestKey

	mu   sync.Mutex
	made recent[digest, keyPair]
}

func newSCRAMKeys(key digestKey) *scramKeys {
	return &scramKeys{key: key, made: newRecent[digest, keyPair](maxVerified)}
}

// id digests all that the keys depend on. No two names have one salt.
func (s *scramKeys) id(prepared string, f scram.KeyFactors) digest {
	return s.key.sum("scram keys", []byte(prepared), []byte(f.Salt), []byte(strconv.Itoa(f.Iters)))
}

func (s *scramKeys) get(id digest) (keyPair, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made.get(id)
}

func (s *scramKeys) put(id digest, k keyPair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made.put(id, k)
}
