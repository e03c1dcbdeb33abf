package rocketmqserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"

	"github.com/homing-mq/homing/internal/mq"
)

// firstOfHTTP2 is the first byte of HTTP/2 without TLS: the client begins with
// "PRI * HTTP/2.0" (RFC 9113, section 3.4).
const firstOfHTTP2 = 'P'

// grpcListener gives connections to a grpc.Server within the limits.
type grpcListener struct {
	net.Listener
	srv *Server
}

// Accept implements net.Listener.
func (l *grpcListener) Accept() (net.Conn, error) {
	s := l.srv
	for {
		nc, err := s.accept(l.Listener)
		if err != nil {
			return nil, err
		}
		s.Stats.Accepted[GRPC].Add(1)
		c := &grpcConn{Conn: nc, srv: s, remote: addrOf(nc.RemoteAddr()).Addr()}
		if s.limits[GRPC].enter(c.remote) {
			return c, nil
		}
		s.Stats.OverLimit[GRPC].Add(1)
		s.log.Info("connection refused", "remote", nc.RemoteAddr().String(), "transport", "rocketmq-grpc", "reason", "connection limit reached")
		_ = nc.Close()
	}
}

// grpcConn is one connection: plaintext HTTP/2, or what TLS runs over. To calls
// it is the credentials.AuthInfo of their connection.
type grpcConn struct {
	net.Conn
	srv    *Server
	remote netip.Addr
	once   sync.Once

	first  [1]byte // read to see what the client speaks; the first Read gives it back
	peeked bool    // first has not been given back yet

	batch sharedBatch

	who   atomic.Pointer[mq.Principal] // of the last signed request; nil: none was right
	noted atomic.Bool                  // that a request was refused is in the log
}

// Read implements net.Conn.
func (c *grpcConn) Read(b []byte) (int, error) {
	if c.peeked && len(b) > 0 {
		c.peeked = false
		b[0] = c.first[0]
		return 1, nil
	}
	return c.Conn.Read(b)
}

// Close implements net.Conn.
func (c *grpcConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		c.srv.limits[GRPC].leave(c.remote)
	})
	return err
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
	if _, err := c.Conn.Read(c.first[:]); err != nil {
		return nil, nil, err
	}
	c.peeked = true
	switch c.first[0] {
	case firstOfHTTP2:
		return c, c, nil
	case firstOfTLS:
		secure, _, err := t.TransportCredentials.ServerHandshake(c)
		return secure, c, err
	default:
		return nil, nil, fmt.Errorf("neither TLS nor HTTP/2: first byte 0x%02x", c.first[0])
	}
}

// Clone implements credentials.TransportCredentials.
func (t sniffing) Clone() credentials.TransportCredentials {
	return sniffing{t.TransportCredentials.Clone()}
}
