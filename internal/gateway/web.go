package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/logging"
)

// WebPolicy says which web pages may speak to the server through the browser of
// somebody who can reach it. Browsers say whose page it is (Origin), and by which
// name the page has found the server (Host); other programs send no Origin. Its
// methods may be called concurrently.
//
// A page of any site can open a WebSocket to any address, with the rights that the
// place of the browser gives. So while anybody may log in, the Origin must be known.
// A site can also make a name of its own mean the server's address (DNS rebinding);
// its page then is same-origin with the server, so the Host must be known as well.
type WebPolicy struct {
	anybody func() bool
	log     *slog.Logger
	rules   atomic.Pointer[webRules]
	refused atomic.Uint64

	mu    sync.Mutex
	noted map[string]struct{} // what the log has been told since Set
}

type webRules struct {
	origins Origins
	hosts   Hosts
}

// NewWebPolicy makes a policy that knows loopback only. anybody reports whether a
// client gets in without credentials now; nil: always.
func NewWebPolicy(anybody func() bool, log *slog.Logger) *WebPolicy {
	if anybody == nil {
		anybody = func() bool { return true }
	}
	p := &WebPolicy{anybody: anybody, log: logging.Strangers(log)}
	p.Set(Origins{}, Hosts{})
	return p
}

// Set replaces what is known besides loopback; requests that come from now on are
// judged by it.
func (p *WebPolicy) Set(origins Origins, hosts Hosts) {
	p.rules.Store(&webRules{origins, hosts})
	p.mu.Lock()
	p.noted = nil
	p.mu.Unlock()
}

// AdmitWebSocket reports whether a request for a WebSocket may be answered. If not,
// it has answered it. Without a list of origins it only judges while anybody may
// log in: otherwise a page needs the credentials, and those are not in the browser's
// hands.
func (p *WebPolicy) AdmitWebSocket(w http.ResponseWriter, r *http.Request, transport string) bool {
	rules, open := p.rules.Load(), p.anybody()
	host, port, valid := splitHost(r.Host)
	known := rules.hosts.knows(host, valid, r.Host)
	if open && !known {
		return p.refuseHost(w, r, transport)
	}
	if !open && rules.origins.empty() || rules.origins.allow(r, host, port, known) {
		return true
	}
	origin := strings.Join(r.Header.Values("Origin"), ", ")
	remedy := "add it to listen.ws-origins"
	if origin == "null" {
		remedy = "files and sandboxed frames have no origin of their own; serve the page by HTTP"
	}
	if open {
		remedy += `, or let the server ask for a login ("homing passwd NAME")`
	}
	p.refuse(w, transport, "a WebSocket of a web page was refused: its origin is not in listen.ws-origins", "origin", origin,
		fmt.Sprintf("The Origin %q is not allowed: %s.", logging.Clip(origin, maxNamed), remedy))
	return false
}

// AdmitHTTP is AdmitWebSocket for the HTTP port. That has no login, so its Host
// must always be known; pages of other origins cannot read what it answers.
func (p *WebPolicy) AdmitHTTP(w http.ResponseWriter, r *http.Request, transport string) bool {
	host, _, valid := splitHost(r.Host)
	if p.rules.Load().hosts.knows(host, valid, r.Host) {
		return true
	}
	return p.refuseHost(w, r, transport)
}

func (p *WebPolicy) refuseHost(w http.ResponseWriter, r *http.Request, transport string) bool {
	p.refuse(w, transport, "a request was refused: its host is not in listen.hosts", "host", r.Host,
		fmt.Sprintf("The Host %q is not known here: add its name to listen.hosts, or use the server's IP address.", logging.Clip(r.Host, maxNamed)))
	return false
}

// Refused is how many requests were not admitted so far.
func (p *WebPolicy) Refused() uint64 { return p.refused.Load() }

const (
	maxNamed = 200 // bytes of what a stranger names
	maxNoted = 256 // strangers can name more than anybody wants to read
)

func (p *WebPolicy) refuse(w http.ResponseWriter, transport, message, key, named, text string) {
	p.refused.Add(1)
	if p.notes(transport + " " + key + " " + logging.Clip(named, maxNamed)) {
		p.log.Warn(message, "transport", transport, key, logging.Clip(named, maxNamed)) //nolint:sloglint // the messages are constants of the callers
	}
	w.Header().Set("Connection", "close")
	http.Error(w, text, http.StatusForbidden)
}

// notes reports whether the log has not been told yet.
func (p *WebPolicy) notes(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, told := p.noted[what]; told || len(p.noted) >= maxNoted {
		return false
	}
	if p.noted == nil {
		p.noted = make(map[string]struct{})
	}
	p.noted[what] = struct{}{}
	return true
}

// Hosts are names by which the server is known.
type Hosts struct{ list []pattern }

// ParseHosts reads names like mq.example.com, *.example.com for all below, and *
// for any. Its errors go on after the setting's name.
func ParseHosts(list []string) (h Hosts, err error) {
	for _, text := range list {
		p, ok := parsePattern(text)
		switch {
		case ok && isIP(p.host):
			return h, fmt.Errorf("need not have %q: an IP address is always allowed, as no site can make it mean another server", text)
		case !ok:
			return h, fmt.Errorf("must be names without scheme and port, like mq.example.com, *.example.com or *, not %q", text)
		}
		h.list = append(h.list, p)
	}
	return h, nil
}

// knows reports whether a request may name this host. A browser always names one.
func (h Hosts) knows(host string, valid bool, header string) bool {
	return header == "" || valid && (isLoopback(host) || isIP(host) || slices.ContainsFunc(h.list, func(p pattern) bool { return p.matches(host) }))
}

// Origins are sites whose pages may speak to the server.
type Origins struct{ list []origin }

func (o Origins) empty() bool { return len(o.list) == 0 }

// origin is the scheme, host and port of a page.
type origin struct {
	scheme string
	host   pattern
	port   string // "": none is given, and the scheme has no default
}

var errNull = errors.New(`must not have "null": any site can make such a page; use "*" to allow all`)

// ParseOrigins reads origins like https://app.example.com, https://*.example.com
// for all below, and * for any. Its errors go on after the setting's name.
func ParseOrigins(list []string) (o Origins, err error) {
	for _, text := range list {
		if text == "*" {
			o.list = append(o.list, origin{scheme: "*"})
			continue
		}
		if strings.EqualFold(text, "null") {
			return o, errNull
		}
		one, ok := parseOrigin(text, parsePattern)
		if !ok || one.host.host == "" {
			return o, fmt.Errorf("must be origins without a path, like https://app.example.com, http://10.0.0.5:3000, https://*.example.com or *, not %q", text)
		}
		o.list = append(o.list, one)
	}
	return o, nil
}

// parseOrigin reads SCHEME://HOST[:PORT].
func parseOrigin(text string, read func(string) (pattern, bool)) (o origin, ok bool) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found || scheme == "" || strings.ContainsFunc(scheme, notOfScheme) {
		return o, false
	}
	o.scheme = strings.ToLower(scheme)
	host := rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		host, o.port = rest[:i], rest[i+1:]
		if o.port == "" || strings.ContainsFunc(o.port, func(c rune) bool { return c < '0' || c > '9' }) {
			return o, false
		}
	} else {
		o.port = defaultPorts[o.scheme]
	}
	o.host, ok = read(host)
	return o, ok
}

func notOfScheme(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '+' && c != '-' && c != '.'
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// allow reports whether the page that a request comes from may speak to the
// server, which it has found as host and port; known says that it is one of ours.
func (o Origins) allow(r *http.Request, host, port string, known bool) bool {
	named := r.Header.Values("Origin")
	if len(named) == 0 || len(named) == 1 && named[0] == "" {
		return true // not a page: browsers name one
	}
	for _, x := range o.list {
		if x.scheme == "*" {
			return true
		}
	}
	if len(named) > 1 {
		return false
	}
	page, ok := parseOrigin(named[0], parseName)
	if !ok {
		return false
	}
	if web := defaultPorts[page.scheme] != ""; web && (isLoopback(page.host.host) || known && sameOrigin(page, host, port, r.TLS != nil)) {
		return true
	}
	return slices.ContainsFunc(o.list, func(x origin) bool {
		return x.scheme == page.scheme && x.port == page.port && x.host.matches(page.host.host)
	})
}

// sameOrigin reports whether a page comes from the host and port that it speaks
// to. Without a port it is the default one of the scheme; which, a server without
// TLS cannot tell, as a proxy may have taken it away.
func sameOrigin(page origin, host, port string, secure bool) bool {
	if page.host.host != host || secure && page.scheme != "https" {
		return false
	}
	return port == page.port || port == "" && page.port == defaultPorts[page.scheme]
}

// pattern is a host name, in lower case and without a dot at its end, or an IP
// address.
type pattern struct {
	any   bool
	below bool // all names below host, not host itself
	host  string
}

func (p pattern) matches(host string) bool {
	switch {
	case p.any:
		return true
	case p.below:
		return strings.HasSuffix(host, "."+p.host)
	}
	return host == p.host
}

// parsePattern reads *, *.NAME, NAME or an IP address.
func parsePattern(text string) (p pattern, ok bool) {
	if text == "*" {
		return pattern{any: true}, true
	}
	name, below := strings.CutPrefix(text, "*.")
	p, ok = parseName(name)
	p.below = below
	return p, ok && !(below && isIP(p.host))
}

// parseName reads a name or an IP address; IPv6 in brackets.
func parseName(text string) (p pattern, ok bool) {
	host, port, ok := splitHost(text)
	return pattern{host: host}, ok && port == "" && !strings.HasSuffix(text, ":")
}

// splitHost reads what a Host header has: a name or an IP address, and a port if
// there is one. The host is in the form of a pattern.
func splitHost(text string) (host, port string, ok bool) {
	if inner, bracketed := strings.CutPrefix(text, "["); bracketed {
		inner, port, found := strings.Cut(inner, "]")
		inner, _, _ = strings.Cut(inner, "%") // the zone is of the client's machine
		ip, err := netip.ParseAddr(inner)
		if !found || err != nil || !ip.Is6() || port != "" && port[0] != ':' {
			return "", "", false
		}
		return ip.String(), strings.TrimPrefix(port, ":"), true
	}
	host, port, _ = strings.Cut(text, ":")
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), port, true
	}
	return host, port, host != "" && !strings.ContainsFunc(host, notOfName)
}

// notOfName reports whether a character is in no host name. Browsers send names in
// other scripts as xn--.
func notOfName(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isLoopback reports whether a host is this machine for everybody: localhost and
// the names below it, which nobody can register, and loopback addresses.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
