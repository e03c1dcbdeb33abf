package mqttclient_test

import (
	"errors"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func withID(m *mqtt.Publish, id uint16) *mqtt.Publish {
	m.PacketID = id
	return m
}

// Nobody has subscribed: messages come with the CONNACK.
func TestReceive(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			handler, got := collect()
			client, server := pair(t)
			p := newPeer(t, server)
			p.version = v
			o := mqttclient.Options{Version: v, Handler: handler, DialConn: dialTo(client)}
			go func() {
				_, _, _ = p.next()
				p.send(new(mqtt.Connack), message("a/p2p/me", "0", 0), withID(message("a/p2p/me", "1", 1), 7), withID(message("a/p2p/me", "2", 2), 8))
			}()
			c, err := mqttclient.Dial(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, want := range []string{"0", "1", "2"} {
				if m := wait(t, got); string(m.Payload) != want || string(m.Topic) != "a/p2p/me" {
					t.Errorf("got %s %s, want %s", m.Topic, m.Payload, want)
				}
			}
			if a := p.ack(mqtt.PUBACK); a.PacketID != 7 {
				t.Errorf("PUBACK %d", a.PacketID)
			}
			if a := p.ack(mqtt.PUBREC); a.PacketID != 8 {
				t.Errorf("PUBREC %d", a.PacketID)
			}
			// Repeated before PUBREL it is not a message, after PUBREL it is.
			again := withID(message("a/p2p/me", "2", 2), 8)
			again.Dup = true
			p.send(again)
			p.ack(mqtt.PUBREC)
			p.send(acknowledge(mqtt.PUBREL, 8, 0))
			if a := p.ack(mqtt.PUBCOMP); a.PacketID != 8 || a.Code != 0 {
				t.Errorf("PUBCOMP %+v", a)
			}
			p.send(withID(message("a/p2p/me", "3", 2), 8))
			if m := wait(t, got); string(m.Payload) != "3" {
				t.Errorf("got %s: the duplicate was delivered", m.Payload)
			}
			p.ack(mqtt.PUBREC)
			p.send(acknowledge(mqtt.PUBREL, 99, 0))
			if a := p.ack(mqtt.PUBCOMP); v == mqtt.V5 && a.Code != mqtt.CodePacketIdentifierNotFound {
				t.Errorf("PUBCOMP for an unknown one: %v", a.Code)
			}
		})
	}
}

func TestManualAcknowledgement(t *testing.T) {
	handler, got := collect()
	released := make(chan uint16, 1)
	c, p, _ := connect(t, mqttclient.Options{
		Handler: handler, ManualAck: true,
		OnPubrel: func(id uint16) bool { released <- id; return false },
	}, nil)
	p.send(withID(message("t", "1", 1), 1), withID(message("t", "2", 2), 2), message("t", "0", 0))
	one, two, zero := wait(t, got), wait(t, got), wait(t, got)
	zero.Ack() // does nothing
	two.Ack()
	one.AckWith(mqtt.CodeImplementationSpecificError)
	c.Flush()
	if a := p.ack(mqtt.PUBREC); a.PacketID != 2 {
		t.Errorf("PUBREC %d", a.PacketID)
	}
	if a := p.ack(mqtt.PUBACK); a.PacketID != 1 || a.Code != mqtt.CodeImplementationSpecificError {
		t.Errorf("PUBACK %+v", a)
	}
	p.send(acknowledge(mqtt.PUBREL, 2, 0))
	if id := wait(t, released); id != 2 {
		t.Errorf("PUBREL %d", id)
	}
	c.SendAck(mqtt.PUBCOMP, 2, 0)
	c.Flush()
	p.ack(mqtt.PUBCOMP)
}

func TestTopicAlias(t *testing.T) {
	handler, got := collect()
	c, p, _ := connect(t, mqttclient.Options{Handler: handler, TopicAliasMaximum: 2}, nil)
	first, second, bad := message("long/topic", "1", 0), message("", "2", 0), message("t", "3", 0)
	first.TopicAlias, second.TopicAlias, bad.TopicAlias = 2, 2, 3
	p.send(first, second, bad)
	wait(t, got)
	if m := wait(t, got); string(m.Topic) != "long/topic" || string(m.Payload) != "2" {
		t.Errorf("got %s %s", m.Topic, m.Payload)
	}
	<-c.Done()
	if c.Err() == nil {
		t.Error("alias 3 of 2 was accepted")
	}
}

func TestOnBatch(t *testing.T) {
	batches := make(chan int, 10)
	n := 0
	_, p, _ := connect(t, mqttclient.Options{
		Handler: func(*mqttclient.Message) { n++ },
		OnBatch: func() {
			if n > 0 {
				batches <- n
			}
		},
	}, nil)
	p.send(message("t", "", 0), message("t", "", 0), message("t", "", 0))
	total := 0
	for total < 3 {
		total = wait(t, batches)
	}
}

// A packet larger than the read buffer, and many that cross its end.
func TestReadBuffer(t *testing.T) {
	handler, got := collect()
	_, p, _ := connect(t, mqttclient.Options{Handler: handler}, nil)
	sizes := []int{1, 900, 1 << 20, 70000, 3, 1023, 1024, 1025, 40000, 0}
	go func() {
		for _, n := range sizes {
			p.send(message("t", string(make([]byte, n)), 0))
		}
	}()
	for _, n := range sizes {
		if m := wait(t, got); len(m.Payload) != n {
			t.Fatalf("%d bytes, want %d", len(m.Payload), n)
		}
	}
}

func TestAbortInHandler(t *testing.T) {
	var c *mqttclient.Client
	ready := make(chan struct{})
	c, p, _ := connect(t, mqttclient.Options{Handler: func(*mqttclient.Message) { <-ready; c.Abort() }}, nil)
	close(ready)
	p.send(withID(message("t", "", 1), 1), withID(message("t", "", 1), 2))
	<-c.Done()
	if _, _, err := p.next(); err == nil {
		t.Error("the message was acknowledged")
	}
	if !errors.Is(c.Err(), mqttclient.ErrClosed) {
		t.Errorf("err = %v", c.Err())
	}
}
