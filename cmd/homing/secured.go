package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/homing-mq/homing/internal/config"
)

// securedFile in the data directory remembers that the server has asked for a login.
// If its users file is not found later (another working directory, a volume that is
// not mounted), it does not open to everybody.
const securedFile = "secured"

// checkSecured refuses to open a server that was secured before.
func (s *server) checkSecured() error {
	if !s.auth.Open() || s.cfg.Auth.Anonymous {
		return nil
	}
	path := filepath.Join(s.cfg.Data, securedFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	users := "auth.users-file is off"
	if s.cfg.Auth.UsersFile != "" {
		users = fmt.Sprintf("the users file %s does not exist", s.cfg.Auth.UsersFile)
		if abs, err := filepath.Abs(s.cfg.Auth.UsersFile); err == nil {
			users = fmt.Sprintf("the users file %s does not exist", abs)
		}
	}
	return &config.Error{Text: fmt.Sprintf("this server has asked for a login before, and now there is neither a user nor an access key: %s. "+
		"Give its path (auth.users-file), or to let anybody in, set auth.anonymous to true or delete %s", users, path)}
}

// rememberSecured makes checkSecured know.
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
