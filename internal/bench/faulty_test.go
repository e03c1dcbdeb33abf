package bench

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/homing-mq/homing/internal/mqtt"
)

func TestMain(m *testing.M) {
	if os.Getenv(actAs) != "" {
		actAsServer()
		return
	}
	goleak.VerifyTestMain(m)
}

// fault is what a faulty server does with one message.
type fault int

const (
	none      fault = iota
	drop            // acknowledge and forget
	duplicate       // deliver twice
	delay           // deliver after the next one
	refuse          // acknowledge with 0x10 and forget
	ignore          // neither acknowledge nor deliver
	damage          // deliver it shorter
)

// faulty is a server that does wrong to the messages that fault picks, and
// counts them. A topic that is not P2P is delivered to those who have subscribed.
type faulty struct {
	t     *testing.T
	l     net.Listener
	fault func(h header) fault
	wg    sync.WaitGroup

	receiveMaximum uint16

	mu      sync.Mutex
	clients map[string]*faultyConn
	counts  map[fault]int64
	subs    int
	readers map[string][]*faultyConn // by topic

	refusal  mqtt.ReasonCode // of CONNECT
	connects []mqtt.Connect  // all that came; byte slices are not kept
	left     int             // DISCONNECT packets
}

type faultyConn struct {
	conn    net.Conn
	version mqtt.Version
	mu      sync.Mutex
	nextID  uint16
	held    *mqtt.Publish // by delay
}

// newFaulty starts a server; it ends with the test.
func newFaulty(t *testing.T, f func(h header) fault) *faulty {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &faulty{t: t, l: l, fault: f, clients: map[string]*faultyConn{}, readers: map[string][]*faultyConn{}, counts: map[fault]int64{}}
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); s.wg.Wait() })
	return s
}

func (s *faulty) url() string { return "tcp://" + s.l.Addr().String() }

// count is how many messages got that fault. Those held to the end are lost.
func (s *faulty) count(f fault) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[f]
}

func (s *faulty) serve(conn net.Conn) {
	defer conn.Close()
	c := &faultyConn{conn: conn}
	r := bufio.NewReader(conn)
	for {
		first, body, err := readPacket(r)
		if err != nil || !s.packet(c, first, body) {
			return
		}
	}
}

func readPacket(r *bufio.Reader) (byte, []byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	return first, body, err
}

// packet handles one packet; it returns false at the end of the connection.
func (s *faulty) packet(c *faultyConn, first byte, body []byte) bool {
	var connect mqtt.Connect
	var publish mqtt.Publish
	var subscribe mqtt.Subscribe
	var a mqtt.Ack
	var err error
	switch t := mqtt.TypeOf(first); t {
	case mqtt.CONNECT:
		err = connect.Decode(first, body)
		c.version = connect.Version
		s.mu.Lock()
		s.clients[string(connect.ClientID)] = c
		s.connects = append(s.connects, mqtt.Connect{
			Version: connect.Version, CleanStart: connect.CleanStart, HasWill: connect.HasWill, HasUsername: connect.HasUsername,
			Properties: mqtt.Properties{SessionExpiry: connect.Properties.SessionExpiry},
		})
		s.mu.Unlock()
		c.write(s.connack())
	case mqtt.SUBSCRIBE:
		err = subscribe.Decode(first, body, c.version)
		s.mu.Lock()
		s.subs++
		if err == nil {
			topic := string(subscribe.Filters[0].Topic)
			s.readers[topic] = append(s.readers[topic], c)
		}
		s.mu.Unlock()
		c.write(&mqtt.Suback{PacketID: subscribe.PacketID, Codes: []mqtt.ReasonCode{1}})
	case mqtt.PUBLISH:
		if err = publish.Decode(first, body, c.version); err == nil {
			s.publish(c, &publish)
		}
	case mqtt.PUBREL:
		if err = a.Decode(first, body, c.version); err == nil {
			c.write(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: a.PacketID})
		}
	case mqtt.PUBREC:
		if err = a.Decode(first, body, c.version); err == nil {
			c.write(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID})
		}
	case mqtt.DISCONNECT:
		s.mu.Lock()
		s.left++
		s.mu.Unlock()
		return false
	}
	if err != nil {
		s.t.Error(err)
	}
	return err == nil
}

func (s *faulty) connack() *mqtt.Connack {
	a := &mqtt.Connack{Code: s.refusal}
	if s.receiveMaximum > 0 {
		a.Properties.ReceiveMaximum = s.receiveMaximum
		a.Properties.Set(mqtt.PropReceiveMaximum)
	}
	return a
}

func (c *faultyConn) write(p interface {
	Append([]byte, mqtt.Version) []byte
},
) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.conn.Write(p.Append(nil, c.version)) // the client may be gone
}

func (s *faulty) publish(c *faultyConn, m *mqtt.Publish) {
	a := mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID}
	f := s.route(m)
	if f == ignore {
		return
	}
	if m.QoS == 2 {
		a.Type = mqtt.PUBREC
	}
	if f == refuse {
		a.Code = mqtt.CodeNoMatchingSubscribers
	}
	if m.QoS > 0 {
		c.write(&a)
	}
}

// route delivers a message, with its fault, which it returns.
func (s *faulty) route(m *mqtt.Publish) fault {
	h, _ := readHeader(m.Payload)
	f := s.fault(h)
	s.mu.Lock()
	s.counts[f]++
	targets := s.readers[string(m.Topic)]
	if level := strings.Split(string(m.Topic), "/"); level[1] == "p2p" {
		targets = []*faultyConn{s.clients[level[2]]}
	}
	s.mu.Unlock()
	if f != ignore {
		for _, target := range targets {
			target.treat(f, m)
		}
	}
	return f
}

// treat delivers a message, or does what the fault says.
func (c *faultyConn) treat(f fault, m *mqtt.Publish) {
	switch f {
	case drop, refuse:
	case damage:
		short := *m
		short.Payload = short.Payload[:len(short.Payload)-1]
		c.deliver(&short)
	case delay:
		c.hold(m)
	default:
		c.deliver(m)
		if f == duplicate {
			c.deliver(m)
		}
		c.unhold()
	}
}

func (c *faultyConn) deliver(m *mqtt.Publish) {
	c.mu.Lock()
	c.nextID++
	if c.nextID == 0 {
		c.nextID = 1
	}
	m.PacketID = c.nextID
	c.mu.Unlock()
	c.write(m)
}

func (c *faultyConn) hold(m *mqtt.Publish) {
	n := *m
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = &n
}

func (c *faultyConn) unhold() {
	c.mu.Lock()
	m := c.held
	c.held = nil
	c.mu.Unlock()
	if m != nil {
		c.deliver(m)
	}
}

// held is how many messages wait for the next one.
func (s *faulty) held() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.mu.Lock()
		if c.held != nil {
			n++
		}
		c.mu.Unlock()
	}
	return n
}
