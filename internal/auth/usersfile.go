package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml"

	"github.com/homing-mq/homing/internal/textfile"
)

// UsersFile is the content of a users file:
//
//	salt-key: MDEyMzQ1Njc4O...   # 32 bytes: makes the salts of SCRAM
//	users:
//	  - name: alice
//	    hash: $2a$10$...         # of the password, bcrypt
//	    scram: SCRAM-SHA-256$... # of the same password, for SCRAM
//	  - name: bob
//	    secret: s3cret           # in clear, for devices that sign
//
// Each user has a hash or a secret, never both. A user with a hash and no
// scram cannot log in by SCRAM; a secret serves for it, too.
type UsersFile struct {
	// SaltKey is 32 random bytes in Base64, or empty: then salts that are not
	// in the file change with each start of the server. SetSCRAM makes it.
	SaltKey string     `yaml:"salt-key"`
	Users   []FileUser `yaml:"users"`
}

// FileUser is one user of a users file.
type FileUser struct {
	Name   string `yaml:"name"`
	Hash   string `yaml:"hash"`
	SCRAM  string `yaml:"scram"` // see formatSCRAM
	Secret string `yaml:"secret"`
}

// maxUserName is the longest user name in bytes.
const maxUserName = 256

// ReadUsersFile reads and checks a users file.
func ReadUsersFile(path string) (*UsersFile, error) {
	data, err := textfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("users file %s does not exist; make it with `homing passwd NAME --users %s`: %w", path, path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read users file: %w", err)
	}
	f, err := parseUsers(data)
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return f, nil
}

func parseUsers(data []byte) (*UsersFile, error) {
	f := new(UsersFile)
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err := decodeYAML(data, f); err != nil {
		return nil, err
	}
	if _, err := f.saltKey(); err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(f.Users))
	for _, u := range f.Users {
		if err := CheckUserName(u.Name); err != nil {
			return nil, err
		}
		if seen[u.Name] {
			return nil, fmt.Errorf("user %q is there twice; remove one", u.Name)
		}
		seen[u.Name] = true
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("user %q: %w", u.Name, err)
		}
	}
	return f, nil
}

// decodeYAML turns a panic into an error: the YAML package has some for input
// that no person writes, and a broken file must not stop a running server.
func decodeYAML(data []byte, f *UsersFile) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("this YAML cannot be read (%v); write it with `homing passwd`", p)
		}
	}()
	if err := yaml.UnmarshalWithOptions(data, f, yaml.Strict()); err != nil {
		return yamlError(err)
	}
	return nil
}

// yamlError makes one line of an error of the YAML package, without the
// excerpt, which could show secrets.
func yamlError(err error) error {
	var e yaml.Error
	if errors.As(err, &e) && e.GetToken() != nil && e.GetToken().Position != nil {
		return fmt.Errorf("line %d: %s", e.GetToken().Position.Line, e.GetMessage())
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(line)
}

func (u *FileUser) check() error {
	switch {
	case u.Hash != "" && u.Secret != "":
		return errors.New("has both a hash and a secret; remove one")
	case u.Secret != "" && u.SCRAM != "":
		return errors.New("has both scram and a secret, which serves for SCRAM, too; remove scram")
	case u.Hash != "":
		if _, err := checkHash(u.Hash); err != nil || u.SCRAM == "" {
			return err
		}
		_, err := parseSCRAM(u.SCRAM)
		return err
	case u.Secret != "":
		return CheckSecret(u.Secret)
	}
	return errors.New("has neither a hash nor a secret; set a password with `homing passwd`")
}

// CheckUserName says what is wrong with a user name, if anything. | is what
// tells the other ways to log in from users.
func CheckUserName(name string) error {
	switch {
	case name == "":
		return errors.New("a user name is empty; give one")
	case len(name) > maxUserName:
		return fmt.Errorf("user name %.20q... has %d bytes; give one of at most %d", name, len(name), maxUserName)
	case !isText(name) || strings.ContainsRune(name, '|'):
		return fmt.Errorf("%q cannot be a user name; leave out | and control characters", name)
	}
	return nil
}

// CheckSecret says what is wrong with a secret that is kept in clear.
func CheckSecret(secret string) error {
	if secret == "" || !isText(secret) {
		return errors.New("the secret must be UTF-8 text without control characters, and not empty")
	}
	return nil
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// Set adds a user or replaces the one of that name; it reports whether there
// was one.
func (f *UsersFile) Set(u FileUser) (replaced bool) {
	for i := range f.Users {
		if f.Users[i].Name == u.Name {
			f.Users[i] = u
			return true
		}
	}
	f.Users = append(f.Users, u)
	return false
}

// Delete removes a user and reports whether there was one.
func (f *UsersFile) Delete(name string) bool {
	n := len(f.Users)
	f.Users = slices.DeleteFunc(f.Users, func(u FileUser) bool { return u.Name == name })
	return len(f.Users) < n
}

// marshal writes strings in Go's quotes, all of whose escapes YAML has, too.
func (f *UsersFile) marshal() []byte {
	b := []byte("# Written by `homing passwd`, which does not keep comments. Readable by its owner only.\n")
	field := func(prefix, value string) {
		if value != "" {
			b = append(strconv.AppendQuote(append(b, prefix...), value), '\n')
		}
	}
	field("salt-key: ", f.SaltKey)
	b = append(b, "users:"...)
	if len(f.Users) == 0 {
		b = append(b, " []"...)
	}
	b = append(b, '\n')
	for _, u := range f.Users {
		field("  - name: ", u.Name)
		field("    hash: ", u.Hash)
		field("    scram: ", u.SCRAM)
		field("    secret: ", u.Secret)
	}
	return b
}

// Write puts the file in its place at once: a reader sees the old or the new
// content. A new file can be read by its owner only; an existing one keeps its
// owner, and its mode as far as that lets nobody else write or all read.
func (f *UsersFile) Write(path string) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".users-*")
	if err != nil {
		return fmt.Errorf("write users file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write users file: %w", err)
		}
	}()
	if old, err := os.Stat(path); err == nil {
		if err := tmp.Chmod(old.Mode().Perm() & 0o640); err != nil {
			return err
		}
		if err := keepOwner(tmp, old); err != nil {
			return err
		}
	}
	if _, err := tmp.Write(f.marshal()); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
