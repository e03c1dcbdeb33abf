package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/homing-mq/homing/internal/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// text is a log.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts a server and returns its address.
func serve(t *testing.T, change func(*Options)) (*Server, string, *text) {
	t.Helper()
	log := &text{}
	opt := Options{Metrics: prometheus.NewRegistry(), Ready: func() error { return nil }, Log: slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(&opt)
	}
	s := New(opt)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return s, l.Addr().String(), log
}

func dial(t *testing.T, addr, send string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	return c
}

// closed waits until the server closes the connection, and returns what it has
// sent.
func closed(t *testing.T, what string, c net.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: still open", what)
	}
	return string(got)
}

// TestHalfOpen: whatever a client leaves undone, its connection ends.
func TestHalfOpen(t *testing.T) {
	s, addr, _ := serve(t, func(o *Options) { o.Time = 300 * time.Millisecond })
	begun := map[string]net.Conn{}
	for name, send := range map[string]string{
		"nothing": "", "half a header": "GET /metrics HTTP/1.1\r\nX: ", "no body": "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n",
		"endless body": "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"nothing more": "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
	} {
		begun[name] = dial(t, addr, send)
	}
	for name, c := range begun {
		closed(t, name, c)
	}
	for end := time.Now().Add(10 * time.Second); s.admission.Limiter.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections have a place", s.admission.Limiter.Open())
		}
	}
}

// TestSlowReader: who does not take the metrics is not waited for.
func TestSlowReader(t *testing.T) {
	metrics := prometheus.NewRegistry()
	for i := range 5000 { // some megabytes, more than the sockets take
		metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: fmt.Sprintf("m%d", i), Help: strings.Repeat("x", 2000)}, func() float64 { return 1 }))
	}
	s, addr, _ := serve(t, func(o *Options) { o.Time, o.Metrics = time.Second, metrics })
	dial(t, addr, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	for end := time.Now().Add(15 * time.Second); s.admission.Limiter.Open() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not accepted")
		}
	}
	for end := time.Now().Add(15 * time.Second); s.admission.Limiter.Open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection stays")
		}
	}
}

// TestConnectionLimit: connections count from accept on, requests or not.
func TestConnectionLimit(t *testing.T) {
	s, addr, log := serve(t, func(o *Options) { o.Time, o.PerAddress = time.Minute, 3 })
	var all []net.Conn
	for range 8 {
		all = append(all, dial(t, addr, "POST /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n"))
	}
	for end := time.Now().Add(10 * time.Second); strings.Count(log.String(), "connection limit reached") != 5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("log: %s", log)
		}
	}
	if n := s.admission.Limiter.Open(); n != 3 {
		t.Errorf("%d are open, 3 may be", n)
	}
	for _, c := range all {
		_ = c.Close()
	}
}

// TestHost: a page that has rebound its name reads nothing; the answer says what to
// do for a name that is the server's.
func TestHost(t *testing.T) {
	_, addr, _ := serve(t, nil)
	for host, want := range map[string]int{"127.0.0.1": 200, "localhost:9090": 200, "10.0.0.5:9090": 200, "evil.example": 403, "evil.example:9090": 403} {
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			c := dial(t, addr, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != want || want == 403 && !strings.Contains(string(body), "listen.hosts") {
				t.Errorf("%s of %s: %d %s", path, host, res.StatusCode, body)
			}
		}
	}
	// HTTP/1.0 without a Host, like the health check of a load balancer.
	if got := closed(t, "HTTP/1.0", dial(t, addr, "GET /healthz HTTP/1.0\r\n\r\n")); !strings.Contains(got, "200 OK") {
		t.Errorf("without a Host: %s", got)
	}
}

// TestOtherProtocols: the first bytes decide, and the log says what they were.
func TestOtherProtocols(t *testing.T) {
	_, addr, log := serve(t, func(o *Options) { o.Time = time.Minute })
	for speaks, first := range map[string]string{
		"MQTT": "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01", "SSH": "SSH-2.0-OpenSSH_9\r\n",
		"listen.proxy-protocol": "PROXY TCP4 1.2.3.4 1.2.3.4 5 6\r\n", "RocketMQ": "\x00\x00\x00\x6a\x00\x00\x00\x60{", "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		closed(t, speaks, dial(t, addr, first))
		if !strings.Contains(log.String(), speaks) {
			t.Errorf("the log does not name %s: %s", speaks, log)
		}
	}
}

// TestProxyProtocol: the limit of an address is that of the client.
func TestProxyProtocol(t *testing.T) {
	s, addr, _ := serve(t, func(o *Options) {
		o.Proxies, _ = gateway.ParseProxies([]string{"127.0.0.1"})
		o.PerAddress = 1
	})
	for i := range 3 {
		c := dial(t, addr, fmt.Sprintf("PROXY TCP4 203.0.113.%d 10.0.0.1 1 2\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", i))
		if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 {
			t.Fatalf("%v %v", res, err)
		}
	}
	if n := s.admission.Limiter.Open(); n != 3 {
		t.Errorf("%d are open", n)
	}
	if got := closed(t, "no header", dial(t, addr, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")); got != "" {
		t.Errorf("answered without a header: %s", got)
	}
}
