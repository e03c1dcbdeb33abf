package rocketmqserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
)

// http2Greeting is what a client begins HTTP/2 with (RFC 9113, section 3.4).
const http2Greeting = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// grpcListener gives connections to a grpc.Server within the limits.
func (s *Server) grpcListener(l net.Listener) net.Listener {
	return s.admission(GRPC, "rocketmq-grpc").Listen(s.ctx, l, func(nc net.Conn, leave func()) net.Conn {
		s.Stats.Accepted[GRPC].Add(1)
		c := &grpcConn{Conn: gateway.NewAdmitted(nc, leave), srv: s, remote: gateway.AddrOf(nc.RemoteAddr()).Addr()}
		if !s.opens(c) {
			_ = c.Close() // the library finds it closed
		}
		return c
	})
}

// opens takes note of a connection whose handshake begins. It reports false when
// the server closes: then there must not be one any more.
func (s *Server) opens(c *grpcConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.grpc.opening[c] = struct{}{}
	return true
}

// opened ends what opens began.
func (s *Server) opened(c *grpcConn) {
	s.mu.Lock()
	delete(s.grpc.opening, c)
	s.mu.Unlock()
}

// grpcConn is one connection: plaintext HTTP/2, or what TLS runs over. To calls
// it is the credentials.AuthInfo of their connection.
type grpcConn struct {
	net.Conn
	srv    *Server
	remote netip.Addr

	greeting [len(http2Greeting)]byte // read to see what the client speaks
	unread   []byte                   // the part of it that Read is to give back

	batch     sharedBatch
	telemetry atomic.Int32 // streams

	who   atomic.Pointer[mq.Principal] // of the last signed request; nil: none was right
	noted atomic.Bool                  // that a request was refused is in the log
}

// Read implements net.Conn.
func (c *grpcConn) Read(b []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// SetDeadline implements net.Conn. The library sets one for the handshake, and
// takes it away when that is over.
func (c *grpcConn) SetDeadline(t time.Time) error {
	if t.IsZero() {
		c.srv.opened(c)
	}
	return c.Conn.SetDeadline(t)
}

// Close implements net.Conn.
func (c *grpcConn) Close() error {
	c.srv.opened(c)
	return c.Conn.Close()
}

// AuthType implements credentials.AuthInfo. Requests are signed, connections
// not.
func (*grpcConn) AuthType() string { return "none" }

// sniffing takes TLS and plaintext HTTP/2 on one port: most SDKs of RocketMQ use
// TLS unless told otherwise, some do not.
type sniffing struct {
	credentials.TransportCredentials // TLS, with ALPN h2
}

func newSniffing(conf *tls.Config) sniffing { return sniffing{credentials.NewTLS(conf)} }

// ServerHandshake implements credentials.TransportCredentials. The caller has
// set a deadline and closes the connection after an error.
func (t sniffing) ServerHandshake(nc net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := nc.(*grpcConn)
	if !ok {
		return nil, nil, errors.New("the connection is not from a grpcListener")
	}
	secure, err := t.handshake(c)
	if err != nil {
		c.noteFailure(err)
		return nil, c, err
	}
	return newWatched(secure, c), c, nil
}

func (t sniffing) handshake(c *grpcConn) (net.Conn, error) {
	n, err := c.Conn.Read(c.greeting[:1])
	c.unread = c.greeting[:n]
	if err != nil {
		return nil, err
	}
	switch c.greeting[0] {
	case http2Greeting[0]:
		return c, c.readGreeting()
	case firstOfTLS:
		secure, _, err := t.TransportCredentials.ServerHandshake(c)
		if err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		return secure, nil
	default:
		return nil, errNotGRPC
	}
}

var errNotGRPC = errors.New("neither TLS nor HTTP/2: SDKs that speak remoting must be given the address of listen.rocketmq")

// readGreeting reads the rest of what HTTP/2 begins with: HTTP/1 can begin with
// the same letter.
func (c *grpcConn) readGreeting() error {
	n, err := io.ReadFull(c.Conn, c.greeting[1:])
	c.unread = c.greeting[:1+n]
	switch {
	case !strings.HasPrefix(http2Greeting, string(c.unread)):
		return errNotGRPC
	case err != nil:
		return fmt.Errorf("HTTP/2: %w", err)
	}
	return nil
}

// noteFailure logs that the handshake has failed. Who has only looked whether the
// port is open, or is cut off by the end of the server, is not worth a line.
func (c *grpcConn) noteFailure(err error) {
	level := slog.LevelInfo
	if c.greeting[0] == 0 && isFarewell(err) || c.srv.closing.Load() {
		level = slog.LevelDebug
	}
	c.srv.strangers.Log(context.Background(), level, "RocketMQ connection closed", "remote", gateway.AddrOf(c.RemoteAddr()).String(), "transport", "rocketmq-grpc", "reason", err)
}

// Clone implements credentials.TransportCredentials.
func (t sniffing) Clone() credentials.TransportCredentials {
	return sniffing{t.TransportCredentials.Clone()}
}
