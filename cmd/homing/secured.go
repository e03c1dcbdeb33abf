package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/homing-mq/homing/internal/config"
)

// securedFile in the data directory remembers that the server has asked for a login.
// If its users file is not found later (another working directory, a volume that is
// not mounted), it goes on asking, and lets nobody in.
const securedFile = "secured"

// wasSecured reports whether the server has asked for a login before.
func wasSecured(cfg *config.Config) (bool, error) {
	_, err := os.Stat(filepath.Join(cfg.Data, securedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// noteNobody logs that nobody can log in, because what says who may is missing.
func (s *server) noteNobody() {
	if s.auth.Known() || s.cfg.Auth.Anonymous {
		return
	}
	users := "auth.users-file is off"
	if name := s.cfg.Auth.UsersFile; name != "" {
		if abs, err := filepath.Abs(name); err == nil {
			name = abs
		}
		users = "the users file " + name + " does not exist"
	}
	s.log.Error("nobody can log in: this server has asked for a login before, and now there is neither a user nor an access key. "+
		"Give the path of the users file (auth.users-file; it is read as soon as it is there). To let anybody in, set auth.anonymous to true, or delete the file that remembers",
		"missing", users, "remembers", filepath.Join(s.cfg.Data, securedFile))
}

// rememberSecured makes wasSecured know.
func (s *server) rememberSecured() {
	if s.auth.Open() {
		return
	}
	path := filepath.Join(s.cfg.Data, securedFile)
	if _, err := os.Stat(path); err == nil {
		return
	}
	if err := writeDurably(path, []byte("This server has asked for a login. See auth.users-file.\n")); err != nil {
		s.log.Error("cannot remember that a login is needed", "file", path, "error", err)
	}
}

// writeDurably makes a file that is there after a power loss.
func writeDurably(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if dir, derr := os.Open(filepath.Dir(path)); derr == nil {
		_ = dir.Sync() // not every system can
		_ = dir.Close()
	}
	return err
}
