package main

import (
	"log/slog"
	"strings"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/config"
)

// configFlags are the flags of commands that read the configuration.
type configFlags struct {
	Config string   `short:"c" placeholder:"FILE" help:"YAML file with settings. Also by $$HOMING_CONFIG."`
	Set    []string `sep:"none" placeholder:"KEY=VALUE" help:"Set any setting, like store.sync=os or topics='[a, b]'. May be repeated."`
}

// file is the path of the configuration file; "": there is none.
func (f *configFlags) file(con *console) string {
	if f.Config != "" {
		return f.Config
	}
	return con.env("HOMING_CONFIG")
}

// load reads the configuration from the file, the environment, --set and
// flags, and checks all of it.
func (f *configFlags) load(con *console, flags ...config.Flag) (*config.Config, error) {
	src := config.Sources{File: f.file(con), Env: con.Env, Set: f.Set, Flags: flags}
	cfg, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	options := authOptions(cfg)
	if err := options.Check(); err != nil {
		return nil, &usageError{err}
	}
	return cfg, nil
}

// env returns the value of an environment variable, the last one of several.
func (con *console) env(name string) (value string) {
	for _, e := range con.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// serverFlags are settings that have flags of their own.
type serverFlags struct {
	MQTT         *string `name:"mqtt" placeholder:"ADDR" help:"Address for MQTT over TCP (listen.mqtt)."`
	MQTTS        *string `name:"mqtts" placeholder:"ADDR" help:"Address for MQTT over TLS (listen.mqtts)."`
	WS           *string `name:"ws" placeholder:"ADDR" help:"Address for MQTT over WebSocket (listen.ws)."`
	WSS          *string `name:"wss" placeholder:"ADDR" help:"Address for MQTT over secure WebSocket (listen.wss)."`
	RocketMQ     *string `name:"rocketmq" placeholder:"ADDR" help:"Address for RocketMQ SDKs, remoting (listen.rocketmq)."`
	RocketMQGRPC *string `name:"rocketmq-grpc" placeholder:"ADDR" help:"Address for RocketMQ 5 SDKs, gRPC (listen.rocketmq-grpc)."`
	HTTP         *string `name:"http" placeholder:"ADDR" help:"Address for metrics and health over HTTP (listen.http)."`
	Data         *string `placeholder:"DIR" help:"Directory of stored messages (data)."`
}

// settings returns the flags that were given.
func (f *serverFlags) settings() []config.Flag {
	var given []config.Flag
	for _, flag := range []struct {
		name, key string
		value     *string
	}{
		{"--mqtt", "listen.mqtt", f.MQTT},
		{"--mqtts", "listen.mqtts", f.MQTTS},
		{"--ws", "listen.ws", f.WS},
		{"--wss", "listen.wss", f.WSS},
		{"--rocketmq", "listen.rocketmq", f.RocketMQ},
		{"--rocketmq-grpc", "listen.rocketmq-grpc", f.RocketMQGRPC},
		{"--http", "listen.http", f.HTTP},
		{"--data", "data", f.Data},
	} {
		if flag.value != nil {
			given = append(given, config.Flag{Name: flag.name, Key: flag.key, Value: *flag.value})
		}
	}
	return given
}

// authOptions are the settings that package auth needs.
func authOptions(cfg *config.Config) auth.Options {
	o := auth.Options{
		Anonymous:         cfg.Auth.Anonymous,
		UsersFile:         cfg.Auth.UsersFile,
		UsersFileOptional: cfg.UsersFileIsDefault(),
		Topics:            cfg.Topics,
		GroupClientID:     cfg.ClientID == "group",
		UserClientIDs:     cfg.Auth.ClientID,
		FailuresPerMinute: cfg.Limits.FailedLogins,
	}
	for _, k := range cfg.Auth.AccessKeys {
		o.AccessKeys = append(o.AccessKeys, auth.AccessKey{Key: k.Key, Secret: k.Secret})
	}
	for _, r := range cfg.Auth.Rules {
		o.Rules = append(o.Rules, auth.Rule(r))
	}
	return o
}

// newAuth returns what decides who may connect and do what. The caller closes
// it, and calls Reload on SIGHUP. It fails for what the user wrote.
func newAuth(cfg *config.Config, log *slog.Logger) (*auth.Auth, error) {
	options := authOptions(cfg)
	options.Logger = log
	var err error
	if options.Secured, err = wasSecured(cfg); err != nil {
		return nil, err
	}
	a, err := auth.New(options)
	if err != nil {
		return nil, &usageError{err}
	}
	return a, nil
}

type configCmd struct {
	configFlags
	serverFlags
	ShowSecrets bool `help:"Print secrets, too, not ****** in their place."`
}

func (*configCmd) Help() string {
	return `Prints the settings that "homing serve" would use with the same flags, in the form of the file that
--config reads. Secrets are masked, unless --show-secrets is given.

Example, to start a file of your own:

    homing config >homing.yml`
}

func (c *configCmd) Run(con *console) error {
	cfg, err := c.load(con, c.settings()...)
	if err != nil {
		return err
	}
	text := cfg.MaskedYAML()
	if c.ShowSecrets {
		text = cfg.YAML()
	}
	_, err = con.Out.Write(text)
	return err
}
