package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/config"
)

// TestWarnAtStart: what is allowed, but may not be meant, is said at the start.
func TestWarnAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "homing.yml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*config.Config)
		want   string // "": nothing
	}{
		{"default", func(*config.Config) {}, ""},
		{"HTTP on all interfaces", func(c *config.Config) { c.Listen.HTTP = ":9090" }, "listen.http needs no login"},
		{"HTTP on an address", func(c *config.Config) { c.Listen.HTTP = "192.0.2.1:9090" }, "listen.http needs no login"},
		{"HTTP on IPv6 loopback", func(c *config.Config) { c.Listen.HTTP = "[::1]:9090" }, ""},
		{"no HTTP", func(c *config.Config) { c.Listen.HTTP = "" }, ""},
		{"RSA", func(c *config.Config) { c.TLS.RSA = true }, "tls.rsa-key-exchange is on"},
		{"a secret that others can read", func(c *config.Config) { c.Auth.AccessKeys = []config.AccessKey{{Key: "AK", Secret: "s3cret"}} }, "run chmod 600 on it"},
	} {
		if runtime.GOOS == "windows" && strings.Contains(c.want, "chmod") {
			continue
		}
		cfg := config.Default()
		cfg.Data = t.TempDir()
		c.change(cfg)
		a, err := auth.New(auth.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s := &server{cfg: cfg, auth: a, log: slog.New(slog.NewTextHandler(&log, nil))}
		s.warnAtStart(file)
		a.Close()
		if got := log.String(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) || strings.Contains(got, "s3cret") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
