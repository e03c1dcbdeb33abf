package rocketmqserver

import (
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/homing-mq/homing/internal/gateway"
)

// ServeRemoting accepts remoting connections from l until Shutdown closes it.
// It is name server and broker at once; clients are sent to port, which is that
// of l unless l is there for the VIP channel of old SDKs, two below.
func (s *Server) ServeRemoting(l net.Listener, port uint16) {
	s.mu.Lock()
	s.listeners = append(s.listeners, l)
	s.mu.Unlock()
	s.wg.Go(func() {
		s.admission(Remoting, "rocketmq").Serve(s.ctx, l, func(nc net.Conn, remote netip.AddrPort) { s.start(nc, remote, port) })
	})
}

// start runs a new connection.
func (s *Server) start(nc net.Conn, remote netip.AddrPort, port uint16) {
	s.Stats.Accepted[Remoting].Add(1)
	c := newConn(s, nc, remote)
	c.local = netip.AddrPortFrom(gateway.AddrOf(nc.LocalAddr()).Addr(), port)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		s.limits[Remoting].Leave(remote.Addr())
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Go(c.serve)
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.limits[Remoting].Leave(c.remote.Addr())
}

// consumers returns the IDs of the clients that have said they are consumers of
// a group.
func (s *Server) consumers(group []byte) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if id := c.consumerIn(group); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// peekedConn is a connection of which the first bytes were read already.
type peekedConn struct {
	net.Conn
	first []byte
}

func (p *peekedConn) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// overTLS returns the TLS side of a connection that has begun with first. The
// handshake is done by the first Read.
func (s *Server) overTLS(nc net.Conn, first []byte) net.Conn {
	return tls.Server(&peekedConn{nc, append([]byte(nil), first...)}, s.tls)
}
