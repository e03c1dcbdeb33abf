package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// connectFlags say how send, listen and bench connect.
type connectFlags struct {
	Server    string `default:"tcp://127.0.0.1:1883" placeholder:"URL" help:"Server: tcp://, tls://, ws:// or wss://, host and port (default: ${default})."`
	Version   string `default:"5" enum:"5,3.1.1,3.1" placeholder:"VERSION" help:"MQTT version: ${enum} (default: ${default})."`
	User      string `placeholder:"NAME" help:"User name."`
	Password  string `placeholder:"PASSWORD" help:"Its password; \"-\" reads it from standard input."`
	AccessKey string `placeholder:"KEY" help:"Access key, to log in by signature."`
	Secret    string `placeholder:"SECRET" help:"Its secret; \"-\" reads it from standard input."`
	Instance  string `default:"homing" placeholder:"ID" help:"Instance ID in the user name of a signature, which the server does not look at (default: ${default})."`
	CA        string `name:"ca" placeholder:"FILE" help:"Certificates to trust, in place of the system's (PEM)."`
	Cert      string `placeholder:"FILE" help:"Own certificate (PEM)."`
	Key       string `placeholder:"FILE" help:"Key of the own certificate (PEM)."`
	Insecure  bool   `help:"Do not check the server's certificate."`
}

// connectTime bounds connecting, and waiting for an acknowledgement.
const connectTime = 10 * time.Second

// resolve reads the secrets that come from standard input and checks what
// belongs together.
func (f *connectFlags) resolve(ctx context.Context, con *console) error {
	if (f.AccessKey == "") != (f.Secret == "") {
		return usagef("--access-key and --secret belong together; give both")
	}
	if f.AccessKey != "" && f.User != "" {
		return usagef("--user and --access-key are two ways to log in; give one")
	}
	if strings.ContainsRune(f.AccessKey, '|') {
		return usagef("--access-key %s: an access key has no |", f.AccessKey)
	}
	if (f.Cert == "") != (f.Key == "") {
		return usagef("--cert and --key belong together; give both")
	}
	if err := askFor(ctx, con, "Password of "+f.User, &f.Password); err != nil {
		return err
	}
	return askFor(ctx, con, "Secret of "+f.AccessKey, &f.Secret)
}

// askFor reads a secret that was given as "-".
func askFor(ctx context.Context, con *console, what string, secret *string) error {
	if *secret != "-" {
		return nil
	}
	line, err := readSecret(ctx, con, what+": ")
	*secret = string(line)
	return err
}

// options are the client's options, but for what the command wants of the
// session.
func (f *connectFlags) options(clientID string) (mqttclient.Options, error) {
	o := mqttclient.Options{
		Server:    f.Server,
		Version:   f.version(),
		ClientID:  clientID,
		KeepAlive: time.Minute,
	}
	o.Username, o.Password = f.login(clientID)
	var err error
	o.TLS, err = f.tls()
	return o, err
}

// login returns the user name and the password of a client.
func (f *connectFlags) login(clientID string) (user, password string) {
	if f.AccessKey != "" {
		return auth.SignatureUser(f.AccessKey, f.Instance), auth.Sign(f.Secret, clientID)
	}
	return f.User, f.Password
}

func (f *connectFlags) version() mqtt.Version {
	switch f.Version {
	case "3.1":
		return mqtt.V31
	case "3.1.1":
		return mqtt.V311
	}
	return mqtt.V5
}

func (f *connectFlags) tls() (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: f.Insecure} //nolint:gosec // the user has asked for it
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usagef("--ca %s: there is no certificate in it", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("--cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// dial connects within connectTime.
func dial(ctx context.Context, o mqttclient.Options) (*mqttclient.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTime, fmt.Errorf("no answer within %v", connectTime))
	defer cancel()
	c, err := mqttclient.Dial(ctx, o)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no server answers at %s; is it running?", o.Server)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.Server, err)
	}
	return c, nil
}

// newClientID returns a client ID that nobody else has, short enough for MQTT
// 3.1 (23 characters).
func newClientID(prefix string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}
