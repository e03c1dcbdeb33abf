package rocketmqserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/logging"
	"github.com/homing-mq/homing/internal/mq"
)

// Options configure a Server. All must be set but where 0 or nil has a meaning.
type Options struct {
	Broker *broker.Broker
	Auth   mq.RequestAuthenticator
	Log    *slog.Logger
	TLS    *tls.Config // nil: with a certificate of its own, which is made at start

	// Topics are the parent topics that messages are taken for; empty: any.
	Topics []string
	// Advertise and AdvertiseGRPC are the addresses, HOST:PORT, that clients are
	// told to send to; "": the one they have asked.
	Advertise, AdvertiseGRPC string
	KeepNamespace            bool // a namespace in front of a topic is part of the parent topic

	BodySize    int           // largest message body, bytes, also when it is not compressed any more
	TopicLength int           // bytes
	MaxQoS      int           // 0 to 2
	PacketSize  int           // largest message as a PUBLISH of MQTT 5, bytes; 0: what MQTT allows
	StrictUTF8  bool          // control characters and non-characters in topics are refused
	InflateRate int64         // bytes a second that compressed bodies of one sender may grow by beyond freeGrowth times; 0: no limit
	MaxDelay    time.Duration // of a delayed message; 0: no limit
	Unanswered  int           // sends under way of one connection; more are not read
	ReadBytes   int64         // memory for large requests that are arriving; at least BodySize and 64 KiB
	IdleTimeout time.Duration // a connection that sends nothing for so long is closed
	FrameTime   time.Duration // how long one request, or a handshake, may take to arrive

	Connections int // of each protocol; 0: no limit but Places
	PerAddress  int // of each protocol and remote address; 0: no limit

	Places *gateway.Places // for the connections of the process; nil: any number

	Proxies gateway.Proxies // load balancers that say whose connection it is
	Turns   *gateway.Turns  // those of the readers of the process; nil: of this server's
}

// Protocol is one of the two.
type Protocol uint8

// The protocols.
const (
	Remoting Protocol = iota
	GRPC
	Protocols // their number
)

func (p Protocol) String() string { return [...]string{"remoting", "grpc"}[p] }

// Stats are the counters of the gateway.
type Stats struct {
	Accepted   [Protocols]atomic.Uint64 // connections
	OverLimit  [Protocols]atomic.Uint64 // connections closed by a limit
	Misled     [Protocols]atomic.Uint64 // connections of a load balancer without a right header
	AuthFailed [Protocols]atomic.Uint64 // requests
	Resetting  atomic.Uint64            // gRPC connections closed because their calls were reset at once
	Slowed     atomic.Uint64            // waits for the growth of compressed bodies
	Requests   [Protocols]atomic.Uint64
	Accepts    [Protocols]atomic.Uint64 // messages answered with SEND_OK
	Refuses    [Protocols]atomic.Uint64 // messages answered with anything else
	BytesIn    atomic.Uint64            // remoting
	BytesOut   atomic.Uint64            // remoting
	Panics     atomic.Uint64
}

// settle counts answered messages.
func (s *Stats) settle(p Protocol, code mq.Code, messages int) {
	if code == mq.OK {
		s.Accepts[p].Add(uint64(messages))
	} else {
		s.Refuses[p].Add(uint64(messages))
	}
}

// noteRefusal logs that a request is not authenticated. A stranger can send any
// number of them: only the first of a connection is logged.
func (s *Server) noteRefusal(remote netip.Addr, r mq.SignedRequest, err error) {
	s.strangers.Info("RocketMQ request refused", "remote", remote.String(), "access_key", string(clip(r.AccessKey())), "reason", err.Error())
}

// refused counts a message, or a batch as a whole, that does not come to the
// core. attrs are for the log: what is known of it.
func (s *Server) refused(p Protocol, err error, attrs ...any) {
	s.Stats.Refuses[p].Add(1)
	s.broker.Stats.Dropped[told(err).drop].Add(1)
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		s.log.With(attrs...).Debug("RocketMQ message refused", "protocol", p.String(), "reason", err.Error())
	}
}

// Server is the RocketMQ gateway. Listeners are added with ServeRemoting and
// ServeGRPC.
type Server struct {
	opt    Options
	broker *broker.Broker
	log    *slog.Logger
	topics atomic.Pointer[[]string]
	// strangers is the log for those who are not let in, or break the protocol.
	strangers *slog.Logger
	tls       *tls.Config
	Stats     Stats

	message mq.Limits // of each one

	closing atomic.Bool // sends are refused: try elsewhere
	offset  atomic.Int64
	large   [2]*semaphore.Weighted // see room
	inflate chan struct{}          // see inflating
	growth  growth

	ctx    context.Context // ends when Shutdown gives up waiting
	cancel context.CancelFunc

	limits [Protocols]*gateway.Limiter

	mu        sync.Mutex // guards the fields below
	listeners []net.Listener
	conns     map[*conn]struct{}
	grpc      grpcSide

	wg sync.WaitGroup // listeners, connections and their writers
}

// New makes a gateway without listeners.
func New(opt Options) (*Server, error) {
	if opt.Turns == nil {
		opt.Turns = &gateway.Turns{}
	}
	s := &Server{opt: opt, broker: opt.Broker, log: opt.Log, strangers: logging.Strangers(opt.Log), tls: opt.TLS, conns: make(map[*conn]struct{}), inflate: make(chan struct{}, runtime.GOMAXPROCS(0))}
	s.SetTopics(opt.Topics)
	opt.ReadBytes = max(opt.ReadBytes, strangersShare*int64(frameLimit(opt.BodySize)))
	s.large = [2]*semaphore.Weighted{semaphore.NewWeighted(opt.ReadBytes / strangersShare), semaphore.NewWeighted(opt.ReadBytes)}
	s.opt = opt
	s.growth.rate, s.growth.paid = opt.InflateRate, make(map[grower]int64)
	s.message = mq.Limits{TopicLength: opt.TopicLength, PacketSize: opt.PacketSize, MaxQoS: mq.QoS(opt.MaxQoS), StrictText: opt.StrictUTF8}
	places := opt.Places
	if places == nil {
		places = gateway.NewPlaces(0)
	}
	for p := range s.limits {
		s.limits[p] = places.Limiter(opt.Connections, opt.PerAddress)
	}
	// An offset grows over restarts, too, as long as fewer than a thousand
	// messages a millisecond come.
	s.offset.Store(time.Now().UnixMicro())
	if s.tls == nil {
		conf, err := selfSigned()
		if err != nil {
			return nil, err
		}
		s.tls = conf
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.broker.OnRevoked(s.closeRevoked)
	return s, nil
}

// strangersShare is which part of Options.ReadBytes those have that have not
// shown who they are.
const strangersShare = 4

// room is the memory for large requests: of those who have signed one with an
// access key, or of all others. Strangers so hold up each other only.
func (s *Server) room(known bool) *semaphore.Weighted {
	if known {
		return s.large[1]
	}
	return s.large[0]
}

// inflating waits until a body may be decompressed. done must be called when
// what came out is not needed any more. A small body can become a large one:
// as many as there are processors may do so at a time, and only while the store
// keeps up.
func (s *Server) inflating() (done func()) {
	s.inflate <- struct{}{}
	s.broker.Throttle()
	return func() { <-s.inflate }
}

// Inflated counts the bytes that compressed bodies have become.
func (s *Server) Inflated() uint64 { return s.growth.inflated.Load() }

// Connections counts open connections.
func (s *Server) Connections(p Protocol) int { return s.limits[p].Open() }

// Refuse begins the end: no new connections, and sends are refused so that SDKs
// send elsewhere. What was taken before may still wait for devices.
func (s *Server) Refuse() {
	s.closing.Store(true)
	s.mu.Lock()
	listeners := s.listeners
	s.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close()
	}
}

// Shutdown closes in good order: Refuse, and what was taken before is made safe
// and answered. It returns when all connections are closed, or ctx ends. With
// p2p.keep: never only devices, or their going, can answer: close their connections
// after Refuse and before Shutdown.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Refuse()
	s.broker.Drain(gateway.DrainTime)
	s.shutdownGRPC(ctx)
	s.mu.Lock()
	for c := range s.conns {
		c.finish()
	}
	s.mu.Unlock()
	defer s.cancel()
	return gateway.Wait(ctx, &s.wg, func() {
		s.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.abort()
		}
	})
}

// errClosing refuses what comes while the server closes.
var errClosing = &mq.Error{Code: mq.ShuttingDown, Text: "the server is shutting down; send again, it restarts or another one takes over"}

// admission counts and logs the connections of a protocol that are refused.
func (s *Server) admission(p Protocol, transport string) *gateway.Admission {
	a := &gateway.Admission{Limiter: s.limits[p], Log: s.log, Proxies: s.opt.Proxies, HeaderTime: s.opt.FrameTime}
	a.Misled = func(balancer netip.AddrPort, err error) {
		s.Stats.Accepted[p].Add(1)
		s.Stats.Misled[p].Add(1)
		s.strangers.Info("connection refused", "remote", balancer.String(), "transport", transport, "reason", err.Error())
	}
	a.Refused = func(remote netip.AddrPort) {
		s.Stats.Accepted[p].Add(1)
		s.Stats.OverLimit[p].Add(1)
		s.strangers.Info("connection refused", "remote", remote.String(), "transport", transport, "reason", "connection limit reached")
	}
	return a
}

// SetTopics puts others in the place of Options.Topics, for messages from now on. The
// slice must not change any more.
func (s *Server) SetTopics(topics []string) { s.topics.Store(&topics) }

func (s *Server) hasTopic(topic string) bool {
	list := *s.topics.Load()
	return len(list) == 0 || slices.Contains(list, topic)
}

// parentTopic is the MQTT parent topic of a RocketMQ topic: what stands behind
// its namespace, "MQ_INST_x%" for example, unless that is to be kept.
func (s *Server) parentTopic(topic []byte) ([]byte, error) {
	if i := bytes.LastIndexByte(topic, '%'); i > 0 && topic[0] != '%' && !s.opt.KeepNamespace {
		topic = topic[i+1:]
	}
	switch {
	case len(topic) == 0:
		return nil, refuse(badTopic, "the topic is empty; give the parent topic, level 1 of the MQTT topic")
	case bytes.IndexByte(topic, '/') >= 0:
		return nil, refuse(badTopic, "topic %q has more than one level; give the parent topic, and the rest in property %s", clip(topic), keySecondTopic)
	case topic[0] == '%':
		return nil, refuse(badTopic, "topic %q is one of RocketMQ's own", clip(topic))
	case !s.hasTopic(string(topic)):
		return nil, refuse(noTopic, "topic %q is not in the server's list of parent topics (topics)", clip(topic))
	}
	return topic, nil
}
