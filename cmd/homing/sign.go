package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/config"
)

type signCmd struct {
	configFlags
	Client    string `arg:"" help:"Client ID."`
	AccessKey string `placeholder:"KEY" help:"Access key. Without: the only one of the configuration."`
	Secret    string `placeholder:"SECRET" help:"Its secret; \"-\" reads it from standard input. Without: that of the configuration."`
	Instance  string `default:"homing" placeholder:"ID" help:"Instance ID; the server does not look at it. Without: ${default}."`
}

func (*signCmd) Help() string {
	return `Signature mode is how clients of the original service log in: the password is
Base64(HMAC-SHA1(secret, client ID)), so it is another one for each client.

Example:

    homing sign GID_Test@@@0001 --access-key AK --secret XXXXX`
}

func (c *signCmd) Run(ctx context.Context, con *console) error {
	if c.Client == "" {
		return usagef("the client ID is empty; give one")
	}
	if strings.ContainsRune(c.AccessKey, '|') {
		return usagef("--access-key %s: an access key has no |", c.AccessKey)
	}
	if c.AccessKey == "" || c.Secret == "" {
		cfg, err := c.load(con)
		if err != nil {
			return err
		}
		if err := c.choose(cfg.Auth.AccessKeys); err != nil {
			return err
		}
	}
	if c.Secret == "-" {
		secret, err := readSecret(ctx, con, "Secret of "+c.AccessKey+": ")
		if err != nil {
			return err
		}
		if len(secret) == 0 {
			return usagef("the secret is empty; give one")
		}
		c.Secret = string(secret)
	}
	_, err := fmt.Fprintf(con.Out, "user name: %s\npassword:  %s\n",
		auth.SignatureUser(c.AccessKey, c.Instance), auth.Sign(c.Secret, c.Client))
	return err
}

// choose takes from the configuration what the flags do not say.
func (c *signCmd) choose(keys []config.AccessKey) error {
	if c.AccessKey == "" && len(keys) == 1 {
		c.AccessKey = keys[0].Key
	}
	if c.AccessKey == "" {
		if len(keys) == 0 {
			return usagef("no access key: give --access-key and --secret, or auth.access-keys in the configuration")
		}
		names := make([]string, len(keys))
		for i := range keys {
			names[i] = keys[i].Key
		}
		return usagef("there are several access keys; give --access-key with one of %s", strings.Join(names, ", "))
	}
	if c.Secret != "" {
		return nil
	}
	for _, k := range keys {
		if k.Key == c.AccessKey {
			c.Secret = k.Secret
			return nil
		}
	}
	return usagef("access key %s is not in the configuration; give --secret", c.AccessKey)
}
