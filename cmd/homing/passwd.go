package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/homing-mq/homing/internal/auth"
)

type passwdCmd struct {
	configFlags
	User   string `arg:"" help:"Name of the user."`
	Users  string `placeholder:"FILE" help:"The users file. Without: that of the configuration (auth.users-file)."`
	Delete bool   `help:"Delete the user."`
	Signed bool   `help:"Keep the password in clear, so that clients may also show it signed: Base64(HMAC-SHA1(password, client ID))."`

	ScramIterations *int `placeholder:"N" help:"What a SCRAM-SHA-256 login costs the client, and guessing whoever steals the file: 4096 to 1000000. Without: 15000. 0: this user cannot log in by SCRAM."`
}

func (*passwdCmd) Help() string {
	return `The password is asked for, or read from the first line of standard input. A running server takes the
change within three seconds.

The file gets a bcrypt hash of the password and, for MQTT 5 clients with enhanced authentication, a
SCRAM-SHA-256 credential. A microcontroller may need a second for 15000 iterations.

Examples:

    homing passwd alice
    echo "$PASSWORD" | homing passwd alice --users /etc/homing/users.yml
    homing passwd alice --scram-iterations 4096
    homing passwd alice --delete`
}

func (c *passwdCmd) Run(ctx context.Context, con *console) error {
	if err := auth.CheckUserName(c.User); err != nil {
		return &usageError{err}
	}
	if c.Signed && c.ScramIterations != nil {
		return usagef("with --signed the server makes the SCRAM credential itself; leave out --scram-iterations")
	}
	path, err := c.path(con)
	if err != nil {
		return err
	}
	file, err := auth.ReadUsersFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !c.Delete:
		file = new(auth.UsersFile)
	case err != nil:
		return err
	}
	if c.Delete {
		if !file.Delete(c.User) {
			return fmt.Errorf("there is no user %q in %s", c.User, path)
		}
		return c.write(con, file, path, "deleted from")
	}
	user, err := c.ask(ctx, con, file)
	if err != nil {
		return err
	}
	done := "added to"
	if file.Set(user) {
		done = "changed in"
	}
	return c.write(con, file, path, done)
}

func (c *passwdCmd) path(con *console) (string, error) {
	if c.Users != "" {
		return c.Users, nil
	}
	cfg, err := c.load(con)
	if err != nil {
		return "", err
	}
	if cfg.Auth.UsersFile == "" {
		return "", usagef("auth.users-file is empty, the server has no users file; set it, or give --users FILE")
	}
	return cfg.Auth.UsersFile, nil
}

func (c *passwdCmd) write(con *console, file *auth.UsersFile, path, done string) error {
	if err := file.Write(path); err != nil {
		return err
	}
	_, err := fmt.Fprintf(con.Out, "user %s %s %s\n", c.User, done, path)
	return err
}

// ask returns the user, who is not yet in the file.
func (c *passwdCmd) ask(ctx context.Context, con *console, file *auth.UsersFile) (auth.FileUser, error) {
	user := auth.FileUser{Name: c.User}
	password, err := readSecret(ctx, con, "Password for "+c.User+": ")
	if err != nil {
		return user, err
	}
	if len(password) == 0 {
		return user, usagef("the password is empty; give one")
	}
	if isTerminal(con.In) {
		again, err := readSecret(ctx, con, "The same again: ")
		if err != nil {
			return user, err
		}
		if !bytes.Equal(password, again) {
			return user, usagef("the two passwords differ; try again")
		}
	}
	if c.Signed {
		user.Secret = string(password)
		if err := auth.CheckSecret(user.Secret); err != nil {
			return user, &usageError{err}
		}
		return user, nil
	}
	if user.Hash, err = auth.HashPassword(password); err != nil {
		return user, &usageError{err}
	}
	return user, c.setSCRAM(con, file, &user, password)
}

// setSCRAM adds the SCRAM credential. A password that SCRAM cannot use is no
// mistake, unless SCRAM was asked for.
func (c *passwdCmd) setSCRAM(con *console, file *auth.UsersFile, user *auth.FileUser, password []byte) error {
	iterations := auth.DefaultIterations
	if c.ScramIterations != nil {
		iterations = *c.ScramIterations
	}
	if iterations == 0 {
		return nil
	}
	err := file.SetSCRAM(user, password, iterations)
	switch {
	case errors.Is(err, auth.ErrNotPrepared) && c.ScramIterations == nil:
		_, err = fmt.Fprintf(con.Err, "note: %s cannot log in by SCRAM: %v\n", user.Name, err)
		return err
	case err != nil:
		return &usageError{err}
	}
	return nil
}
