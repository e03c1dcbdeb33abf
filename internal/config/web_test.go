package config

import (
	"strings"
	"testing"
)

// TestWebSettings: a mistake in who is known names the setting, the place and what
// would be right.
func TestWebSettings(t *testing.T) {
	for text, want := range map[string]string{
		"ws-origins: [app.example.com]":    "listen.ws-origins must be origins without a path, like https://app.example.com",
		"ws-origins: [\"null\"]":           "listen.ws-origins must not have \"null\"",
		"hosts: [\"mq.example.com:9090\"]": "listen.hosts must be names without scheme and port",
		"hosts: [10.0.0.1]":                "listen.hosts need not have \"10.0.0.1\"",
		"proxy-protocol: [10.0.0.1/8]":     "did you mean 10.0.0.0/8?",
		"proxy-protocol: [lb.example.com]": "listen.proxy-protocol must be addresses of load balancers",
		"ws-origins: [\"https://*.example.com\", \"*\"]\n  hosts: [mq.example.com, \"*.internal\"]\n  proxy-protocol: [10.0.0.0/8, \"fd00::1\"]": "",
	} {
		_, err := loadText(t, "listen:\n  "+text+"\n")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
