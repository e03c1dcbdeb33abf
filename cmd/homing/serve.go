package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/homing-mq/homing/internal/api"
	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/config"
	"github.com/homing-mq/homing/internal/gateway"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqttserver"
	"github.com/homing-mq/homing/internal/rocketmqserver"
	"github.com/homing-mq/homing/internal/store"
)

// server is everything that `homing serve` runs.
type server struct {
	cfg      *config.Config
	log      *slog.Logger
	turns    gateway.Turns // of all readers
	clock    *clock.Clock
	store    *store.Store
	auth     *auth.Auth
	cert     *mqttserver.Certificate // nil: there is none
	core     *broker.Broker
	mqtt     *mqttserver.Server
	rocketmq *rocketmqserver.Server // nil: off
	api      *api.Server
	web      *gateway.WebPolicy
	proxies  gateway.Proxies
	bound    []listening
	places   places
}

// listening is a listener that is open.
type listening struct {
	name string // of the transport
	l    net.Listener
	tls  *tls.Config // nil: none, or the transport does not need one
}

// shutdownTime bounds the orderly shutdown.
const shutdownTime = 15 * time.Second

// startServer opens the store and starts everything but the listeners.
func startServer(cfg *config.Config, insecure bool, log *slog.Logger) (_ *server, err error) {
	s := &server{cfg: cfg, log: log, clock: clock.New(clock.Options{Log: log})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.auth, err = newAuth(cfg, log); err != nil {
		return nil, err
	}
	if err := config.CheckExposure(cfg, s.auth.Anonymous(), insecure); err != nil {
		return nil, err
	}
	if err := s.startWeb(); err != nil {
		return nil, err
	}
	conf, err := s.certificate()
	if err != nil {
		return nil, err
	}
	if err := s.listen(conf); err != nil { // a port in use is told before the store is touched
		return nil, err
	}
	s.places = newPlaces(log)
	s.closeListeners() // nobody is to connect while the store opens, which may take long, or fail
	metrics := prometheus.NewRegistry()
	if err := s.startCore(metrics); err != nil {
		return nil, err
	}
	s.rememberSecured()
	s.auth.Changed(s.rememberSecured)
	if err := s.listen(conf); err != nil {
		return nil, err
	}
	if err := s.startRocketMQ(conf); err != nil {
		return nil, err
	}
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&collector{s.core, s.mqtt, s.rocketmq, s.store, s.clock, log, &cfg.Limits})
	metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "homing_web_refused_total",
		Help: "HTTP requests and WebSockets refused for their Host or Origin."}, func() float64 { return float64(s.web.Refused()) }))
	s.api = api.New(api.Options{Metrics: metrics, Ready: s.store.Ready, Log: log, Places: s.places.http,
		Connections: cfg.Limits.Connections, PerAddress: cfg.Limits.ConnectionsPerAddress, Time: cfg.Limits.ConnectTimeout, Web: s.web, Proxies: s.proxies})
	return s, nil
}

var syncModes = map[string]store.SyncMode{"always": store.SyncAlways, "interval": store.SyncInterval, "os": store.SyncOS}

var keepPolicies = map[string]broker.KeepPolicy{
	"either": broker.KeepEither, "sender": broker.KeepSender, "target": broker.KeepTarget, "always": broker.KeepAlways, "never": broker.KeepNever,
}

var ownerPolicies = map[string]broker.OwnerPolicy{
	"strict": broker.OwnerStrict, "clean": broker.OwnerClean, "any": broker.OwnerAny,
}

// startCore opens the store and puts the core on it.
func (s *server) startCore(metrics prometheus.Registerer) error {
	cfg := s.cfg
	var batch broker.Batch // of the store's completion goroutine
	ready := make(chan struct{})
	share := cfg.Limits.Share
	st, err := store.Open(store.Options{
		Dir: cfg.Data, Sync: syncModes[cfg.Store.Sync], SyncInterval: cfg.Store.SyncInterval, Retention: cfg.P2P.Retention,
		DiskLimit: int64(cfg.Store.DiskLimit), MaxRecord: int64(cfg.Limits.PacketSize),
		Inboxes: mq.Limit{Max: int64(cfg.Limits.Inboxes), Share: share}, InboxNames: mq.Limit{Max: int64(cfg.Limits.InboxNameBytes), Share: share},
		OpenFiles: min(s.places.store, 256), Logger: s.log, Clock: s.clock,
		Observer: storeObserver(metrics),
		Done: func(ops []mq.Op, err error) {
			<-ready
			s.core.Committed(ops, err, &batch)
		},
	})
	if err != nil {
		return err
	}
	s.store = st
	s.core, err = broker.New(broker.Options{
		Store: st, Auth: s.auth, Log: s.log, Clock: s.clock,
		SessionOwner: ownerPolicies[cfg.Auth.SessionOwner],
		Keep:         keepPolicies[cfg.P2P.Keep], InboxLimit: cfg.P2P.InboxLimit, InboxBytes: int64(cfg.P2P.InboxBytes),
		RejectFull: cfg.P2P.InboxPolicy == "reject", StoreAfter: cfg.P2P.StoreAfter,
		DelayedLimit: cfg.Limits.Delayed, RetainedLimit: cfg.Limits.Retained, SubscriptionLimit: cfg.Limits.Subscriptions,
		SubscriptionBytes: int64(cfg.Limits.SubscriptionBytes), SubscriptionAll: int64(cfg.Limits.SubscriptionBytesAll),
		MatchSteps: cfg.Limits.MatchSteps, MatchStepsClient: cfg.Limits.MatchStepsClient,
		DelayedBytes: int64(cfg.Limits.DelayedBytes), RetainedBytes: int64(cfg.Limits.RetainedBytes),
		WillLimit: cfg.Limits.Wills, WillBytes: int64(cfg.Limits.WillBytes), Share: share,
		PendingSize: int64(cfg.Limits.PendingBytes), PendingAll: int64(cfg.Limits.PendingBytesTotal),
	})
	close(ready)
	if err != nil {
		return err
	}
	pause := cfg.Limits.ReceiveMaximum
	if cfg.P2P.Keep == "never" {
		// Then only the target's acknowledgement is one, and two clients that
		// send to each other must not wait for each other.
		pause = 0
	}
	s.mqtt = mqttserver.New(mqttserver.Options{
		Broker: s.core, Auth: s.auth, Log: s.log,
		ConnectTimeout: cfg.Limits.ConnectTimeout, CloseGrace: time.Second, PacketSize: int(cfg.Limits.PacketSize),
		TopicLength: cfg.Limits.TopicLength, Inflight: cfg.Limits.Inflight, ReceiveMax: cfg.Limits.ReceiveMaximum, Pause: pause,
		Outbox: int(cfg.Limits.Outbox), SessionExpiry: expirySeconds(cfg.Limits.SessionExpiry),
		KeepAlive: uint16(cfg.Limits.KeepAlive / time.Second), MaxQoS: cfg.Limits.QoS,
		Memory: int64(cfg.Limits.PendingBytesTotal), Share: share,
		ResponseTopic: responseTopic(cfg), StrictUTF8: cfg.MQTT.StrictUTF8, HideRefusals: cfg.Auth.HideRefusals,
		Connections: cfg.Limits.Connections, PerAddress: cfg.Limits.ConnectionsPerAddress, Places: s.places.clients, Web: s.web, Proxies: s.proxies, Turns: &s.turns,
	})
	return nil
}

// startRocketMQ makes the gateway for RocketMQ clients, if one listens.
func (s *server) startRocketMQ(conf *tls.Config) (err error) {
	cfg := s.cfg
	if cfg.Listen.RocketMQ == "" && cfg.Listen.RocketMQGRPC == "" {
		return nil
	}
	s.rocketmq, err = rocketmqserver.New(rocketmqserver.Options{
		Broker: s.core, Auth: s.auth, Log: s.log, TLS: conf, Topics: cfg.Topics,
		Advertise: cfg.RocketMQ.Advertise, AdvertiseGRPC: cfg.RocketMQ.AdvertiseGRPC, KeepNamespace: cfg.RocketMQ.KeepNamespace,
		BodySize: int(cfg.Limits.PacketSize), TopicLength: cfg.Limits.TopicLength, MaxQoS: cfg.Limits.QoS, MaxDelay: cfg.RocketMQ.MaxDelay,
		PacketSize: int(cfg.Limits.PacketSize), StrictUTF8: cfg.MQTT.StrictUTF8, InflateRate: int64(cfg.RocketMQ.InflateRate),
		Unanswered: cfg.Limits.ReceiveMaximum, ReadBytes: int64(cfg.Limits.PendingBytesTotal) / 2,
		IdleTimeout: cfg.RocketMQ.IdleTimeout, FrameTime: cfg.Limits.ConnectTimeout,
		Connections: cfg.Limits.Connections, PerAddress: cfg.Limits.ConnectionsPerAddress, Places: s.places.clients, Proxies: s.proxies, Turns: &s.turns,
	})
	return err
}

// startWeb reads which browsers and load balancers are known. Those of browsers
// may be set again while the server runs: setWeb.
func (s *server) startWeb() (err error) {
	if s.proxies, err = gateway.ParseProxies(s.cfg.Listen.ProxyProtocol); err != nil {
		return fmt.Errorf("listen.proxy-protocol %w", err)
	}
	s.web = gateway.NewWebPolicy(s.auth.Anonymous, s.log)
	return s.setWeb(s.cfg)
}

// setWeb lets listen.ws-origins and listen.hosts count from the next request on.
func (s *server) setWeb(cfg *config.Config) error {
	origins, err := gateway.ParseOrigins(cfg.Listen.WSOrigins)
	if err != nil {
		return fmt.Errorf("listen.ws-origins %w", err)
	}
	hosts, err := gateway.ParseHosts(cfg.Listen.Hosts)
	if err != nil {
		return fmt.Errorf("listen.hosts %w", err)
	}
	s.web.Set(origins, hosts)
	return nil
}

// expirySeconds is the longest session expiry interval; 0 in the settings
// means no limit.
func expirySeconds(d time.Duration) uint32 {
	if d == 0 {
		return broker.NeverExpires
	}
	return uint32(min(max(d/time.Second, 1), math.MaxUint32-1))
}

// responseTopic is what clients are told as their response information: nothing
// if nobody may publish below its parent topic.
func responseTopic(cfg *config.Config) string {
	topic := cfg.MQTT.ResponseTopic
	parent := string(mq.ParentTopic([]byte(topic)))
	if len(cfg.Topics) > 0 && !slices.Contains(cfg.Topics, parent) {
		return ""
	}
	return topic
}

// certificate reads the server's certificate; nil: there is none.
func (s *server) certificate() (*tls.Config, error) {
	if s.cfg.TLS.Cert == "" {
		return nil, nil
	}
	cert, err := mqttserver.LoadCertificate(s.cfg.TLS.Cert, s.cfg.TLS.Key, func(err error) {
		s.log.Error("cannot read the changed certificate; the old one stays in use", "error", err)
	})
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	s.cert = cert
	return cert.Config(), nil
}

// listen opens the listeners.
func (s *server) listen(conf *tls.Config) error {
	at := &s.cfg.Listen
	vip := ""
	if s.cfg.RocketMQ.VIPChannel {
		vip = s.cfg.VIPAddr()
	}
	for _, x := range []struct {
		name, addr string
		tls        bool
	}{
		{"mqtt", at.MQTT, false}, {"mqtts", at.MQTTS, true}, {"ws", at.WS, false}, {"wss", at.WSS, true},
		{"rocketmq", at.RocketMQ, false}, {"rocketmq-vip", vip, false}, {"rocketmq-grpc", at.RocketMQGRPC, false}, {"http", at.HTTP, false},
	} {
		if x.addr == "" {
			continue
		}
		var lc net.ListenConfig
		if x.name == "mqtt" || x.name == "mqtts" {
			lc.KeepAlive = -1 // the gateway turns it on where MQTT's does not serve
		}
		l, err := lc.Listen(context.Background(), "tcp", x.addr)
		if err != nil {
			setting := strings.TrimSuffix(x.name, "-vip")
			return fmt.Errorf("listen.%s: %w; choose another address with --%s", setting, err, setting)
		}
		b := listening{name: x.name, l: l}
		if x.tls {
			if b.tls = conf; s.cfg.TLS.RSA {
				b.tls = mqttserver.WithRSAKeyExchange(conf)
			}
		}
		s.bound = append(s.bound, b)
	}
	return nil
}

// closeListeners closes what listen has opened.
func (s *server) closeListeners() {
	for _, b := range s.bound {
		_ = b.l.Close()
	}
	s.bound = nil
}

// serve starts to accept.
func (s *server) serve() {
	for _, b := range s.bound {
		s.log.Info("listening", "transport", b.name, "address", b.l.Addr().String())
		switch b.name {
		case "http":
			s.api.Serve(b.l)
		case "rocketmq":
			s.rocketmq.ServeRemoting(b.l, portOf(b.l))
		case "rocketmq-vip":
			s.rocketmq.ServeRemoting(b.l, portOf(b.l)+2)
		case "rocketmq-grpc":
			s.rocketmq.ServeGRPC(b.l)
		case "ws", "wss":
			s.mqtt.ServeWebSocket(b.l, b.tls)
		default:
			s.mqtt.Serve(b.l, b.tls)
		}
	}
}

// portOf is the port of a TCP listener.
func portOf(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

// shutdown ends in good order.
func (s *server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if s.rocketmq != nil {
		s.rocketmq.Refuse()
	}
	if err := s.mqtt.Shutdown(ctx); err != nil {
		s.log.Warn("some connections did not close in time", "error", err)
	}
	if s.rocketmq != nil { // when devices have gone, every sender has its answer
		if err := s.rocketmq.Shutdown(ctx); err != nil {
			s.log.Warn("some RocketMQ clients did not close in time", "error", err)
		}
	}
	if err := s.api.Shutdown(ctx); err != nil {
		s.log.Warn("HTTP did not close in time", "error", err)
	}
}

// close frees what startServer has opened.
func (s *server) close() {
	s.closeListeners()
	if s.core != nil {
		s.core.Close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Error("cannot close the store", "error", err)
		}
	}
	if s.auth != nil {
		s.auth.Close()
	}
}

// banner tells a newcomer what to do next.
func (s *server) banner(w io.Writer) {
	var at string
	local := true
	for _, b := range s.bound {
		scheme := map[string]string{"mqtt": "tcp://", "mqtts": "tls://", "ws": "ws://", "wss": "wss://", "http": "http://"}[b.name]
		path := map[string]string{"ws": "/mqtt", "wss": "/mqtt", "http": "/metrics"}[b.name]
		fmt.Fprintf(w, "  %-13s %s%s%s\n", b.name, scheme, b.l.Addr(), path)
		addr, ok := b.l.Addr().(*net.TCPAddr)
		local = local && ok && addr.IP.IsLoopback()
		if b.name == "mqtt" && ok {
			if addr.IP.IsUnspecified() {
				addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: addr.Port}
			}
			at = addr.String()
		}
	}
	login := ""
	switch {
	case !s.auth.Anonymous():
		login = " --user NAME --password -"
	case local:
		fmt.Fprintln(w, "\nNo login is needed: anybody on this machine may connect.")
	default:
		fmt.Fprintln(w, "\nNo login is needed: ANYBODY WHO REACHES THESE ADDRESSES may connect.")
	}
	if at == "" {
		return
	}
	server := ""
	if at != config.Default().Listen.MQTT {
		server = " --server tcp://" + at
	}
	fmt.Fprintf(w, "\nTry it, in two more terminals:\n\n  %[1]s listen%[2]s%[3]s --client-id dev1 --persistent\n  %[1]s send%[2]s%[3]s dev1 'hello'\n\n",
		os.Args[0], server, login)
}

type serveCmd struct {
	configFlags
	serverFlags
	Insecure bool `help:"Listen on addresses that other machines can reach, though anybody may log in."`
}

func (*serveCmd) Help() string {
	return `Without a user, an access key or auth.anonymous, anybody may log in, and the server listens on loopback
addresses only. "homing config" shows every setting.

Examples:

    homing serve
    homing serve --config homing.yml --mqtt :1883 --set store.sync=os`
}

// warnAtStart logs what is allowed, but may not be meant.
func (s *server) warnAtStart(file string) {
	s.noteNobody()
	warnReadable(s.log, s.cfg, file)
	if s.cfg.TLS.RSA {
		s.log.Warn("tls.rsa-key-exchange is on: whoever gets the private key later can read what was recorded")
	}
	if at := s.cfg.Listen.HTTP; at != "" && !config.IsLoopback(at) {
		s.log.Warn("listen.http needs no login: whoever reaches it can read the metrics and the health of the server, no messages. "+
			"Listen on 127.0.0.1, or let a firewall or reverse proxy decide", "address", at)
	}
}

// Run serves until a signal ends ctx. SIGHUP reads the configuration again.
func (c *serveCmd) Run(ctx context.Context, con *console) error {
	cfg, err := c.load(con, c.settings()...)
	if err != nil {
		return err
	}
	if con.env("GOGC") == "" {
		paceGC(ctx)
	}
	level := new(slog.LevelVar)
	level.Set(levelOf(cfg.Log))
	log := newLeveledLogger(con, cfg.Log, level)
	s, err := startServer(cfg, c.Insecure, log)
	if err != nil {
		return err
	}
	defer s.close()
	if every := cfg.Sys.Interval; every > 0 {
		if !slices.ContainsFunc(cfg.Auth.Rules, func(r config.Rule) bool { return strings.HasPrefix(r.Topic, "$SYS") }) {
			log.Warn("sys.interval is set, but no rule of auth.rules names $SYS: nobody can read the statistics")
		}
		defer s.startStatistics(every)()
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	s.warnAtStart(c.file(con))
	s.serve()
	s.banner(con.Out)
	r := &reloader{
		s: s, now: cfg, file: c.file(con), insecure: c.Insecure, level: level,
		load: func() (*config.Config, error) { return c.load(con, c.settings()...) },
	}
	r.run(ctx, hup)
	log.Info("shutting down")
	s.shutdown()
	return nil
}
