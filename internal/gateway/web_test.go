package gateway

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWebPolicy is the table: who may log in, what is configured, Host and Origin.
func TestWebPolicy(t *testing.T) {
	const none = "-" // no such header
	for _, tt := range []struct {
		host, origin string
		secured      bool
		tls          bool
		origins      []string
		hosts        []string
		want         bool
	}{
		// Anybody may log in.
		{host: "127.0.0.1:8083", origin: none, want: true},
		{host: "127.0.0.1:8083", origin: "", want: true},
		{host: "127.0.0.1:8083", origin: "http://127.0.0.1:8083", want: true},
		{host: "127.0.0.1:8083", origin: "http://localhost:3000", want: true},
		{host: "127.0.0.1:8083", origin: "https://LOCALHOST", want: true},
		{host: "127.0.0.1:8083", origin: "http://app.localhost:5173", want: true},
		{host: "127.0.0.1:8083", origin: "http://127.8.8.8", want: true},
		{host: "127.0.0.1:8083", origin: "http://[::1]:3000", want: true},
		{host: "127.0.0.1:8083", origin: "http://[::ffff:127.0.0.1]:3000", want: true},
		{host: "127.0.0.1:8083", origin: "https://evil.example"},
		{host: "127.0.0.1:8083", origin: "null"},
		{host: "127.0.0.1:8083", origin: "file://"},
		{host: "127.0.0.1:8083", origin: "file://localhost"},
		{host: "127.0.0.1:8083", origin: "chrome-extension://localhost"},
		{host: "127.0.0.1:8083", origin: "http://localhost.evil.example"},
		{host: "127.0.0.1:8083", origin: "http://evillocalhost"},
		{host: "127.0.0.1:8083", origin: "http://127.0.0.1.evil.example:8083"},
		{host: "127.0.0.1:8083", origin: "http://localhost:3000/path"},
		{host: "127.0.0.1:8083", origin: "http://localhost@evil.example"},
		{host: "127.0.0.1:8083", origin: "http://evil.example@localhost"},
		{host: "127.0.0.1:8083", origin: "http://localhost http://evil.example"},
		{host: "127.0.0.1:8083", origin: "http://"},
		{host: "127.0.0.1:8083", origin: "http://localhost:"},
		{host: "127.0.0.1:8083", origin: "://localhost"},
		{host: "localhost:8083", origin: none, want: true},
		{host: "LocalHost.:8083", origin: "http://localhost.:8083", want: true},
		{host: "[::1]:8083", origin: "http://[0:0:0:0:0:0:0:1]:8083", want: true},
		{host: "rebind.evil.example:8083", origin: "http://rebind.evil.example:8083"},
		{host: "rebind.evil.example:8083", origin: none},
		{host: "127.0.0.1.evil.example", origin: none},
		{host: "127.1", origin: none},
		{host: "", origin: none, want: true}, // no browser
		{host: "[::1", origin: none},
		{host: "[evil.example]:1", origin: none},
		{host: "evil.example\\127.0.0.1", origin: none},
		// An IP address cannot be made to mean another server.
		{host: "10.0.0.5:8083", origin: none, want: true},
		{host: "10.0.0.5:8083", origin: "http://10.0.0.5:8083", want: true},
		{host: "10.0.0.5:8083", origin: "http://10.0.0.5"},
		{host: "10.0.0.5:8083", origin: "http://10.0.0.6:8083"},
		{host: "[fe80::1%25eth0]:8083", origin: none, want: true},
		// Names that are configured; the page is there, too, or is listed.
		{host: "mq.example.com:8083", origin: none, hosts: []string{"mq.example.com"}, want: true},
		{host: "MQ.example.com.:8083", origin: none, hosts: []string{"mq.EXAMPLE.com."}, want: true},
		{host: "mq.example.com", origin: "https://mq.example.com", hosts: []string{"mq.example.com"}, want: true},
		{host: "mq.example.com", origin: "https://mq.example.com:443", hosts: []string{"mq.example.com"}, want: true},
		{host: "mq.example.com", origin: "http://mq.example.com", hosts: []string{"mq.example.com"}, want: true},
		{host: "mq.example.com", origin: "http://mq.example.com", hosts: []string{"mq.example.com"}, tls: true},
		{host: "mq.example.com:8084", origin: "https://mq.example.com:8084", hosts: []string{"mq.example.com"}, tls: true, want: true},
		{host: "mq.example.com:8083", origin: "http://mq.example.com", hosts: []string{"mq.example.com"}},
		{host: "mq.example.com:8083", origin: "https://evil.example", hosts: []string{"mq.example.com"}},
		{host: "a.example.com", origin: none, hosts: []string{"*.example.com"}, want: true},
		{host: "example.com", origin: none, hosts: []string{"*.example.com"}},
		{host: "evilexample.com", origin: none, hosts: []string{"*.example.com"}},
		{host: "any.name", origin: none, hosts: []string{"*"}, want: true},
		{host: "any.name", origin: "https://evil.example", hosts: []string{"*"}},
		{host: "127.0.0.1", origin: "https://app.example.com", origins: []string{"https://app.example.com"}, want: true},
		{host: "127.0.0.1", origin: "https://app.example.com:443", origins: []string{"https://app.example.com"}, want: true},
		{host: "127.0.0.1", origin: "http://app.example.com", origins: []string{"https://app.example.com"}},
		{host: "127.0.0.1", origin: "https://app.example.com:8443", origins: []string{"https://app.example.com"}},
		{host: "127.0.0.1", origin: "https://x.app.example.com", origins: []string{"https://app.example.com"}},
		{host: "127.0.0.1", origin: "https://x.example.com", origins: []string{"https://*.example.com"}, want: true},
		{host: "127.0.0.1", origin: "https://example.com", origins: []string{"https://*.example.com"}},
		{host: "127.0.0.1", origin: "capacitor://localhost", origins: []string{"capacitor://localhost"}, want: true},
		{host: "127.0.0.1", origin: "https://evil.example", origins: []string{"*"}, want: true},
		{host: "127.0.0.1", origin: "null", origins: []string{"*"}, want: true},
		{host: "evil.example", origin: "null", origins: []string{"*"}},
		// A login is needed: a page would need the credentials.
		{host: "127.0.0.1:8083", origin: "https://evil.example", secured: true, want: true},
		{host: "rebind.evil.example", origin: "http://rebind.evil.example", secured: true, want: true},
		{host: "mq.example.com", origin: "null", secured: true, want: true},
		// Then a list of origins is one nevertheless.
		{host: "mq.example.com", origin: "https://app.example.com", secured: true, origins: []string{"https://app.example.com"}, want: true},
		{host: "mq.example.com", origin: "https://evil.example", secured: true, origins: []string{"https://app.example.com"}},
		{host: "mq.example.com", origin: none, secured: true, origins: []string{"https://app.example.com"}, want: true},
		{host: "rebind.evil.example", origin: "http://rebind.evil.example", secured: true, origins: []string{"https://app.example.com"}},
		{host: "10.0.0.5", origin: "http://10.0.0.5", secured: true, origins: []string{"https://app.example.com"}, want: true},
	} {
		p := NewWebPolicy(func() bool { return !tt.secured }, slog.New(slog.DiscardHandler))
		origins, err := ParseOrigins(tt.origins)
		if err != nil {
			t.Fatal(err)
		}
		hosts, err := ParseHosts(tt.hosts)
		if err != nil {
			t.Fatal(err)
		}
		p.Set(origins, hosts)
		r := httptest.NewRequest(http.MethodGet, "/mqtt", nil)
		r.Host = tt.host
		if tt.origin != none {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		if got := p.AdmitWebSocket(w, r, "ws"); got != tt.want {
			t.Errorf("Host %q Origin %q, secured %v, TLS %v, origins %v, hosts %v: admitted %v", tt.host, tt.origin, tt.secured, tt.tls, tt.origins, tt.hosts, got)
		}
		if body := w.Body.String(); !tt.want && (w.Code != http.StatusForbidden || tt.origin != "null" && !strings.Contains(body, "listen.ws-origins") && !strings.Contains(body, "listen.hosts")) {
			t.Errorf("Host %q Origin %q: %d %s", tt.host, tt.origin, w.Code, body)
		}
	}
}

// TestTwoOrigins: no browser sends two.
func TestTwoOrigins(t *testing.T) {
	p := NewWebPolicy(nil, slog.New(slog.DiscardHandler))
	r := httptest.NewRequest(http.MethodGet, "/mqtt", nil)
	r.Host = "127.0.0.1"
	r.Header["Origin"] = []string{"http://localhost", "https://evil.example"}
	if p.AdmitWebSocket(httptest.NewRecorder(), r, "ws") {
		t.Error("admitted")
	}
}

// TestWebPolicyHTTP: the HTTP port knows no login, so its Host is always judged.
func TestWebPolicyHTTP(t *testing.T) {
	secured := func() bool { return false }
	p := NewWebPolicy(secured, slog.New(slog.DiscardHandler))
	ask := func(host string) bool {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = host
		return p.AdmitHTTP(httptest.NewRecorder(), r, "http")
	}
	for host, want := range map[string]bool{
		"127.0.0.1:9090": true, "localhost:9090": true, "10.0.0.5:9090": true, "[2001:db8::1]:9090": true, "": true,
		"evil.example": false, "homing:9090": false,
	} {
		if ask(host) != want {
			t.Errorf("Host %q: want %v", host, want)
		}
	}
	hosts, _ := ParseHosts([]string{"homing"})
	p.Set(Origins{}, hosts)
	if !ask("homing:9090") {
		t.Error("a configured name is refused")
	}
}

// TestWebPolicyChanges: a user that appears, and a new list, count from the next
// request on.
func TestWebPolicyChanges(t *testing.T) {
	open := true
	p := NewWebPolicy(func() bool { return open }, slog.New(slog.DiscardHandler))
	ask := func() bool {
		r := httptest.NewRequest(http.MethodGet, "/mqtt", nil)
		r.Host = "127.0.0.1"
		r.Header.Set("Origin", "https://app.example.com")
		return p.AdmitWebSocket(httptest.NewRecorder(), r, "ws")
	}
	if ask() {
		t.Error("a foreign page is admitted")
	}
	open = false
	if !ask() {
		t.Error("refused though a login is needed")
	}
	open = true
	origins, _ := ParseOrigins([]string{"https://app.example.com"})
	p.Set(origins, Hosts{})
	if !ask() {
		t.Error("refused though it is listed")
	}
	p.Set(Origins{}, Hosts{})
	if ask() {
		t.Error("admitted though it is not listed any more")
	}
}

// TestWebPolicyLog: the log has one line for each name, and strangers cannot fill
// it with names.
func TestWebPolicyLog(t *testing.T) {
	var log bytes.Buffer
	p := NewWebPolicy(nil, slog.New(slog.NewTextHandler(&log, nil)))
	ask := func(origin string) {
		r := httptest.NewRequest(http.MethodGet, "/mqtt", nil)
		r.Host = "127.0.0.1"
		r.Header.Set("Origin", origin)
		p.AdmitWebSocket(httptest.NewRecorder(), r, "ws")
	}
	for range 10 {
		ask("https://evil.example")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "https://evil.example") {
		t.Errorf("%d lines: %s", n, log.String())
	}
	for i := range 10000 {
		ask(fmt.Sprintf("https://%d.evil.example/%s", i, strings.Repeat("x", 1000)))
	}
	if n := log.Len(); n > 60<<10 {
		t.Errorf("10 000 names wrote %d bytes", n)
	}
	if n := p.Refused(); n != 10010 {
		t.Errorf("%d requests are counted", n)
	}
	if len(p.noted) > maxNoted {
		t.Errorf("%d names are held", len(p.noted))
	}
}

func TestWebSettings(t *testing.T) {
	for _, bad := range []string{"", "app.example.com", "https://", "https://a/b", "https://a:x", "https://a:", "null", "https://*", "https://*.10.0.0.1", "https://ü.example", "ht tp://a"} {
		if _, err := ParseOrigins([]string{bad}); err == nil {
			t.Errorf("origin %q is taken", bad)
		}
	}
	for _, bad := range []string{"", "https://a", "a:80", "10.0.0.1", "[::1]", "a/b", "*.", "**", "ü.example", "a b"} {
		if _, err := ParseHosts([]string{bad}); err == nil {
			t.Errorf("host %q is taken", bad)
		}
	}
}
