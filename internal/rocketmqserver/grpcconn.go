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
	return s.admission(GRPC, "rocketmq-grpc").Listen(s.ctx, l, func(nc net.Conn, remote netip.AddrPort, leave func()) net.Conn {
		s.Stats.Accepted[GRPC].Add(1)
		c := &grpcConn{Conn: gateway.NewAdmitted(nc, remote, leave), srv: s, remote: remote.Addr()}
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
	s.grpc.opening[c], s.grpc.open[c] = struct{}{}, struct{}{}
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

	called atomic.Bool // there was a call
	late   *time.Timer // ends the connection if there is none; set with the handshake

	who    atomic.Pointer[mq.Principal] // of the last signed request; nil: none was right
	sender atomic.Pointer[mq.Principal] // the last one that was right, for closeRevoked
	noted  atomic.Bool                  // that a request was refused is in the log
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
		c.late = time.AfterFunc(c.srv.opt.FrameTime, c.endIfUnused)
	}
	return c.Conn.SetDeadline(t)
}

// endIfUnused ends a connection that has asked for nothing: the library would keep
// it for IdleTimeout.
func (c *grpcConn) endIfUnused() {
	if !c.called.Load() {
		c.srv.strangers.Info("RocketMQ connection closed", "remote", gateway.AddrOf(c.RemoteAddr()).String(), "transport", "rocketmq-grpc", "reason", "no call came in time")
		_ = c.Close()
	}
}

// use notes that there is a call.
func (c *grpcConn) use() {
	if !c.called.Load() && !c.called.Swap(true) && c.late != nil {
		c.late.Stop()
	}
}

// Close implements net.Conn.
func (c *grpcConn) Close() error {
	c.srv.mu.Lock()
	delete(c.srv.grpc.opening, c)
	delete(c.srv.grpc.open, c)
	c.srv.mu.Unlock()
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
		return nil, c.notGRPC()
	}
}

// notGRPC says what the client speaks instead. The rest of what it has sent tells,
// if it is there.
func (c *grpcConn) notGRPC() error {
	begun := c.unread
	if len(begun) == 1 {
		_ = c.SetReadDeadline(time.Now().Add(restTime))
		n, _ := c.Conn.Read(c.greeting[1:])
		begun = c.greeting[:1+n]
	}
	return &gateway.WrongProtocol{Spoken: gateway.Spoken(begun), Wanted: "gRPC (HTTP/2 or TLS; listen.rocketmq is for remoting)"}
}

// restTime is how long the bytes behind the first one may take to arrive: they
// commonly come together.
const restTime = 100 * time.Millisecond

// readGreeting reads the rest of what HTTP/2 begins with: HTTP/1 can begin with
// the same letter.
func (c *grpcConn) readGreeting() error {
	for len(c.unread) < len(http2Greeting) {
		n, err := c.Conn.Read(c.greeting[len(c.unread):])
		c.unread = c.greeting[:len(c.unread)+n]
		switch {
		case !strings.HasPrefix(http2Greeting, string(c.unread)):
			return c.notGRPC()
		case errors.Is(err, io.EOF):
			return fmt.Errorf("HTTP/2: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return fmt.Errorf("HTTP/2: %w", err)
		}
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
