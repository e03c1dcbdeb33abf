package mqttserver

import (
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/logging"
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
	Memory         int64         // bytes of all messages in memory, unfinished packets included; 0: no limit
	Share          int           // percent of what unfinished packets may take, for one account; 0: 100
	Connections    int           // 0: no limit but Places
	PerAddress     int           // connections per remote address; 0: no limit

	Places *gateway.Places // for the connections of the process; nil: any number

	Web     *gateway.WebPolicy // which pages may open a WebSocket; nil: those of loopback
	Proxies gateway.Proxies    // load balancers that say whose connection it is
	Turns   *gateway.Turns     // those of the readers of the process; nil: of this server's

	gate func(*input) // see Server.pass; nil but in tests
}

// Stats are the counters of the gateway.
type Stats struct {
	Accepted   atomic.Uint64
	OverLimit  atomic.Uint64 // connections closed by a connection limit
	Misled     atomic.Uint64 // connections of a load balancer without a right header
	Refused    atomic.Uint64 // CONNECTs answered with an error
	AuthFailed atomic.Uint64 // of Refused: the login, for whatever reason
	// AuthTooMany and AuthBusy are those of AuthFailed that were not looked at:
	// there were too many wrong logins, or too many at once.
	AuthTooMany, AuthBusy atomic.Uint64
	Panics                atomic.Uint64
	Unsettled             atomic.Uint64 // takeovers that did not wait for all of the old connection's input
	Workers               atomic.Int64  // read buffers in use: by connections with input, not by waiting ones
	Blocked               atomic.Uint64 // writes that met a full socket
	BytesIn               atomic.Uint64
	BytesOut              atomic.Uint64
	Packets               [16]atomic.Uint64 // received, by type
	Sent                  [16]atomic.Uint64 // by type
}

// Server is the MQTT gateway. Listeners are added with the Serve methods.
type Server struct {
	opt           Options
	broker        *broker.Broker
	log           *slog.Logger
	responseTopic atomic.Pointer[string]
	hideRefusals  atomic.Bool
	// strangers is the log for those who are not let in.
	strangers *slog.Logger
	Stats     Stats

	ctx    context.Context // ends when Shutdown gives up waiting
	cancel context.CancelFunc

	limiter    *gateway.Limiter
	unfinished *gateway.Unfinished
	message    mq.Limits    // of one; a packet is measured before it has arrived
	large      atomic.Int32 // strangers with a large CONNECT under way

	mu        sync.Mutex // guards the fields below
	closing   bool
	listeners []net.Listener
	https     []*http.Server
	conns     conn // head of the list of connections

	wg sync.WaitGroup // listeners, connections and their writers
}

// New makes a gateway without listeners.
func New(opt Options) *Server {
	places := opt.Places
	if places == nil {
		places = gateway.NewPlaces(0)
	}
	if opt.Turns == nil {
		opt.Turns = &gateway.Turns{}
	}
	if opt.Web == nil {
		opt.Web = gateway.NewWebPolicy(nil, opt.Log)
	}
	s := &Server{opt: opt, broker: opt.Broker, log: opt.Log, strangers: logging.Strangers(opt.Log), limiter: places.Limiter(opt.Connections, opt.PerAddress)}
	s.message = mq.Limits{TopicLength: opt.TopicLength, MaxQoS: mq.QoS(opt.MaxQoS), StrictText: opt.StrictUTF8}
	s.SetResponseTopic(opt.ResponseTopic)
	s.SetHideRefusals(opt.HideRefusals)
	s.conns.next, s.conns.prev = &s.conns, &s.conns
	memory := opt.Memory
	if memory <= 0 {
		memory = math.MaxInt64
	}
	s.unfinished = gateway.NewUnfinished(gateway.UnfinishedOptions{
		Limit: memory, Share: opt.Share, Largest: int64(opt.PacketSize), Total: opt.Broker.Hold, Patience: opt.ConnectTimeout / 5,
	})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Unfinished has the packets that have arrived in part.
func (s *Server) Unfinished() *gateway.Unfinished { return s.unfinished }

// SetResponseTopic puts another one in the place of Options.ResponseTopic, for those
// who connect from now on.
func (s *Server) SetResponseTopic(topic string) { s.responseTopic.Store(&topic) }

// SetHideRefusals puts another value in the place of Options.HideRefusals.
func (s *Server) SetHideRefusals(hide bool) { s.hideRefusals.Store(hide) }

// Connections counts open connections, those without CONNECT included.
func (s *Server) Connections() int { return s.limiter.Open() }

// admission counts and logs the connections over transport that are refused.
func (s *Server) admission(over transport) *gateway.Admission {
	a := &gateway.Admission{Limiter: s.limiter, Log: s.log, Proxies: s.opt.Proxies, HeaderTime: s.opt.ConnectTimeout}
	a.Misled = func(balancer netip.AddrPort, err error) {
		s.Stats.Accepted.Add(1)
		s.Stats.Misled.Add(1)
		s.strangers.Info("connection refused", "remote", balancer.String(), "transport", over.String(), "reason", err.Error())
	}
	a.Refused = func(remote netip.AddrPort) {
		s.Stats.Accepted.Add(1)
		s.Stats.OverLimit.Add(1)
		s.strangers.Info("connection refused", "remote", remote.String(), "transport", over.String(), "reason", "connection limit reached")
	}
	return a
}

// start runs a new connection in a goroutine. Its place counts for the address
// remote.
func (s *Server) start(nc net.Conn, over transport, remote netip.AddrPort) error {
	var c *conn
	if tcp, ok := nc.(*net.TCPConn); ok {
		raw, err := tcp.SyscallConn()
		if err != nil {
			return err
		}
		both := &struct { // one piece of memory
			conn
			input
		}{}
		c = &both.conn
		c.raw, c.in = raw, &both.input
		c.writeFn = c.writeOnce
	} else {
		c = &conn{}
	}
	c.srv, c.nc, c.transport, c.maxPacket, c.version = s, nc, over, 1<<30, mqtt.V311
	if c.in == nil {
		c.in = &c.inlet().in
	}
	if c.remote() != remote {
		client := remote // on the heap only here
		c.more().remote = &client
	}
	s.Stats.Accepted.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return net.ErrClosed
	}
	c.next, c.prev = s.conns.next, &s.conns
	c.next.prev, s.conns.next = c, c
	s.wg.Add(1)
	go c.serve()
	return nil
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	c.prev.next, c.next.prev = c.next, c.prev
	s.mu.Unlock()
	if c.transport == overTCP || c.transport == overTLS { // of the others the socket has the place
		s.limiter.Leave(c.remote().Addr())
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

// settle waits until what clients have sent is handled, as far as it has arrived.
func (s *Server) settle(all []*conn) {
	end := time.Now().Add(gateway.DrainTime)
	for _, c := range all {
		if c.connected.Load() && time.Now().Before(end) {
			if arrived, _ := c.in.arrived(c.socket()); arrived != nil {
				c.Settle()
			}
		}
	}
}

// Shutdown closes in good order: no new connections, what has arrived is
// handled, everything that senders wait for is made safe and acknowledged, MQTT 5 clients get DISCONNECT 0x8B.
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
	s.settle(all)
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
