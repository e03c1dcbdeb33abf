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
}

func (*passwdCmd) Help() string {
	return `The password is asked for, or read from the first line of standard input. A running server takes the
change within three seconds.

Examples:

    homing passwd alice
    echo "$PASSWORD" | homing passwd alice --users /etc/homing/users.yml
    homing passwd alice --delete`
}

func (c *passwdCmd) Run(ctx context.Context, con *console) error {
	if err := auth.CheckUserName(c.User); err != nil {
		return &usageError{err}
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
	user, err := c.ask(ctx, con)
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

func (c *passwdCmd) ask(ctx context.Context, con *console) (auth.FileUser, error) {
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
	return user, nil
}
