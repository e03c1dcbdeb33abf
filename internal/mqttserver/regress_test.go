package mqttserver

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mqtt"
)

func hello5(t *testing.T, addr, id string, clean bool) *peer {
	p := dial(t, addr, mqtt.V5)
	c := &mqtt.Connect{Version: mqtt.V5, CleanStart: clean, ClientID: []byte(id)}
	c.Properties.SessionExpiry = 3600
	c.Properties.Set(mqtt.PropSessionExpiry)
	p.send(c)
	p.expect(mqtt.CONNACK, nil)
	return p
}

// the receive maximum counts QoS 2 publishes twice after a reconnect.
func TestStallReceiveMax(t *testing.T) {
	s, addr := serve(t, nil) // ReceiveMax 10
	p := hello5(t, addr, "s", true)
	for pid := uint16(1); pid <= 10; pid++ {
		p.send(publish("a/p2p/dev", "x", 2, pid))
	}
	waitFor(t, "all are received", func() bool { return s.broker.Stats.Received[broker.P2P][2].Load() == 10 })
	_ = p.Conn.(*net.TCPConn).SetLinger(0)
	_ = p.Close() // the PUBRECs are lost
	for i := range 3 {
		waitClosed(t, s)
		p = hello5(t, addr, "s", false)
		x := publish("a/p2p/dev", "x", 2, 1)
		x.Dup = true
		p.send(x)
		first, body, err := p.next()
		if err == nil && mqtt.TypeOf(first) == mqtt.PUBREC {
			dev := connect(t, addr, "dev", mqtt.V5)
			for range 10 {
				dev.expectPublish()
			}
			dev.expectAlive() // and nothing came before the answer
			return
		}
		var d mqtt.Disconnect
		_ = d.Decode(first, body, mqtt.V5)
		t.Logf("attempt %d: %v %v %v", i, mqtt.TypeOf(first), d.Code, err)
		_ = p.Close()
	}
	t.Fatal("the client can never send its QoS 2 messages again")
}

// p2p.keep: never; two 3.1.1 clients send to each other.
func TestStallMutual(t *testing.T) {
	_, addr := serveWith(t, func(o *broker.Options) { o.Keep = broker.KeepNever }, nil)
	a, b := connect(t, addr, "A", mqtt.V311), connect(t, addr, "B", mqtt.V311)
	for pid := uint16(1); pid <= 20; pid++ { // ReceiveMax is 10
		a.send(publish("x/p2p/B", "x", 1, pid))
	}
	for pid := uint16(1); pid <= 20; pid++ {
		b.send(publish("x/p2p/A", "x", 1, pid))
	}
	acks, came := 0, 0
	answer := func(p *peer) bool {
		_ = p.SetReadDeadline(time.Now().Add(3 * time.Second))
		for {
			first, body, n, _, err := mqtt.Split(p.buf, 1<<28)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				p.buf = p.buf[n:]
				switch mqtt.TypeOf(first) {
				case mqtt.PUBACK:
					acks++
				case mqtt.PUBLISH:
					var pub mqtt.Publish
					if err := pub.Decode(first, body, mqtt.V311); err != nil {
						t.Fatal(err)
					}
					came++
					p.send(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: pub.PacketID})
				}
				return true
			}
			chunk := make([]byte, 4096)
			n, err = p.Read(chunk)
			if err != nil {
				t.Log("nothing more comes:", err)
				return false
			}
			p.buf = append(p.buf, chunk[:n]...)
		}
	}
	for acks < 40 {
		if !answer(a) && !answer(b) {
			t.Fatalf("%d of 40 acknowledged; both readers wait for each other", acks)
		}
		if acks < 40 {
			answer(b)
		}
	}
	if came != 40 {
		t.Errorf("%d of 40 messages came, and all are acknowledged", came)
	}
}

// data and FIN in one go: is the end noticed?
func TestStallFin(t *testing.T) {
	s, addr := serve(t, nil)
	dev := connect(t, addr, "dev", mqtt.V311)
	for i := range 300 {
		p := connect(t, addr, "f", mqtt.V311)
		p.send(publish("a/p2p/dev", "x", 0, 0))
		_ = p.Close()
		waitFor(t, fmt.Sprint("the server notices the end of connection ", i), func() bool { return s.Connections() == 1 })
		dev.expectPublish()
	}
	dev.expectAlive()
}

func TestStallRst(t *testing.T) {
	s, addr := serve(t, nil)
	for i := range 300 {
		p := connect(t, addr, "f", mqtt.V311)
		_ = p.Conn.(*net.TCPConn).SetLinger(0)
		p.send(publish("secret/x", "x", byte(i%2), 1))
		_ = p.Close()
		waitFor(t, fmt.Sprint("the server notices the reset of connection ", i), func() bool { return s.Connections() == 0 })
	}
}

// The end of the stream comes while the server is busy: with the data, in one event of the poller.
func TestStallFinBusy(t *testing.T) {
	s, addr := serve(t, nil)
	for range 4 {
		go func() { // keep the two cores busy for a while
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			}
		}()
	}
	dev := connect(t, addr, "dev", mqtt.V311)
	for i := range 100 { // each by itself: none is closed because another takes over
		p := connect(t, addr, fmt.Sprint("f", i), mqtt.V311)
		p.send(publish("a/p2p/dev", "x", 0, 0))
		_ = p.Close()
	}
	waitFor(t, "the server notices the end of all connections", func() bool { return s.Connections() == 1 })
	for range 100 {
		dev.expectPublish()
	}
	dev.expectAlive()
}

// A fast client: the CONNECT and all in one write, then the end.
func TestStallFinOneWrite(t *testing.T) {
	s, addr := serve(t, nil)
	dev := connect(t, addr, "dev", mqtt.V311)
	for i := range 300 {
		p := dial(t, addr, mqtt.V311)
		p.send(&mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: []byte("f")}, publish("a/p2p/dev", "x", 0, 0))
		_ = p.Conn.(*net.TCPConn).CloseWrite()
		waitFor(t, fmt.Sprint("the server notices the end of connection ", i), func() bool { return s.Connections() == 1 })
		_ = p.Close()
		dev.expectPublish()
	}
	dev.expectAlive()
}
