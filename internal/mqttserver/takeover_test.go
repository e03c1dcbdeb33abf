package mqttserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mqtt"
)

// world is a gateway on all transports whose readers the test can hold up.
type world struct {
	t    *testing.T
	s    *Server
	addr [4]string // by transport

	mu      sync.Mutex
	held    *input        // its reader is to wait
	release chan struct{} // until this is closed
}

func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	w := &world{t: t}
	w.s, w.addr[overTCP] = serve(t, func(o *Options) {
		o.gate = w.pass
		if change != nil {
			change(o)
		}
	})
	https := httptest.NewTLSServer(nil)
	conf := &tls.Config{Certificates: https.TLS.Certificates}
	https.Close()
	for _, over := range []transport{overTLS, overWS, overWSS} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.addr[over] = l.Addr().String()
		switch over {
		case overTLS:
			w.s.Serve(l, conf)
		case overWS:
			w.s.ServeWebSocket(l, nil)
		default:
			w.s.ServeWebSocket(l, conf)
		}
	}
	t.Cleanup(w.letGo)
	return w
}

// pass is the gateway's gate.
func (w *world) pass(in *input) {
	w.mu.Lock()
	held, release := w.held == in, w.release
	w.mu.Unlock()
	if held {
		<-release
	}
}

// hold keeps the reader of a client's connection from reading any more.
func (w *world) hold(id string) *input {
	w.t.Helper()
	in := w.conn(id).in
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.release = in, make(chan struct{})
	return in
}

func (w *world) letGo() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		close(w.release)
		w.held = nil
	}
}

// conn is the connection of a client, which waits for input.
func (w *world) conn(id string) (found *conn) {
	w.t.Helper()
	until(w.t, "the client's connection waits for input", func() bool {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		for c := w.s.conns.next; c != &w.s.conns; c = c.next {
			if c.connected.Load() && c.clientID() == id && c.in.idle() {
				found = c
				return true
			}
		}
		return false
	})
	return found
}

func (in *input) idle() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.drained && !in.ended
}

func (in *input) count() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.read
}

func (in *input) awaited() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.settled != nil
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 10 s: %s", what)
		}
	}
}

// dial opens a connection over a transport.
func (w *world) dial(over transport, v mqtt.Version) *peer {
	w.t.Helper()
	insecure := &tls.Config{InsecureSkipVerify: true} // of this process
	var nc net.Conn
	var err error
	switch over {
	case overTCP:
		nc, err = net.Dial("tcp", w.addr[over])
	case overTLS:
		nc, err = tls.Dial("tcp", w.addr[over], insecure)
	default:
		scheme := map[transport]string{overWS: "ws", overWSS: "wss"}[over]
		client := httptest.NewUnstartedServer(nil)
		client.StartTLS()
		defer client.Close()
		var ws *websocket.Conn
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		defer cancel()
		ws, _, err = websocket.Dial(ctx, scheme+"://"+w.addr[over]+"/mqtt",
			&websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPClient: client.Client()})
		if err == nil {
			nc = abrupt{websocket.NetConn(context.Background(), ws, websocket.MessageBinary), ws}
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = nc.Close() })
	return &peer{Conn: nc, t: w.t, v: v}
}

// abrupt is a WebSocket that is closed without waiting for the server.
type abrupt struct {
	net.Conn
	ws *websocket.Conn
}

func (a abrupt) Close() error { return a.ws.CloseNow() }

// connect sends CONNECT and returns what CONNACK says of the session.
func (w *world) connect(over transport, c *mqtt.Connect) (p *peer, present bool) {
	w.t.Helper()
	p = w.dial(over, c.Version)
	p.send(c)
	return p, p.accepted()
}

func (p *peer) accepted() (present bool) {
	p.t.Helper()
	var ack mqtt.Connack
	p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, p.v) })
	if ack.Code != 0 {
		p.t.Fatalf("CONNACK %v", ack.Code)
	}
	return ack.SessionPresent
}

// expectPayload expects a PUBLISH with a payload, after acknowledgements perhaps,
// and returns its identifier.
func (p *peer) expectPayload(want string) uint16 {
	p.t.Helper()
	m := p.nextPublish()
	if string(m.Payload) != want {
		p.t.Fatalf("got %q (DUP %v), want %q", m.Payload, m.Dup, want)
	}
	return m.PacketID
}

// nextPublish skips acknowledgements.
func (p *peer) nextPublish() (m mqtt.Publish) {
	p.t.Helper()
	for {
		first, body, err := p.next()
		if err != nil {
			p.t.Fatal(err)
		}
		if mqtt.TypeOf(first) != mqtt.PUBLISH {
			continue
		}
		if err := m.Decode(first, body, p.v); err != nil {
			p.t.Fatal(err)
		}
		return m
	}
}

// comeback is what a client does and then comes back at once, and what it and a
// watcher of everything, to whom it can send, must see. A fence is what the
// watcher publishes at the end, to both.
type comeback struct {
	name    string
	connect mqtt.Connect
	before  func(watcher *peer) // while the client is there; it may set what follows
	last    func(v mqtt.Version, pid uint16) []packet
	seen    []string // payloads that reach the watcher before the fence
	present bool
	then    func(dev *peer) // what the client sees before the fence
}

func comebacks() []comeback {
	will := mqtt.Will{Topic: []byte("all/will"), Payload: []byte("will")}
	just := func(list ...packet) func(mqtt.Version, uint16) []packet {
		return func(mqtt.Version, uint16) []packet { return list }
	}
	return []comeback{
		{name: "DISCONNECT with a will", connect: mqtt.Connect{CleanStart: true, HasWill: true, Will: will}, last: just(&mqtt.Disconnect{})},
		{name: "a will and no DISCONNECT", connect: mqtt.Connect{CleanStart: true, HasWill: true, Will: will}, last: just(), seen: []string{"will"}},
		{name: "PUBLISH QoS 0", connect: mqtt.Connect{CleanStart: true}, last: just(publish("all/x", "m", 0, 0), &mqtt.Disconnect{}), seen: []string{"m"}},
		{name: "PUBLISH QoS 0, no DISCONNECT", connect: mqtt.Connect{CleanStart: true}, last: just(publish("all/x", "m", 0, 0)), seen: []string{"m"}},
		{name: "P2P QoS 1", connect: mqtt.Connect{CleanStart: true}, last: just(publish("a/p2p/watcher", "m", 1, 7), &mqtt.Disconnect{}), seen: []string{"m"}},
		{name: "P2P QoS 2", connect: mqtt.Connect{CleanStart: true}, last: just(publish("a/p2p/watcher", "m", 2, 7), &mqtt.Disconnect{}), seen: []string{"m"}},
		{name: "many", connect: mqtt.Connect{CleanStart: true}, last: just(publish("all/x", "1", 1, 1), publish("a/p2p/watcher", "2", 0, 0), publish("all/x", "3", 0, 0)), seen: []string{"1", "2", "3"}},
		{
			name: "PUBACK", present: true,
			before: func(watcher *peer) { watcher.send(publish("a/p2p/dev", "m", 1, 3)) },
			last: func(_ mqtt.Version, pid uint16) []packet {
				return []packet{&mqtt.Ack{Type: mqtt.PUBACK, PacketID: pid}, &mqtt.Disconnect{}}
			},
		},
		{
			name: "PUBREC", present: true,
			before: func(watcher *peer) { watcher.send(publish("a/p2p/dev", "m", 2, 3)) },
			last: func(_ mqtt.Version, pid uint16) []packet {
				return []packet{&mqtt.Ack{Type: mqtt.PUBREC, PacketID: pid}}
			},
			then: func(dev *peer) { dev.expect(mqtt.PUBREL, nil) },
		},
		{name: "SUBSCRIBE", present: true, last: just(&mqtt.Subscribe{PacketID: 9, Filters: []mqtt.Filter{{Topic: []byte("late"), QoS: 1}}})},
	}
}

// TestTakeoverInput: what lay in the socket of the old connection when the client
// came back is handled first. The old connection's reader gets its turn only when
// the new CONNECT is being handled.
// [MQTT-3.14.4-3] [MQTT-4.3.2-4]
func TestTakeoverInput(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			for _, c := range comebacks() {
				t.Run(fmt.Sprintf("%v/%d/%s", over, v, c.name), func(t *testing.T) {
					t.Parallel()
					c.run(t, over, v)
				})
			}
		}
	}
}

func (c *comeback) run(t *testing.T, over transport, v mqtt.Version) {
	w := newWorld(t, nil)
	watcher, _ := w.connect(overTCP, &mqtt.Connect{Version: v, CleanStart: true, ClientID: []byte("watcher")})
	watcher.subscribe(mqtt.Filter{Topic: []byte("all/#")}, 0)
	hello := c.connect
	hello.Version, hello.ClientID = v, []byte("dev")
	if v == mqtt.V5 && !hello.CleanStart {
		hello.Properties.SessionExpiry = 100
		hello.Properties.Set(mqtt.PropSessionExpiry)
	}
	dev, _ := w.connect(over, &hello)
	var pid uint16
	if c.before != nil {
		c.before(watcher)
		pid = dev.expectPayload("m")
	}
	in := w.hold("dev")
	if last := c.last(v, pid); len(last) > 0 {
		dev.send(last...)
	} else {
		_ = dev.Close()
	}

	hello.HasWill = false
	again := w.dial(over, v)
	again.send(&hello)
	if len(c.last(v, pid)) > 0 {
		until(t, "the new connection waits for the input of the old one", in.awaited)
	}
	w.letGo()
	if present := again.accepted(); present != c.present {
		t.Errorf("session present: %v", present)
	}
	if c.then != nil {
		c.then(again)
	}
	c.fence(t, watcher, again)
}

// fence sees what the watcher and the client got until now.
func (c *comeback) fence(t *testing.T, watcher, again *peer) {
	watcher.send(publish("all/fence", "fence", 0, 0))
	var seen []string
	for {
		m := watcher.nextPublish()
		if string(m.Payload) == "fence" {
			break
		}
		seen = append(seen, string(m.Payload))
	}
	if fmt.Sprint(seen) != fmt.Sprint(c.seen) {
		t.Errorf("the watcher got %q, want %q", seen, c.seen)
	}
	watcher.send(publish("late", "late", 0, 0), publish("a/p2p/dev", "fence", 0, 0))
	if c.name == "SUBSCRIBE" {
		again.expectPayload("late")
	}
	again.expectPayload("fence")
}

// TestTakeoverSessionEnded: a goodbye that ends the session has ended it when the
// client is back.
func TestTakeoverSessionEnded(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		t.Run(over.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			hello := &mqtt.Connect{Version: mqtt.V5, ClientID: []byte("dev")}
			hello.Properties.SessionExpiry = 100
			hello.Properties.Set(mqtt.PropSessionExpiry)
			dev, _ := w.connect(over, hello)
			in := w.hold("dev")
			bye := &mqtt.Disconnect{}
			bye.Properties.Set(mqtt.PropSessionExpiry) // 0
			dev.send(bye)
			_ = dev.Close()
			again := w.dial(over, mqtt.V5)
			again.send(hello)
			until(t, "the new connection waits for the input of the old one", in.awaited)
			w.letGo()
			if again.accepted() {
				t.Error("the session that was ended is present")
			}
		})
	}
}

// TestTakeoverOfSilent: a half-dead connection costs the one that takes over no
// wait, also when half a packet came.
func TestTakeoverOfSilent(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		t.Run(over.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			hello := &mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("dev")}
			dev, _ := w.connect(over, hello)
			in := w.conn("dev").in
			before := in.count()
			dev.raw([]byte{0x30, 100, 0, 1})
			until(t, "half a packet was read", func() bool { return in.count() > before && in.idle() })
			w.hold("dev")
			again, _ := w.connect(over, hello)
			if in.awaited() {
				t.Error("the new connection waited")
			}
			w.letGo()
			again.send(&mqtt.Pingreq{})
			again.expect(mqtt.PINGRESP, nil)
		})
	}
}

// TestTakeoverOfFlood: a client that never stops sending cannot put off who takes
// over.
func TestTakeoverOfFlood(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		t.Run(over.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			hello := &mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte("dev")}
			dev, _ := w.connect(over, hello)
			var out []byte
			for range 1000 {
				out = publish("nobody", "x", 0, 0).Append(out, mqtt.V5)
			}
			stopped := make(chan int)
			go func() {
				n := 0
				for ; ; n++ {
					if _, err := dev.Write(out); err != nil {
						stopped <- n
						return
					}
				}
			}()
			until(t, "the flood arrives", func() bool { return w.s.broker.Stats.Received[broker.PubSub][0].Load() > 10_000 })
			begun := time.Now()
			again, _ := w.connect(over, hello)
			if took := time.Since(begun); took > settleTime {
				t.Errorf("accepted after %v", took)
			}
			if n := w.s.Stats.Unsettled.Load(); n != 0 {
				t.Errorf("%d takeovers gave up waiting", n)
			}
			again.send(&mqtt.Pingreq{})
			again.expect(mqtt.PINGRESP, nil)
			t.Logf("%d writes of 1000 messages", <-stopped)
		})
	}
}

// TestComeBackAtLimit: a client that has closed its connection and opens another
// one has the place of the first, though the server has not seen its end yet.
func TestComeBackAtLimit(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		t.Run(over.String(), func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Connections = 1 })
			hello := &mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("dev")}
			dev, _ := w.connect(over, hello)
			w.hold("dev")
			dev.send(&mqtt.Disconnect{})
			_ = dev.Close()
			back := make(chan *peer)
			go func() {
				p, _ := w.connect(over, hello) // a failure is seen below
				back <- p
			}()
			until(t, "the new connection waits for a place", func() bool { return w.s.limiter.Waiting() > 0 })
			w.letGo()
			p := <-back
			p.send(&mqtt.Pingreq{})
			p.expect(mqtt.PINGRESP, nil)
			if n := w.s.Stats.OverLimit.Load(); n != 0 {
				t.Errorf("%d refused", n)
			}
		})
	}
}

// TestInputOfReset: a client that closes with unread output in its socket resets
// the connection, and the server's next write fails. What it had sent before is
// handled all the same.
func TestInputOfReset(t *testing.T) {
	for _, over := range []transport{overTCP, overTLS, overWS, overWSS} {
		t.Run(over.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			watcher, _ := w.connect(overTCP, &mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("watcher")})
			watcher.subscribe(mqtt.Filter{Topic: []byte("all/#")}, 0)
			dev, _ := w.connect(over, &mqtt.Connect{
				Version: mqtt.V311, CleanStart: true, ClientID: []byte("dev"), HasWill: true,
				Will: mqtt.Will{Topic: []byte("all/will"), Payload: []byte("will")},
			})
			c := w.conn("dev")
			w.hold("dev")
			watcher.send(publish("a/p2p/dev", "unread", 0, 0), &mqtt.Pingreq{})
			watcher.expect(mqtt.PINGRESP, nil)
			dev.send(publish("all/x", "m", 0, 0), &mqtt.Disconnect{})
			_ = dev.Close()
			until(t, "a write to the client fails", func() bool {
				watcher.send(publish("a/p2p/dev", "more", 0, 0))
				c.out.mu.Lock()
				defer c.out.mu.Unlock()
				return c.out.broken
			})
			w.letGo()
			watcher.expectPayload("m")
			until(t, "the connection ends", func() bool { return w.s.Connections() == 1 })
			watcher.send(publish("all/fence", "fence", 0, 0))
			watcher.expectPayload("fence") // no will
		})
	}
}
