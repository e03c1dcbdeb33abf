package mqttserver

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// auth lets everybody in, but panics for the client ID "panic".
type auth struct{}

func (auth) Authenticate(_ context.Context, c *mq.Credentials) (*mq.Principal, error) {
	if c.ClientID == "panic" {
		panic("as asked for")
	}
	return &mq.Principal{ClientID: c.ClientID}, nil
}

func (auth) Allow(_ *mq.Principal, _ mq.Action, topic []byte) bool {
	return !strings.HasPrefix(string(topic), "secret/")
}

func (auth) Grant(_ *mq.Principal, filter []byte) mq.Grant {
	if strings.HasPrefix(string(filter), "secret/") {
		return mq.GrantNone
	}
	return mq.GrantAll
}

func (auth) Version() uint64 { return 0 }
func (auth) Changed(func())  {}

// serve starts a gateway on a store in memory and returns its address.
func serve(t *testing.T, change func(*Options)) (*Server, string) {
	t.Helper()
	return serveWith(t, nil, change)
}

func serveWith(t *testing.T, bchange func(*broker.Options), change func(*Options)) (*Server, string) {
	t.Helper()
	var b *broker.Broker
	var batch broker.Batch
	st, err := store.Open(store.Options{
		Dir: "data", FS: vfs.NewMem(), Sync: store.SyncOS, SegmentSize: 1 << 20,
		Done: func(ops []mq.Op, err error) { b.Committed(ops, err, &batch) },
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	bopt := broker.Options{
		Store: st, Auth: auth{}, Log: log, StoreAfter: 20 * time.Millisecond, PendingSize: 1 << 20, PendingAll: 64 << 20,
	}
	if bchange != nil {
		bchange(&bopt)
	}
	b, err = broker.New(bopt)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{
		Broker: b, Auth: auth{}, Log: log, ConnectTimeout: 5 * time.Second, CloseGrace: 200 * time.Millisecond, PacketSize: 1 << 20,
		TopicLength: 65535, Inflight: 100, ReceiveMax: 10, Outbox: 64 << 10, SessionExpiry: broker.NeverExpires, MaxQoS: 2,
	}
	if change != nil {
		change(&opt)
	}
	s := New(opt)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(l, nil)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		b.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// peer is a client that sends what the test says.
type peer struct {
	net.Conn
	t   *testing.T
	v   mqtt.Version
	buf []byte
}

func dial(t *testing.T, addr string, v mqtt.Version) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return &peer{Conn: nc, t: t, v: v}
}

// connect sends CONNECT and expects to be accepted.
func connect(t *testing.T, addr, id string, v mqtt.Version) *peer {
	t.Helper()
	p := dial(t, addr, v)
	p.send(&mqtt.Connect{Version: v, CleanStart: true, ClientID: []byte(id)})
	var ack mqtt.Connack
	p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, v) })
	if ack.Code != 0 {
		t.Fatalf("CONNACK %v", ack.Code)
	}
	return p
}

func (p *peer) send(packets ...packet) {
	p.t.Helper()
	var out []byte
	for _, x := range packets {
		out = x.Append(out, p.v)
	}
	p.raw(out)
}

func (p *peer) raw(b []byte) {
	p.t.Helper()
	_ = p.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next packet, or io.EOF.
func (p *peer) next() (first byte, body []byte, err error) {
	_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		first, body, n, _, err := mqtt.Split(p.buf, 1<<28)
		if err != nil {
			return 0, nil, err
		}
		if n > 0 {
			p.buf = p.buf[n:]
			return first, body, nil
		}
		chunk := make([]byte, 64<<10)
		n, err = p.Read(chunk)
		if err != nil {
			return 0, nil, err
		}
		p.buf = append(p.buf[:len(p.buf):len(p.buf)], chunk[:n]...)
	}
}

func (p *peer) expect(want mqtt.PacketType, decode func(first byte, body []byte) error) {
	p.t.Helper()
	first, body, err := p.next()
	if err != nil {
		p.t.Fatalf("waiting for %v: %v", want, err)
	}
	if got := mqtt.TypeOf(first); got != want {
		p.t.Fatalf("got %v, want %v", got, want)
	}
	if decode == nil {
		return
	}
	if err := decode(first, body); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) expectAck(t mqtt.PacketType, pid uint16, code mqtt.ReasonCode) {
	p.t.Helper()
	var a mqtt.Ack
	p.expect(t, func(first byte, body []byte) error { return a.Decode(first, body, p.v) })
	if a.PacketID != pid || a.Code != code {
		p.t.Fatalf("%v %d %v, want %d %v", t, a.PacketID, a.Code, pid, code)
	}
}

func (p *peer) expectPublish() (pub mqtt.Publish) {
	p.t.Helper()
	p.expect(mqtt.PUBLISH, func(first byte, body []byte) error { return pub.Decode(first, body, p.v) })
	return pub
}

// expectClose expects a DISCONNECT with a code (MQTT 5) and the end.
func (p *peer) expectClose(code mqtt.ReasonCode) {
	p.t.Helper()
	if p.v == mqtt.V5 && code != 0 {
		var d mqtt.Disconnect
		p.expect(mqtt.DISCONNECT, func(first byte, body []byte) error { return d.Decode(first, body, p.v) })
		if d.Code != code {
			p.t.Fatalf("DISCONNECT %v, want %v", d.Code, code)
		}
	}
	if first, _, err := p.next(); err == nil {
		p.t.Fatalf("got %v, want the connection to be closed", mqtt.TypeOf(first))
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		p.t.Fatal("the connection stays open")
	}
}

func publish(topic, payload string, qos byte, pid uint16) *mqtt.Publish {
	return &mqtt.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos, PacketID: pid}
}

// [MQTT-2.2.1-5] [MQTT-3.3.4-1] [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT3-2.3.1-6] [MQTT3-3.3.4-1]
func TestP2P(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
		dev, back := connect(t, addr, "dev", v), connect(t, addr, "back", v)
		for qos := byte(0); qos <= 2; qos++ {
			back.send(publish("orders/p2p/dev/sub", "hello", qos, 7))
			got := dev.expectPublish()
			if got.QoS != qos || string(got.Topic) != "orders/p2p/dev/sub" || string(got.Payload) != "hello" || got.Retain || got.Dup {
				t.Fatalf("got %+v", got)
			}
			switch qos {
			case 1:
				dev.send(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: got.PacketID})
				back.expectAck(mqtt.PUBACK, 7, 0)
			case 2:
				back.expectAck(mqtt.PUBREC, 7, 0)
				back.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 7})
				back.expectAck(mqtt.PUBCOMP, 7, 0)
				dev.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: got.PacketID})
				dev.expectAck(mqtt.PUBREL, got.PacketID, 0)
				dev.send(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: got.PacketID})
			}
		}
		_ = dev.Close()
		_ = back.Close()
	}
}

// TestPanicClosesOneConnection: others do not notice.
func TestPanicClosesOneConnection(t *testing.T) {
	s, addr := serve(t, nil)
	other := connect(t, addr, "other", mqtt.V5)
	bad := dial(t, addr, mqtt.V5)
	bad.send(&mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte("panic")})
	bad.expectClose(0)
	other.send(&mqtt.Pingreq{})
	other.expect(mqtt.PINGRESP, nil)
	if n := s.Stats.Panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

// TestWillOfDeadClient: a client that dies has its will published, also one
// with QoS above 0.
func TestWillOfDeadClient(t *testing.T) {
	_, addr := serve(t, nil)
	heir := connect(t, addr, "heir", mqtt.V311)
	heir.send(&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("will/+"), QoS: 1}}})
	heir.expect(mqtt.SUBACK, nil)
	dying := dial(t, addr, mqtt.V311)
	dying.send(&mqtt.Connect{
		Version: mqtt.V311, CleanStart: true, ClientID: []byte("dying"), HasWill: true,
		Will: mqtt.Will{Topic: []byte("will/x"), Payload: []byte("bye"), QoS: 1},
	})
	dying.expect(mqtt.CONNACK, nil)
	_ = dying.Close()
	if got := heir.expectPublish(); string(got.Payload) != "bye" || got.QoS != 1 {
		t.Fatalf("got %+v", got)
	}
}

// TestProtocolErrors: MQTT 5 clients are told, all are closed.
// [MQTT-3.1.0-2] [MQTT-3.3.1-4] [MQTT-3.3.2-2] [MQTT-3.3.4-6] [MQTT-4.12.0-7] [MQTT-4.13.1-1] [MQTT-4.13.2-1]
func TestProtocolErrors(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.TopicLength = 100 })
	alias := &mqtt.Publish{Payload: []byte("x"), TopicAlias: 3}
	for _, c := range []struct {
		name string
		send []byte
		code mqtt.ReasonCode
	}{
		{"second CONNECT", (&mqtt.Connect{Version: mqtt.V5, ClientID: []byte("x")}).Append(nil, mqtt.V5), mqtt.CodeProtocolError},
		{"CONNACK", []byte{0x20, 3, 0, 0, 0}, mqtt.CodeProtocolError},
		{"reserved type", []byte{0x00, 0}, mqtt.CodeMalformedPacket},
		{"QoS 3", []byte{0x36, 5, 0, 1, 'a', 0, 1}, mqtt.CodeMalformedPacket},
		{"too large", []byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}, mqtt.CodePacketTooLarge},
		{"wildcard in a topic", publish("a/+", "x", 0, 0).Append(nil, mqtt.V5), mqtt.CodeMalformedPacket},
		{"long topic", publish(strings.Repeat("x", 101), "x", 0, 0).Append(nil, mqtt.V5), mqtt.CodeTopicNameInvalid},
		{"unknown alias", alias.Append(nil, mqtt.V5), mqtt.CodeProtocolError},
		{"subscription identifier", (&mqtt.Publish{Topic: []byte("a"), SubscriptionIDs: []uint32{1}}).Append(nil, mqtt.V5), mqtt.CodeProtocolError},
		{"AUTH", (&mqtt.Auth{Code: mqtt.CodeReauthenticate}).Append(nil, mqtt.V5), mqtt.CodeProtocolError},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, addr, "bad", mqtt.V5)
			p.raw(c.send)
			p.expectClose(c.code)
		})
	}
}

// TestAckCodes: what a sender is told for each outcome.
// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT3-3.3.5-2] [MQTT3-2.3.1-6] [MQTT-2.2.1-5]
func TestAckCodes(t *testing.T) {
	_, addr := serve(t, nil)
	for _, c := range []struct {
		topic   string
		code    mqtt.ReasonCode
		closes3 bool
	}{
		{"a/p2p/nobody", mqtt.CodeNoMatchingSubscribers, false},
		{"a/nothing", mqtt.CodeNoMatchingSubscribers, false},
		{"a/p2p", mqtt.CodeTopicNameInvalid, true},
		{"a/p2p/", mqtt.CodeTopicNameInvalid, true},
		{"a/p2p/x+y", mqtt.CodeTopicNameInvalid, true},
		{"a/p2p/#", mqtt.CodeTopicNameInvalid, true},
		{"secret/p2p/x", mqtt.CodeNotAuthorized, true},
		{"secret/x", mqtt.CodeNotAuthorized, true},
		{"$SYS/x", mqtt.CodeNotAuthorized, true},
	} {
		for qos := byte(1); qos <= 2; qos++ {
			ack := []mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC}[qos-1]
			p := connect(t, addr, "v5", mqtt.V5)
			p.send(publish(c.topic, "x", qos, 9))
			p.expectAck(ack, 9, c.code)
			p.send(&mqtt.Pingreq{})
			p.expect(mqtt.PINGRESP, nil)

			p = connect(t, addr, "v3", mqtt.V311)
			p.send(publish(c.topic, "x", qos, 9))
			if c.closes3 {
				p.expectClose(0)
			} else {
				p.expectAck(ack, 9, 0)
			}
		}
		if c.closes3 { // QoS 0: 3.x is closed too
			p := connect(t, addr, "v3", mqtt.V311)
			p.send(publish(c.topic, "x", 0, 0))
			p.expectClose(0)
		}
	}
}

// TestReceiveMaximum: an MQTT 5 client that sends more at once than the server
// takes is closed; a 3.x client is not read until it may go on.
// [MQTT-3.3.4-7]
func TestReceiveMaximum(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.ReceiveMax, o.Pause = 5, 5 })
	back := connect(t, addr, "back", mqtt.V5)
	dev := connect(t, addr, "dev", mqtt.V5) // takes, and does not acknowledge
	var all []packet
	for pid := uint16(1); pid <= 6; pid++ {
		all = append(all, publish("a/p2p/dev", "x", 1, pid))
	}
	back.send(all...)
	for {
		first, _, err := back.next()
		if err != nil {
			t.Fatal("closed without DISCONNECT")
		}
		if mqtt.TypeOf(first) == mqtt.DISCONNECT {
			break
		}
	}
	for range 5 {
		dev.expectPublish()
	}

	old := connect(t, addr, "old", mqtt.V311)
	all = nil
	for pid := uint16(1); pid <= 200; pid++ {
		all = append(all, publish("a/p2p/dev", "x", 1+byte(pid%2), pid))
	}
	old.send(all...)
	for range 200 {
		first, _, err := old.next()
		if err != nil {
			t.Fatal(err)
		}
		if got := mqtt.TypeOf(first); got != mqtt.PUBACK && got != mqtt.PUBREC {
			t.Fatalf("got %v", got)
		}
	}
	for range 95 { // the window is 100
		dev.expectPublish()
	}
}

// TestClientThatDoesNotRead: acknowledgements do not pile up without bound.
func TestClientThatDoesNotRead(t *testing.T) {
	s, addr := serve(t, nil)
	p := connect(t, addr, "mute", mqtt.V311)
	pings := make([]byte, 0, 1<<20)
	for len(pings) < 1<<20 {
		pings = (&mqtt.Pingreq{}).Append(pings, mqtt.V311)
	}
	sent := 0
	for range 200 {
		_ = p.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := p.Write(pings)
		sent += n
		if err != nil {
			break
		}
	}
	if sent == 200*len(pings) {
		t.Fatal("200 MiB of PINGREQ were taken from a client that reads nothing")
	}
	s.mu.Lock()
	c := s.conns.next
	s.mu.Unlock()
	c.out.mu.Lock()
	waiting := len(c.out.buf) + c.out.writing
	c.out.mu.Unlock()
	if most := 2*s.opt.Outbox + 2*workerBuf; waiting > most {
		t.Errorf("%d bytes wait, more than %d", waiting, most)
	}
}

// TestIdleHoldsNothing: a connection that waits has no worker, also in the
// middle of a packet.
func TestIdleHoldsNothing(t *testing.T) {
	s, addr := serve(t, nil)
	p := connect(t, addr, "idle", mqtt.V311)
	whole := publish("a/p2p/idle", "hello", 0, 0).Append(nil, mqtt.V311)
	p.raw(whole[:5])
	waitFor(t, "all has come, and no worker is held by a connection that waits", func() bool { return s.Stats.BytesIn.Load() >= uint64(5+18) && s.Stats.Workers.Load() == 0 })
	p.raw(whole[5:])
	if got := p.expectPublish(); string(got.Payload) != "hello" {
		t.Fatalf("got %+v", got)
	}
	_ = p.Close()
	waitClosed(t, s)
	if n := s.Stats.Workers.Load(); n != 0 {
		t.Errorf("closed connections hold %d workers", n)
	}
}

func waitClosed(t *testing.T, s *Server) {
	t.Helper()
	waitFor(t, "all connections are closed", func() bool { return s.Connections() == 0 })
}

// waitFor waits for a condition: the one place where these tests sleep.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("it never comes that " + what)
		}
	}
}

// TestRefusedConnectIsClosed: with its CONNACK, and at once when the client goes.
// [MQTT3-3.1.3-8] [MQTT3-3.1.4-5] [MQTT3-3.2.2-5]
func TestRefusedConnectIsClosed(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.CloseGrace = time.Minute })
	for _, v := range []mqtt.Version{mqtt.V311, mqtt.V31} {
		p := dial(t, addr, v)
		p.send(&mqtt.Connect{Version: v}, &mqtt.Disconnect{}) // no client ID, not clean
		var ack mqtt.Connack
		p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, v) })
		if ack.Code != mqtt.ReturnIdentifierRejected {
			t.Fatalf("CONNACK %v", ack.Code)
		}
		p.expectClose(0)
		_ = p.Close()
		waitClosed(t, s)
	}
}

func TestLimits(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.PerAddress = 2; o.ConnectTimeout = 3 * time.Second })
	connect(t, addr, "one", mqtt.V311)
	silent := dial(t, addr, mqtt.V311)
	third := dial(t, addr, mqtt.V311)
	if _, _, err := third.next(); err == nil {
		t.Fatal("a third connection of one address was let in")
	}
	silent.expectClose(0) // no CONNECT in time
	if s.Stats.OverLimit.Load() != 1 {
		t.Error("not counted")
	}
}

// TestFragments: packets may come in any pieces.
// [MQTT-4.2.0-1]
func TestFragments(t *testing.T) {
	_, addr := serve(t, nil)
	p := connect(t, addr, "slow", mqtt.V5)
	big := strings.Repeat("x", 300<<10)
	bytes := publish("a/p2p/slow", big, 0, 0).Append(nil, mqtt.V5)
	go func() {
		for _, n := range []int{1, 1, 3, 10, 5000, 40000} {
			_, _ = p.Write(bytes[:n])
			bytes = bytes[n:]
		}
		_, _ = p.Write(bytes)
	}()
	got := p.expectPublish()
	if string(got.Payload) != big {
		t.Fatal("payload damaged")
	}
	if _, err := io.ReadFull(p, nil); err != nil {
		t.Fatal(err)
	}
}
