package mqttclient_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var versions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// packet is what all packets are to a peer.
type packet interface {
	Append(dst []byte, v mqtt.Version) []byte
}

// peer is the server's end of one connection, played by a test.
type peer struct {
	t       *testing.T
	conn    net.Conn
	r       *bufio.Reader
	version mqtt.Version
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	t.Cleanup(func() { conn.Close() })
	return &peer{t: t, conn: conn, r: bufio.NewReader(conn), version: mqtt.V5}
}

// next returns the next packet's first byte and body; io.EOF at the end.
func (p *peer) next() (byte, []byte, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	first, err := p.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(p.r)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(p.r, body)
	return first, body, err
}

// expect reads a packet into one that can decode it, and fails the test if it is
// of another type.
func (p *peer) expect(want mqtt.PacketType, into interface {
	Decode(first byte, body []byte, v mqtt.Version) error
},
) {
	p.t.Helper()
	first, body, err := p.next()
	if err != nil {
		p.t.Fatalf("wait for %v: %v", want, err)
	}
	if got := mqtt.TypeOf(first); got != want {
		p.t.Fatalf("got %v % x, want %v", got, body, want)
	}
	if err := into.Decode(first, body, p.version); err != nil {
		p.t.Fatalf("decode %v: %v", want, err)
	}
}

func (p *peer) publish() *mqtt.Publish {
	p.t.Helper()
	m := new(mqtt.Publish)
	p.expect(mqtt.PUBLISH, m)
	return m
}

func (p *peer) ack(want mqtt.PacketType) *mqtt.Ack {
	p.t.Helper()
	a := new(mqtt.Ack)
	p.expect(want, a)
	return a
}

// send sends packets in one write.
func (p *peer) send(packets ...packet) {
	p.t.Helper()
	var b []byte
	for _, x := range packets {
		b = x.Append(b, p.version)
	}
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// accept reads the CONNECT and answers it. It may be called in any goroutine.
func (p *peer) accept(answer *mqtt.Connack) *mqtt.Connect {
	var c mqtt.Connect
	first, body, err := p.next()
	if err == nil {
		err = c.Decode(first, body)
	}
	if err == nil {
		p.version = c.Version
		_, err = p.conn.Write(answer.Append(nil, p.version))
	}
	if err != nil {
		p.t.Errorf("accept: %v", err)
	}
	return &c
}

// acknowledge builds an acknowledgement.
func acknowledge(t mqtt.PacketType, id uint16, code mqtt.ReasonCode) *mqtt.Ack {
	return &mqtt.Ack{Type: t, PacketID: id, Code: code}
}

// pair returns both ends of a TCP connection.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// connect dials a peer that answers with answer (nil: success).
func connect(t *testing.T, o mqttclient.Options, answer *mqtt.Connack) (*mqttclient.Client, *peer, *mqtt.Connect) {
	t.Helper()
	if answer == nil {
		answer = new(mqtt.Connack)
	}
	client, server := pair(t)
	p := newPeer(t, server)
	if o.DialConn == nil {
		o.DialConn = func(context.Context) (net.Conn, error) { return client, nil }
	}
	got := make(chan *mqtt.Connect, 1)
	go func() { got <- p.accept(answer) }()
	c, err := mqttclient.Dial(t.Context(), o)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(c.Close)
	return c, p, <-got
}

// receiveMaximum is a CONNACK with one.
func receiveMaximum(n uint16) *mqtt.Connack {
	a := new(mqtt.Connack)
	a.Properties.ReceiveMaximum = n
	a.Properties.Set(mqtt.PropReceiveMaximum)
	return a
}

// collect is a Handler and the channel it fills with clones.
func collect() (func(*mqttclient.Message), <-chan *mqttclient.Message) {
	ch := make(chan *mqttclient.Message, 100)
	return func(m *mqttclient.Message) { ch <- m.Clone() }, ch
}

func wait[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func message(topic, payload string, qos byte) *mqtt.Publish {
	return &mqtt.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos}
}
