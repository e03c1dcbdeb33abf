package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/config"
)

// reloadEvery is how often the files of the configuration are looked at.
const reloadEvery = 2 * time.Second

// reloader reads the configuration again while the server runs. What can count
// without a restart does (tag live of a setting); the rest is named in the log. A
// mistake leaves all as it was. One goroutine uses it.
type reloader struct {
	s        *server
	now      *config.Config // in force
	file     string         // the configuration file; "": none
	load     func() (*config.Config, error)
	insecure bool
	level    *slog.LevelVar
	seen     string // the state of the files when they were read last
}

// run reads the files again when they change, and when asked to, until ctx ends.
func (r *reloader) run(ctx context.Context, asked <-chan os.Signal) {
	r.seen = r.state()
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			r.seen = r.state()
			r.reload()
		case <-tick.C:
			if now := r.state(); now != r.seen {
				r.seen = now
				r.reload()
			}
		}
	}
}

// state tells the files apart from what they were: the configuration and the files of
// secrets, through symbolic links, which is how Kubernetes changes them.
func (r *reloader) state() string {
	var b strings.Builder
	paths := r.now.SecretFiles(r.file)
	if r.file != "" && !slices.Contains(paths, r.file) {
		paths = append(paths, r.file)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
		} else {
			fmt.Fprintf(&b, "%s: %d %v %d\n", path, info.Size(), info.ModTime().UnixNano(), inode(info))
		}
	}
	return b.String()
}

// reload reads the configuration, and puts in force what can be.
func (r *reloader) reload() {
	next, err := r.load()
	if err == nil {
		err = r.apply(next)
	}
	if err != nil {
		r.s.log.Error("the configuration was not read again; the old settings stay in force", "error", err)
		return
	}
	live, restart := config.Changed(r.now, next)
	if len(restart) > 0 {
		r.s.log.Warn("changed settings that need a restart: "+strings.Join(restart, ", "), "settings", len(restart)) //nolint:sloglint // names of settings
	}
	if len(live) > 0 {
		r.now = merged(r.now, next)
	}
	r.s.log.Info("configuration read again", "changed", strings.Join(live, ", "))
	warnReadable(r.s.log, next, r.file)
}

// merged is the configuration in force: what counts at once is new, the rest is as
// it was at the start.
func merged(old, next *config.Config) *config.Config {
	c := *old
	c.Topics, c.ClientID, c.Auth = next.Topics, next.ClientID, next.Auth
	c.Listen.WSOrigins, c.Listen.Hosts = next.Listen.WSOrigins, next.Listen.Hosts
	c.TLS.Cert, c.TLS.Key = next.TLS.Cert, next.TLS.Key
	c.Limits.FailedLogins, c.Log.Level = next.Limits.FailedLogins, next.Log.Level
	return &c
}

// apply puts the settings in force that can be. It fails before anything is changed.
func (r *reloader) apply(next *config.Config) error {
	s := r.s
	exposed := *r.now // the listeners there are, with who would be let in
	exposed.Auth = next.Auth
	anybody := next.Auth.Anonymous || s.auth.Open() && len(next.Auth.AccessKeys) == 0
	if err := config.CheckExposure(&exposed, anybody, r.insecure); err != nil {
		return err
	}
	if s.cert != nil && next.TLS.Cert == "" || s.cert == nil && next.TLS.Cert != "" {
		next.TLS.Cert, next.TLS.Key = r.now.TLS.Cert, r.now.TLS.Key
		s.log.Warn("TLS cannot be turned on or off without a restart")
	}
	if s.cert != nil {
		if err := s.cert.Use(next.TLS.Cert, next.TLS.Key); err != nil {
			return fmt.Errorf("tls.cert: %w", err)
		}
	}
	if err := s.auth.Apply(authOptions(next)); err != nil {
		if s.cert != nil {
			_ = s.cert.Use(r.now.TLS.Cert, r.now.TLS.Key)
		}
		return err
	}
	if err := s.setWeb(next); err != nil { // checked when it was read
		return err
	}
	s.core.SetSessionOwner(ownerPolicies[next.Auth.SessionOwner])
	s.mqtt.SetHideRefusals(next.Auth.HideRefusals)
	s.mqtt.SetResponseTopic(responseTopic(next))
	if s.rocketmq != nil {
		s.rocketmq.SetTopics(next.Topics)
	}
	r.level.Set(levelOf(next.Log))
	return nil
}

// warnReadable logs which files with secrets others of this machine can read.
func warnReadable(log *slog.Logger, cfg *config.Config, file string) {
	if runtime.GOOS == "windows" {
		return
	}
	for _, path := range cfg.SecretFiles(file) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			log.Warn("a file with secrets can be read by other users of this machine; run chmod 600 on it", "file", path, "mode", info.Mode().Perm().String())
		}
	}
}
