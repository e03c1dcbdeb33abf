package mqttclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func TestPublish(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			c, p, _ := connect(t, mqttclient.Options{Version: v}, nil)
			if _, err := c.Publish(t.Context(), message("a/p2p/b", "zero", 0)); err != nil {
				t.Fatal(err)
			}
			if m := p.publish(); string(m.Payload) != "zero" || m.QoS != 0 {
				t.Errorf("got %+v", m)
			}

			done := make(chan mqttclient.Result, 1)
			publish := func(qos byte) {
				go func() {
					r, err := c.Publish(t.Context(), message("a/p2p/b", "x", qos))
					if err != nil {
						t.Error(err)
					}
					done <- r
				}()
			}
			want := mqtt.CodeNoMatchingSubscribers
			if v != mqtt.V5 {
				want = 0
			}
			publish(1)
			p.send(acknowledge(mqtt.PUBACK, p.publish().PacketID, want))
			if r := wait(t, done); r.Code != want {
				t.Errorf("QoS 1: %v", r)
			}
			publish(2)
			id := p.publish().PacketID
			p.send(acknowledge(mqtt.PUBREC, id, want))
			p.ack(mqtt.PUBREL)
			p.send(acknowledge(mqtt.PUBCOMP, id, 0))
			if r := wait(t, done); r.Code != want {
				t.Errorf("QoS 2: %v", r)
			}
		})
	}
}

func TestPublishRefused(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, receiveMaximum(1))
	for qos, ack := range map[byte]mqtt.PacketType{1: mqtt.PUBACK, 2: mqtt.PUBREC} {
		done := make(chan mqttclient.Result, 1)
		if err := c.PublishAsync(t.Context(), message("t", "", qos), func(r mqttclient.Result) { done <- r }); err != nil {
			t.Fatal(err) // the window is 1: the one before must have ended
		}
		a := acknowledge(ack, p.publish().PacketID, mqtt.CodeQuotaExceeded)
		a.Properties.ReasonString = []byte("inbox full")
		a.Properties.Set(mqtt.PropReasonString)
		p.send(a)
		if r := wait(t, done); r.Code != mqtt.CodeQuotaExceeded || r.Reason != "inbox full" || r.Err != nil {
			t.Errorf("QoS %d: %v", qos, r)
		}
	}
}

// With the server's receive maximum reached nothing leaves until something is
// acknowledged.
func TestReceiveMaximum(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, receiveMaximum(2))
	const total = 50
	var done atomic.Int32
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for i := range total {
			m := message("t", fmt.Sprint(i), byte(1+i%2))
			if err := c.PublishAsync(t.Context(), m, func(mqttclient.Result) { done.Add(1) }); err != nil {
				t.Error(err)
			}
		}
	}()
	inflight := map[uint16]bool{}
	got := 0
	for got < total || len(inflight) > 0 {
		first, body, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		if mqtt.TypeOf(first) == mqtt.PUBREL {
			var a mqtt.Ack
			if err := a.Decode(first, body, p.version); err != nil {
				t.Fatal(err)
			}
			delete(inflight, a.PacketID)
			p.send(acknowledge(mqtt.PUBCOMP, a.PacketID, 0))
			continue
		}
		var m mqtt.Publish
		if err := m.Decode(first, body, p.version); err != nil {
			t.Fatal(err)
		}
		if string(m.Payload) != fmt.Sprint(got) {
			t.Fatalf("message %s, want %d", m.Payload, got)
		}
		got++
		inflight[m.PacketID] = true
		if len(inflight) > 2 {
			t.Fatalf("%d in flight", len(inflight))
		}
		if m.QoS == 2 {
			p.send(acknowledge(mqtt.PUBREC, m.PacketID, 0))
			continue
		}
		delete(inflight, m.PacketID)
		p.send(acknowledge(mqtt.PUBACK, m.PacketID, 0))
	}
	<-finished
	c.Close()
	if n := done.Load(); n > total {
		t.Errorf("%d completions", n)
	}
}

func TestEnqueueDoesNotWait(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, receiveMaximum(1))
	if err := c.Enqueue(message("t", "1", 1), nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Enqueue(message("t", "2", 1), nil); !errors.Is(err, mqttclient.ErrWindow) {
		t.Errorf("second: %v", err)
	}
	if err := c.Enqueue(message("t", "3", 0), nil); err != nil {
		t.Errorf("QoS 0 needs no window: %v", err)
	}
	c.Flush()
	if m := p.publish(); string(m.Payload) != "1" {
		t.Errorf("got %s", m.Payload)
	}
	if m := p.publish(); string(m.Payload) != "3" {
		t.Errorf("got %s", m.Payload)
	}
}

// A server that reads nothing makes nobody wait, and gets everything in the end.
func TestFullSocket(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, nil)
	payload := bytes.Repeat([]byte("x"), 100<<10)
	const total = 200 // 20 MB, more than a loopback socket takes
	for i := range total {
		payload[0] = byte(i)
		if err := c.Enqueue(&mqtt.Publish{Topic: []byte("t"), Payload: payload}, nil); err != nil {
			t.Fatal(err)
		}
		c.Flush()
	}
	for i := range total {
		if m := p.publish(); m.Payload[0] != byte(i) || len(m.Payload) != len(payload) {
			t.Fatalf("message %d: %d bytes, first is %d", i, len(m.Payload), m.Payload[0])
		}
	}
}

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes atomic.Int32
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestWritesAreCoalesced(t *testing.T) {
	client, server := pair(t)
	counting := &countingConn{Conn: client}
	p := newPeer(t, server)
	go p.accept(new(mqtt.Connack))
	c, err := mqttclient.Dial(t.Context(), mqttclient.Options{
		DialConn: func(context.Context) (net.Conn, error) { return counting, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 100 {
		if err := c.Enqueue(message("t", "x", 1), nil); err != nil {
			t.Fatal(err)
		}
	}
	c.Flush()
	var all []packet
	for range 100 {
		all = append(all, message("t", "y", 1))
		all[len(all)-1].(*mqtt.Publish).PacketID = p.publish().PacketID
	}
	p.send(all...) // a batch of messages is acknowledged in few writes
	for range 100 {
		p.ack(mqtt.PUBACK)
	}
	if n := counting.writes.Load(); n > 10 {
		t.Errorf("%d writes", n)
	}
}

// What cannot be answered any more is completed with the error.
func TestConnectionEndsWithPublishesUnderWay(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{}, nil)
	done := make(chan mqttclient.Result, 2)
	for qos := range byte(2) {
		if err := c.PublishAsync(t.Context(), message("t", "", qos+1), func(r mqttclient.Result) { done <- r }); err != nil {
			t.Fatal(err)
		}
	}
	p.publish()
	p.send(acknowledge(mqtt.PUBREC, p.publish().PacketID, 0))
	p.ack(mqtt.PUBREL)
	p.conn.Close()
	for range 2 {
		if r := wait(t, done); r.Err == nil {
			t.Errorf("result %v", r)
		}
	}
	if _, err := c.Publish(t.Context(), message("t", "", 1)); err == nil {
		t.Error("publish after the end")
	}
}

func TestUnexpectedAcknowledgement(t *testing.T) {
	for _, a := range []*mqtt.Ack{acknowledge(mqtt.PUBACK, 5, 0), acknowledge(mqtt.PUBCOMP, 5, 0)} {
		c, p, _ := connect(t, mqttclient.Options{}, nil)
		p.send(a)
		<-c.Done()
		if c.Err() == nil || errors.Is(c.Err(), mqttclient.ErrClosed) {
			t.Errorf("%v: %v", a.Type, c.Err())
		}
	}
	_, p, _ := connect(t, mqttclient.Options{}, nil)
	p.send(acknowledge(mqtt.PUBREC, 5, 0))
	if a := p.ack(mqtt.PUBREL); a.Code != mqtt.CodePacketIdentifierNotFound {
		t.Errorf("PUBREL code %v", a.Code)
	}
}

func TestSubscribe(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			c, p, _ := connect(t, mqttclient.Options{Version: v}, receiveMaximum(1))
			done := make(chan []mqtt.ReasonCode, 1)
			go func() {
				codes, err := c.Subscribe(t.Context(), 1, "a/#", "b/p2p/x")
				if err != nil {
					t.Error(err)
				}
				done <- codes
			}()
			var s mqtt.Subscribe
			p.expect(mqtt.SUBSCRIBE, &s)
			p.send(&mqtt.Suback{PacketID: s.PacketID, Codes: []mqtt.ReasonCode{1, 0x80}})
			if got := wait(t, done); len(got) != 2 || got[0] != 1 || got[1] != 0x80 {
				t.Errorf("codes %v", got)
			}
			go func() {
				codes, err := c.Unsubscribe(t.Context(), "a/#")
				if err != nil {
					t.Error(err)
				}
				done <- codes
			}()
			var u mqtt.Unsubscribe
			p.expect(mqtt.UNSUBSCRIBE, &u)
			p.send(&mqtt.Unsuback{PacketID: u.PacketID, Codes: []mqtt.ReasonCode{0}})
			if got := wait(t, done); v == mqtt.V5 && len(got) != 1 {
				t.Errorf("codes %v", got)
			}
		})
	}
}

func TestSubscribeWhenConnectionEnds(t *testing.T) {
	c, p, _ := connect(t, mqttclient.Options{Session: new(mqttclient.Session)}, nil)
	done := make(chan error, 1)
	go func() {
		_, err := c.Subscribe(t.Context(), 1, "a/#")
		done <- err
	}()
	p.expect(mqtt.SUBSCRIBE, new(mqtt.Subscribe))
	p.conn.Close()
	if wait(t, done) == nil {
		t.Error("no error")
	}
}
