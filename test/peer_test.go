package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/homing-mq/homing/internal/mqtt"
)

// never is the session expiry interval of a session that does not end.
const never = 0xFFFFFFFF

// versions are those that most tests run with.
var versions = []mqtt.Version{mqtt.V311, mqtt.V5}

// packet is what a codec struct can do.
type packet interface {
	Append(dst []byte, v mqtt.Version) []byte
}

// peer is an MQTT client that does what the test says, wrong things too, and
// shows every packet. It belongs to the goroutine of the test.
type peer struct {
	t       testing.TB
	server  *server
	id      string
	conn    net.Conn
	version mqtt.Version
	connack *mqtt.Connack
	in      chan any // from the server; closed at the end
	err     error    // why it ended, once in is closed
	stash   []any    // read while something else was asked for
	lastID  uint16
}

// dial opens a network connection.
func (s *server) dial(transport string) (net.Conn, error) {
	return dialAddr(transport, s.addr[transport])
}

// dialAddr opens a network connection to HOST:PORT.
func dialAddr(transport, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	anyCert := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // made by the test
	switch transport {
	case "mqtt":
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	case "mqtts":
		return (&tls.Dialer{Config: anyCert}).DialContext(ctx, "tcp", addr)
	}
	ws, _, err := websocket.Dial(ctx, transport+"://"+addr+"/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"},
		HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: anyCert}},
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
}

// open is a peer that has sent nothing.
func (s *server) open(transport string, v mqtt.Version) *peer {
	s.t.Helper()
	conn, err := s.dial(transport)
	if err != nil {
		s.t.Fatal(err)
	}
	p := newPeer(s.t, conn, v)
	p.server = s
	return p
}

func newPeer(t testing.TB, conn net.Conn, v mqtt.Version) *peer {
	p := &peer{t: t, conn: conn, version: v, in: make(chan any, 1<<16)}
	t.Cleanup(func() { conn.Close() })
	go func() {
		defer close(p.in)
		r := bufio.NewReaderSize(conn, 64<<10)
		for {
			x, err := readPacket(r, v)
			if err != nil {
				p.err = err
				return
			}
			p.in <- x
		}
	}()
	return p
}

// readPacket reads and decodes a packet from a server. The result owns its
// memory.
func readPacket(r *bufio.Reader, v mqtt.Version) (any, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(r) // MQTT's form of a length is the same
	if err != nil {
		return nil, err
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	var p interface {
		Decode(first byte, body []byte, v mqtt.Version) error
	}
	switch t := mqtt.TypeOf(first); t {
	case mqtt.CONNACK:
		p = new(mqtt.Connack)
	case mqtt.PUBLISH:
		p = new(mqtt.Publish)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBREL, mqtt.PUBCOMP:
		p = new(mqtt.Ack)
	case mqtt.SUBACK:
		p = new(mqtt.Suback)
	case mqtt.UNSUBACK:
		p = new(mqtt.Unsuback)
	case mqtt.PINGRESP:
		p = new(mqtt.Pingresp)
	case mqtt.DISCONNECT:
		p = new(mqtt.Disconnect)
	default:
		return nil, fmt.Errorf("the server sent %v", t)
	}
	if err := p.Decode(first, body, v); err != nil {
		return nil, fmt.Errorf("the server sent a bad %v: %w", mqtt.TypeOf(first), err)
	}
	return p, nil
}

// as changes a CONNECT.
type as func(*mqtt.Connect)

// persistent asks for a session that stays.
func persistent(c *mqtt.Connect) {
	c.CleanStart = false
	expires(never)(c)
}

// expires sets the session expiry interval in seconds.
func expires(seconds uint32) as {
	return func(c *mqtt.Connect) {
		c.Properties.SessionExpiry = seconds
		c.Properties.Set(mqtt.PropSessionExpiry)
	}
}

// clean starts anew.
func clean(c *mqtt.Connect) { c.CleanStart = true }

func login(user, password string) as {
	return func(c *mqtt.Connect) {
		c.HasUsername, c.Username = true, []byte(user)
		c.HasPassword, c.Password = true, []byte(password)
	}
}

func keepAlive(seconds uint16) as { return func(c *mqtt.Connect) { c.KeepAlive = seconds } }

func receiveMaximum(n uint16) as {
	return func(c *mqtt.Connect) {
		c.Properties.ReceiveMaximum = n
		c.Properties.Set(mqtt.PropReceiveMaximum)
	}
}

func maximumPacketSize(n uint32) as {
	return func(c *mqtt.Connect) {
		c.Properties.MaximumPacketSize = n
		c.Properties.Set(mqtt.PropMaximumPacketSize)
	}
}

// hello sends CONNECT, with clean start if nothing else is asked for.
func (p *peer) hello(id string, how ...as) {
	p.t.Helper()
	c := &mqtt.Connect{ClientID: []byte(id), CleanStart: true}
	for _, f := range how {
		f(c)
	}
	p.id = id
	p.send(c)
}

// connect is a peer that is connected over TCP.
func (s *server) connect(v mqtt.Version, id string, how ...as) *peer {
	s.t.Helper()
	return s.connectOver("mqtt", v, id, how...)
}

func (s *server) connectOver(transport string, v mqtt.Version, id string, how ...as) *peer {
	s.t.Helper()
	p := s.open(transport, v)
	p.hello(id, how...)
	if p.connack = receive[*mqtt.Connack](p); p.connack.Code != 0 {
		s.t.Fatalf("%s was refused: %v", id, p.connack.Code)
	}
	return p
}

// refused connects and returns the code of the refusal; the connection must
// end.
func (s *server) refused(v mqtt.Version, id string, how ...as) mqtt.ReasonCode {
	s.t.Helper()
	p := s.open("mqtt", v)
	p.hello(id, how...)
	code := receive[*mqtt.Connack](p).Code
	if code != 0 {
		p.ended()
	}
	p.conn.Close()
	return code
}

func (p *peer) send(packets ...packet) {
	p.t.Helper()
	var b []byte
	for _, x := range packets {
		b = x.Append(b, p.version)
	}
	p.write(b)
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("%s: write: %v", p.id, err)
	}
}

// next returns the next packet, nil at the end of the connection.
func (p *peer) next() any {
	p.t.Helper()
	select {
	case x := <-p.in:
		return x
	case <-time.After(patience):
		p.t.Fatalf("%s: nothing comes from the server; not asked for: %v", p.id, show(p.stash))
		return nil
	}
}

// receiveIf returns the first packet of type T that satisfies ok; what comes
// before it waits to be asked for.
func receiveIf[T any](p *peer, ok func(T) bool) T {
	p.t.Helper()
	for i, x := range p.stash {
		if y, is := x.(T); is && ok(y) {
			p.stash = append(p.stash[:i:i], p.stash[i+1:]...)
			return y
		}
	}
	for {
		x := p.next()
		if x == nil {
			var want T
			p.t.Fatalf("%s: the connection ended (%v) before a %T; not asked for: %v", p.id, p.err, want, show(p.stash))
		}
		if y, is := x.(T); is && ok(y) {
			return y
		}
		p.stash = append(p.stash, x)
	}
}

func receive[T any](p *peer) T {
	p.t.Helper()
	return receiveIf(p, func(T) bool { return true })
}

// ended waits for the end of the connection and returns what came before it
// and was not asked for.
func (p *peer) ended() []any {
	p.t.Helper()
	for x := p.next(); x != nil; x = p.next() {
		p.stash = append(p.stash, x)
	}
	return p.stash
}

// show describes packets for messages.
func show(packets []any) []string {
	var list []string
	for _, x := range packets {
		switch x := x.(type) {
		case *mqtt.Publish:
			list = append(list, fmt.Sprintf("PUBLISH(%s %.40q qos %d id %d dup %v)", x.Topic, x.Payload, x.QoS, x.PacketID, x.Dup))
		case *mqtt.Ack:
			list = append(list, fmt.Sprintf("%v(id %d 0x%02X)", x.Type, x.PacketID, byte(x.Code)))
		case *mqtt.Disconnect:
			list = append(list, fmt.Sprintf("DISCONNECT(0x%02X %s)", byte(x.Code), x.Properties.ReasonString))
		default:
			list = append(list, fmt.Sprintf("%T", x))
		}
	}
	return list
}
