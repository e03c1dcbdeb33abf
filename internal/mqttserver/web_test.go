package mqttserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ownCertificate is a TLS configuration for tests.
func ownCertificate(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// ports are a gateway's listeners of all four kinds.
type ports struct {
	s                 *Server
	tcp, tls, ws, wss string
	log               *lines
	seen              chan mq.Credentials
}

// seeing is auth that tells who has come.
type seeing struct {
	auth
	seen chan mq.Credentials
}

func (a seeing) Authenticate(ctx context.Context, c *mq.Credentials) (*mq.Principal, error) {
	a.seen <- *c
	return a.auth.Authenticate(ctx, c)
}

func servePorts(t *testing.T, change func(*Options)) *ports {
	t.Helper()
	p := &ports{log: &lines{}, seen: make(chan mq.Credentials, 100)}
	p.s, p.tcp = serve(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(p.log, nil))
		o.Auth = seeing{seen: p.seen}
		if change != nil {
			change(o)
		}
	})
	conf := ownCertificate(t)
	listen := func() (net.Listener, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l, l.Addr().String()
	}
	var l net.Listener
	l, p.tls = listen()
	p.s.Serve(l, conf)
	l, p.ws = listen()
	p.s.ServeWebSocket(l, nil)
	l, p.wss = listen()
	p.s.ServeWebSocket(l, conf)
	return p
}

// TestOriginAndHost: foreign pages, and pages that have rebound their name, open no
// WebSocket; the answer and the log say why, and no CONNECT is looked at. The table
// of the rules is gateway.TestWebPolicy.
func TestOriginAndHost(t *testing.T) {
	open := true
	var policy *gateway.WebPolicy
	p := servePorts(t, func(o *Options) {
		policy = gateway.NewWebPolicy(func() bool { return open }, o.Log)
		o.Web = policy
	})
	try := func(host, origin string) (code int, body string) {
		t.Helper()
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, res, err := websocket.Dial(t.Context(), "ws://"+p.ws+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}, Host: host, HTTPHeader: header})
		if err == nil {
			_ = ws.CloseNow()
		} else if res != nil {
			b, _ := io.ReadAll(res.Body)
			body = string(b)
		}
		if res == nil {
			t.Fatal(err)
		}
		return res.StatusCode, body
	}
	for _, tt := range []struct {
		host, origin string
		code         int
		says         string
	}{
		{p.ws, "", 101, ""},
		{p.ws, "http://" + p.ws, 101, ""},
		{p.ws, "http://localhost:3000", 101, ""},
		{p.ws, "https://evil.example", 403, "listen.ws-origins"},
		{p.ws, "null", 403, "null"},
		{"rebind.evil.example:8083", "http://rebind.evil.example:8083", 403, "listen.hosts"},
	} {
		code, body := try(tt.host, tt.origin)
		if code != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("Host %s Origin %s: %d %s", tt.host, tt.origin, code, body)
		}
		if tt.origin != "" && tt.code == 403 && tt.host == p.ws && !strings.Contains(p.log.String(), tt.origin) {
			t.Errorf("the log does not name %s: %s", tt.origin, p.log)
		}
	}
	origins, err := gateway.ParseOrigins([]string{"https://app.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	policy.Set(origins, gateway.Hosts{})
	if code, body := try(p.ws, "https://app.example.com"); code != 101 {
		t.Errorf("an origin that was listed meanwhile: %d %s", code, body)
	}
	policy.Set(gateway.Origins{}, gateway.Hosts{})
	open = false
	if code, body := try("any.example", "https://evil.example"); code != 101 {
		t.Errorf("though a login is needed: %d %s", code, body)
	}
}

// TestOtherProtocols: on each port the first bytes end what is not its protocol, at
// once, and the log says what it was.
func TestOtherProtocols(t *testing.T) {
	p := servePorts(t, func(o *Options) { o.ConnectTimeout = time.Minute })
	spoken := map[string]string{
		"HTTP": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "SSH": "SSH-2.0-OpenSSH_9\r\n",
		"listen.proxy-protocol": "PROXY TCP4 127.0.0.1 127.0.0.1 5 6\r\n", "RocketMQ": "\x00\x00\x00\x6a\x00\x00\x00\x60{\"code\"",
		"HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "MQTT": "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
		"the PROXY protocol": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + strings.Repeat("\x01", 12),
	}
	for port, serves := range map[string]string{p.tcp: "MQTT", p.tls: "TLS", p.ws: "HTTP", p.wss: "TLS"} {
		for speaks, first := range spoken {
			if speaks == serves {
				continue
			}
			before := len(p.log.String())
			c := dial(t, port, mqtt.V311)
			c.raw([]byte(first))
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s on the port for %s: still open", speaks, serves)
			}
			want := "the client speaks " + speaks
			if speaks == "listen.proxy-protocol" {
				want = speaks
			}
			until(t, "the log says "+want+" on the port for "+serves, func() bool { return strings.Contains(p.log.String()[before:], want) })
		}
	}
}

// TestHalfOpenWebSocket: requests that never end do, and count in the limits until
// then.
func TestHalfOpenWebSocket(t *testing.T) {
	p := servePorts(t, func(o *Options) { o.ConnectTimeout, o.PerAddress = time.Second, 6 })
	begun := time.Now()
	all := map[string]*peer{}
	for name, send := range map[string]string{
		"nothing": "", "half a header": "GET /mqtt HTTP/1.1\r\nX: ",
		"no body":                "POST /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n",
		"no body, no such path":  "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n",
		"no body, foreign":       "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 200000\r\n\r\n",
		"WebSocket, then silent": upgradeRequest,
	} {
		c := dial(t, p.ws, mqtt.V311)
		c.raw([]byte(send))
		all[name] = c
	}
	until(t, "the limit is reached", func() bool { return p.s.Connections() >= 4 })
	for name, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open after %v", name, time.Since(begun))
		}
	}
	waitClosed(t, p.s)
	if n := p.s.Connections(); n != 0 {
		t.Errorf("%d have a place", n)
	}
}

const upgradeRequest = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

// TestConnectTimeCountsFromAccept: a slow request for a WebSocket leaves less time
// for the CONNECT.
func TestConnectTimeCountsFromAccept(t *testing.T) {
	const limit = 2 * time.Second
	p := servePorts(t, func(o *Options) { o.ConnectTimeout = limit })
	begun := time.Now()
	c := dial(t, p.ws, mqtt.V311)
	half := len(upgradeRequest) / 2
	c.raw([]byte(upgradeRequest[:half]))
	for time.Since(begun) < limit*3/4 { // a slow client is what is tested
		time.Sleep(limit / 20)
	}
	c.raw([]byte(upgradeRequest[half:]))
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, _ := io.ReadAll(c)
	if took := time.Since(begun); took > limit*3/2 || !strings.Contains(string(got), "101") {
		t.Errorf("open for %v, %q", took, got)
	}
}

// TestProxyProtocol: on each kind of listener the client's address is that of the
// header: for the authenticator, the log and the limit. CONNECT comes in the same
// piece as the header.
func TestProxyProtocol(t *testing.T) {
	p := servePorts(t, func(o *Options) {
		o.Proxies, _ = gateway.ParseProxies([]string{"127.0.0.0/8"})
		o.PerAddress = 1
	})
	for i, port := range []string{p.tcp, p.tls, p.ws, p.wss} {
		client := netip.AddrFrom4([4]byte{203, 0, 113, byte(i + 1)})
		nc, err := net.Dial("tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		var over net.Conn = &headed{Conn: nc, header: fmt.Sprintf("PROXY TCP4 %s 10.0.0.1 12345 1883\r\n", client)}
		if port == p.tls || port == p.wss {
			over = tls.Client(over, &tls.Config{InsecureSkipVerify: true})
		}
		if port == p.ws || port == p.wss {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			t.Cleanup(cancel)
			ws, _, err := websocket.Dial(ctx, "ws://127.0.0.1/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: &http.Client{
				Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return over, nil }}}})
			if err != nil {
				t.Fatal(err)
			}
			over = websocket.NetConn(ctx, ws, websocket.MessageBinary)
		}
		t.Cleanup(func() { _ = over.Close() })
		c := &peer{Conn: over, t: t, v: mqtt.V311}
		c.send(&mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte(client.String())}, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("t"), QoS: 1}}})
		c.expectConnack(0)
		c.expect(mqtt.SUBACK, func(byte, []byte) error { return nil })
		if who := <-p.seen; who.Remote != client {
			t.Errorf("port %d: the authenticator is told %v, want %v", i, who.Remote, client)
		}
	}
	if n := p.s.Connections(); n != 4 {
		t.Errorf("%d connections", n)
	}
	// The same address has its one connection already.
	second := dial(t, p.tcp, mqtt.V311)
	second.raw([]byte("PROXY TCP4 203.0.113.1 10.0.0.1 12346 1883\r\n"))
	if _, _, err := second.next(); err == nil {
		t.Error("a second connection of one address is let in")
	}
	until(t, "the log names the client", func() bool { return strings.Contains(p.log.String(), "203.0.113.1:12346") })
	// Who sends no header may be anybody.
	bare := dial(t, p.tcp, mqtt.V311)
	bare.raw((&mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("bare")}).Append(nil, mqtt.V311))
	if _, _, err := bare.next(); err == nil {
		t.Error("let in without a header")
	}
	until(t, "the refusal is counted", func() bool { return p.s.Stats.Misled.Load() == 1 })
}

// headed is a connection that begins with a header, in one piece with what is
// written first.
type headed struct {
	net.Conn
	header string
}

func (h *headed) Write(b []byte) (int, error) {
	if h.header == "" {
		return h.Conn.Write(b)
	}
	header := h.header
	h.header = "" // first: the answer may be here before Write returns
	n, err := h.Conn.Write(append([]byte(header), b...))
	return max(n-len(header), 0), err
}

// TestProxyAddressLeaves: the place of a client behind a load balancer is given back
// for its address.
func TestProxyAddressLeaves(t *testing.T) {
	p := servePorts(t, func(o *Options) {
		o.Proxies, _ = gateway.ParseProxies([]string{"127.0.0.1/32"})
		o.PerAddress = 1
	})
	for range 3 {
		c := dial(t, p.tcp, mqtt.V311)
		c.raw([]byte("PROXY TCP4 203.0.113.1 10.0.0.1 12345 1883\r\n"))
		c.send(&mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("dev")})
		c.expectConnack(0)
		c.send(&mqtt.Disconnect{})
		if _, _, err := c.next(); err != io.EOF {
			t.Errorf("%v", err)
		}
		waitClosed(t, p.s)
	}
}
