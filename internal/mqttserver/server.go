package mqttserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// Options configure a Server. All must be set but where 0 has a meaning.
type Options struct {
	Broker *broker.Broker
	Auth   mq.Authenticator
	Log    *slog.Logger

	ConnectTimeout time.Duration // from accept to CONNECT
	CloseGrace     time.Duration // how long a closing connection may take to take its last packet
	PacketSize     int           // maximum packet size towards the server, bytes
	TopicLength    int           // bytes
	Inflight       int           // QoS 1 and 2 messages under way to a 3.x client
	ReceiveMax     int           // QoS 1 and 2 messages under way from an MQTT 5 client
	Pause          int           // the same of a 3.x client, which is then not read for a while; 0: no limit
	Outbox         int           // bytes waiting for a client before PUBLISH is refused
	SessionExpiry  uint32        // upper bound of the session expiry interval, seconds
	KeepAlive      uint16        // upper bound of an MQTT 5 client's keep alive, seconds; 0: no limit
	MaxQoS         int           // 0 to 2: the highest that is taken, and granted
	ResponseTopic  string        // response information for a client, %c being its client ID; "": none
	HideRefusals   bool          // 0x80 instead of 0x87 in acknowledgements
	StrictUTF8     bool          // control characters and non-characters in names are malformed
	Connections    int           // 0: as many as file descriptors allow
	PerAddress     int           // connections per remote address; 0: no limit
}

// Stats are the counters of the gateway.
type Stats struct {
	Accepted   atomic.Uint64
	OverLimit  atomic.Uint64 // connections closed by a connection limit
	Refused    atomic.Uint64 // CONNECTs answered with an error
	AuthFailed atomic.Uint64
	Panics     atomic.Uint64
	Workers    atomic.Int64  // read buffers in use: by connections with input, not by waiting ones
	Blocked    atomic.Uint64 // writes that met a full socket
	BytesIn    atomic.Uint64
	BytesOut   atomic.Uint64
	Packets    [16]atomic.Uint64 // received, by type
	Sent       [16]atomic.Uint64 // by type
}

// Server is the MQTT gateway. Listeners are added with the Serve methods.
type Server struct {
	opt    Options
	broker *broker.Broker
	log    *slog.Logger
	Stats  Stats

	ctx    context.Context // ends when Shutdown gives up waiting
	cancel context.CancelFunc

	mu        sync.Mutex // guards the fields below
	closing   bool
	listeners []net.Listener
	https     []*http.Server
	conns     conn // head of the list of connections
	count     int
	perAddr   map[netip.Addr]int

	wg sync.WaitGroup // listeners, connections and their writers
}

// New makes a gateway without listeners.
func New(opt Options) *Server {
	s := &Server{opt: opt, broker: opt.Broker, log: opt.Log, perAddr: make(map[netip.Addr]int)}
	s.conns.next, s.conns.prev = &s.conns, &s.conns
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Connections counts open connections, those without CONNECT included.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

var errLimit = errors.New("connection limit reached")

// start runs a new connection in a goroutine, unless a limit forbids it.
func (s *Server) start(nc net.Conn, over transport) error {
	c := &conn{srv: s, nc: nc, transport: over, maxPacket: 1 << 30, version: mqtt.V311}
	if tcp, ok := nc.(*net.TCPConn); ok {
		raw, err := tcp.SyscallConn()
		if err != nil {
			return err
		}
		c.raw = raw
		c.writeFn = c.writeOnce
	}
	s.Stats.Accepted.Add(1)
	addr := c.remote().Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return net.ErrClosed
	case s.opt.Connections > 0 && s.count >= s.opt.Connections,
		s.opt.PerAddress > 0 && s.perAddr[addr] >= s.opt.PerAddress:
		s.Stats.OverLimit.Add(1)
		return errLimit
	}
	s.count++
	if s.opt.PerAddress > 0 {
		s.perAddr[addr]++
	}
	c.next, c.prev = s.conns.next, &s.conns
	c.next.prev, s.conns.next = c, c
	s.wg.Add(1)
	go c.serve()
	return nil
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.prev.next, c.next.prev = c.next, c.prev
	s.count--
	if s.opt.PerAddress > 0 {
		addr := c.remote().Addr()
		if s.perAddr[addr]--; s.perAddr[addr] == 0 {
			delete(s.perAddr, addr)
		}
	}
}

func remoteOf(nc net.Conn) netip.AddrPort {
	if tcp, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		a := tcp.AddrPort()
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	a, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Shutdown closes in good order: no new connections, everything that senders
// wait for is made safe and acknowledged, MQTT 5 clients get DISCONNECT 0x8B.
// It returns when all connections are closed, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	listeners, https := s.listeners, s.https
	var all []*conn
	for c := s.conns.next; c != &s.conns; c = c.next {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
	for _, h := range https {
		_ = h.Close()
	}
	s.broker.Drain(gateway.DrainTime)
	for _, c := range all {
		c.Close(broker.ServerShutdown)
	}
	defer s.cancel()
	return gateway.Wait(ctx, &s.wg, func() {
		s.cancel()
		for _, c := range all {
			c.abort()
		}
	})
}
