package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// headerV2 is a header of version 2.
func headerV2(command, family byte, block string) string {
	b := append([]byte(signatureV2), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(block)))) + block
}

const (
	block4 = "\xcb\x00\x71\x07\x0a\x00\x00\x01\x30\x39\x07\x5b" // 203.0.113.7:12345
	block6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x30\x39\x07\x5b"
)

type started struct {
	nc     net.Conn
	remote netip.AddrPort
}

// accepting serves loopback connections with an Admission.
func accepting(t *testing.T, a *Admission) (addr string, began chan started) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began = make(chan started, 100)
	served := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(served)
		a.Serve(ctx, l, func(nc net.Conn, remote netip.AddrPort) { began <- started{nc, remote} })
	}()
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		<-served
	})
	return l.Addr().String(), began
}

// TestProxyHeader: each form of a header, in one piece and byte by byte, with what
// the client sends right behind it, of which not a byte is lost.
func TestProxyHeader(t *testing.T) {
	const self, bad = "self", "bad"
	for name, tt := range map[string]struct{ header, want string }{
		"v1 IPv4":              {"PROXY TCP4 203.0.113.7 10.0.0.1 12345 1883\r\n", "203.0.113.7:12345"},
		"v1 IPv6":              {"PROXY TCP6 2001:db8::7 2001:db8::1 12345 1883\r\n", "[2001:db8::7]:12345"},
		"v1 mapped":            {"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:10.0.0.1 12345 1883\r\n", "203.0.113.7:12345"},
		"v1 unknown":           {"PROXY UNKNOWN\r\n", self},
		"v1 unknown, long":     {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", self},
		"v1 too long":          {"PROXY TCP4 " + strings.Repeat("1", 100) + "\r\n", bad},
		"v1 no CR":             {"PROXY TCP4 203.0.113.7 10.0.0.1 12345 1883\n", bad},
		"v1 bad port":          {"PROXY TCP4 203.0.113.7 10.0.0.1 99999 1883\r\n", bad},
		"v1 bad address":       {"PROXY TCP4 203.0.113.700 10.0.0.1 12345 1883\r\n", bad},
		"v1 bad family":        {"PROXY UDP4 203.0.113.7 10.0.0.1 12345 1883\r\n", bad},
		"v1 more":              {"PROXY TCP4 203.0.113.7 10.0.0.1 12345 1883 x\r\n", bad},
		"v2 IPv4":              {headerV2(0x21, 0x11, block4), "203.0.113.7:12345"},
		"v2 IPv6":              {headerV2(0x21, 0x21, block6), "[2001:db8::7]:12345"},
		"v2 with TLVs":         {headerV2(0x21, 0x11, block4+"\xea\x00\x03abc\x04\x00\x10"+strings.Repeat("\x00", 16)), "203.0.113.7:12345"},
		"v2 LOCAL":             {headerV2(0x20, 0x00, ""), self},
		"v2 LOCAL, filled":     {headerV2(0x20, 0x11, block4), self},
		"v2 Unix":              {headerV2(0x21, 0x31, strings.Repeat("\x00", 216)), self},
		"v2 UDP":               {headerV2(0x21, 0x12, block4), bad},
		"v2 unspecified":       {headerV2(0x21, 0x00, ""), bad},
		"v2 short block":       {headerV2(0x21, 0x11, block4[:8]), bad},
		"v2 bad command":       {headerV2(0x22, 0x11, block4), bad},
		"v2 version 3":         {headerV2(0x31, 0x11, block4), bad},
		"v2 longest":           {headerV2(0x21, 0x11, block4+"\xea\x0f\xe1"+strings.Repeat("x", 4065)), "203.0.113.7:12345"},
		"v2 too long":          {headerV2(0x21, 0x11, block4+"\xea\x0f\xe2"+strings.Repeat("x", 4066)), bad},
		"v2 bad signature":     {"\r\n\r\n\x00\r\nQUIT\r", bad},
		"none, MQTT":           {"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", bad},
		"none, HTTP":           {"POST / HTTP/1.1\r\n", bad},
		"none, begins like v1": {"PROXIES\r\n", bad},
	} {
		for _, piece := range []int{1 << 20, 1} {
			if piece == 1 && len(tt.header) > 300 {
				continue
			}
			t.Run(name, func(t *testing.T) {
				proxies, _ := ParseProxies([]string{"127.0.0.0/8"})
				limiter := NewPlaces(0).Limiter(0, 1)
				misled := make(chan error, 1)
				addr, began := accepting(t, &Admission{Limiter: limiter, Log: slog.New(slog.DiscardHandler), Proxies: proxies,
					HeaderTime: 10 * time.Second, Misled: func(_ netip.AddrPort, err error) { misled <- err }})
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				const rest = "what the client sends"
				for out := tt.header + rest; out != ""; {
					n := min(piece, len(out))
					if _, err := io.WriteString(c, out[:n]); err != nil {
						break // it was refused
					}
					out = out[n:]
				}
				select {
				case err := <-misled:
					if tt.want != bad {
						t.Fatalf("refused: %v", err)
					}
					_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
					if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("not closed: %v", err)
					}
				case s := <-began:
					defer limiter.Leave(s.remote.Addr())
					defer s.nc.Close()
					want := tt.want
					if want == self {
						want = c.LocalAddr().String()
					}
					if s.remote.String() != want {
						t.Fatalf("remote %v, want %s", s.remote, want)
					}
					got := make([]byte, len(rest))
					if _, err := io.ReadFull(s.nc, got); err != nil || string(got) != rest {
						t.Fatalf("behind the header came %q, %v", got, err)
					}
					if limiter.Enter(s.remote.Addr()) || !limiter.Enter(there) {
						t.Error("it does not count for the client's address")
					}
					limiter.Leave(there)
				case <-time.After(10 * time.Second):
					t.Fatal("nothing happened")
				}
			})
		}
	}
}

// TestProxyPlaces: connections of a load balancer that send no header hold a place,
// end in time and hold up no others; a client behind it has the limit of its
// address.
func TestProxyPlaces(t *testing.T) {
	proxies, _ := ParseProxies([]string{"127.0.0.1"})
	limiter := NewPlaces(0).Limiter(20, 2)
	var refused, misled atomic.Int32
	a := &Admission{Limiter: limiter, Log: slog.New(slog.DiscardHandler), Proxies: proxies, HeaderTime: 500 * time.Millisecond,
		Refused: func(netip.AddrPort) { refused.Add(1) }, Misled: func(netip.AddrPort, error) { misled.Add(1) }}
	addr, began := accepting(t, a)
	dial := func(header string) net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, header)
		return c
	}
	for range 10 {
		dial("PROXY ")
	}
	for range 3 {
		dial("PROXY TCP4 203.0.113.7 10.0.0.1 12345 1883\r\n")
	}
	for range 2 {
		s := <-began
		t.Cleanup(func() { _ = s.nc.Close() })
		if s.remote.Addr().String() != "203.0.113.7" {
			t.Errorf("remote %v", s.remote)
		}
	}
	for end := time.Now().Add(10 * time.Second); misled.Load() != 10 || refused.Load() != 1 || limiter.Open() != 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d without a header have ended, %d of one client over its limit, %d have a place", misled.Load(), refused.Load(), limiter.Open())
		}
	}
	if n := len(limiter.addresses); n != 1 {
		t.Errorf("%d addresses are counted: %v", n, limiter.addresses)
	}
}

// TestProxyEnd: Serve returns though a load balancer owes a header.
func TestProxyEnd(t *testing.T) {
	proxies, _ := ParseProxies([]string{"127.0.0.0/8"})
	limiter := NewPlaces(0).Limiter(0, 0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &Admission{Limiter: limiter, Log: slog.New(slog.DiscardHandler), Proxies: proxies, HeaderTime: time.Hour}
	served := make(chan struct{})
	go func() {
		defer close(served)
		a.Serve(context.Background(), l, func(net.Conn, netip.AddrPort) { t.Error("started") })
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for limiter.Open() == 0 {
		time.Sleep(time.Millisecond)
	}
	_ = l.Close()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Fatal("Serve waits for a header")
	}
	if limiter.Open() != 0 {
		t.Errorf("%d places are taken", limiter.Open())
	}
}

func TestParseProxies(t *testing.T) {
	p, err := ParseProxies([]string{"10.0.0.0/8", "192.0.2.1", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"10.1.2.3": true, "192.0.2.1": true, "192.0.2.2": false, "fd00::1": true, "127.0.0.1": false} {
		if p.has(netip.MustParseAddr(addr)) != want {
			t.Errorf("%s: want %v", addr, want)
		}
	}
	for _, bad := range []string{"", "lb.example.com", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0"} {
		if _, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// FuzzHeaderEnd: a header is never found to be longer than what has arrived, or
// than any may be.
func FuzzHeaderEnd(f *testing.F) {
	f.Add([]byte("PROXY UNKNOWN\r\nx"))
	f.Add([]byte(headerV2(0x21, 0x11, block4) + "x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := headerEnd(b)
		if n < 0 || n > len(b) || n > longestV2 || err != nil && n != 0 || len(b) >= longestV2 && n == 0 && err == nil {
			t.Errorf("%d %v of %d bytes", n, err, len(b))
		}
	})
}

func TestSpoken(t *testing.T) {
	for first, want := range map[string]string{
		"GET / HTTP/1.1\r\n": speaksHTTP, "POST ": speaksHTTP, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": speaksHTTP2,
		"\x16\x03\x01\x02\x00\x01": speaksTLS, "\x16\x03": speaksTLS, "PROXY TCP4 ": speaksProxy, signatureV2: speaksProxy, "SSH-2.0-x": speaksSSH,
		"\x10\x0c\x00\x04MQTT": speaksMQTT, "\x00\x00\x00\x6a\x00\x00\x00\x60{": speaksRocketMQ, "": "", "\x30\x05": "", "POS": "", "\x00\x00": "",
	} {
		if got := Spoken([]byte(first)); got != want {
			t.Errorf("%q: %q, want %q", first, got, want)
		}
	}
}

// TestProxyRefusals: a line of the log says what was wrong with a header, in the
// words of the settings.
func TestProxyRefusals(t *testing.T) {
	for name, tt := range map[string]struct{ sent, want string }{
		"in part":     {"PROXY TC", "limits.connect-timeout"},
		"nothing":     {"", "limits.connect-timeout"},
		"bad address": {"PROXY TCP4 10.9.8.777 127.0.0.1 1 2\r\n", `"PROXY TCP4 10.9.8.777 127.0.0.1 1 2" is malformed`},
		"version 2":   {headerV2(0x21, 0x11, "\x01\x02\x03"), "the PROXY protocol header of version 2 is malformed"},
		"other":       {"GET / HTTP/1.1\r\n", "does not begin with a PROXY protocol header"},
	} {
		t.Run(name, func(t *testing.T) {
			misled := make(chan error, 1)
			proxies, err := ParseProxies([]string{"127.0.0.1"})
			if err != nil {
				t.Fatal(err)
			}
			addr, _ := accepting(t, &Admission{
				Limiter: NewPlaces(0).Limiter(0, 0), Log: slog.New(slog.DiscardHandler), Proxies: proxies, HeaderTime: 300 * time.Millisecond,
				Misled: func(_ netip.AddrPort, err error) { misled <- err },
			})
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = nc.Close() }()
			if _, err := io.WriteString(nc, tt.sent); err != nil {
				t.Fatal(err)
			}
			if err := <-misled; !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "raw-read") || strings.Contains(err.Error(), "proxyproto") {
				t.Errorf("%v, want %q in it", err, tt.want)
			}
		})
	}
}
