package mqttclient_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

func dialTo(conn net.Conn) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { return conn, nil }
}

var present = &mqtt.Connack{SessionPresent: true}

// results is a completion for each message, in the order they come.
type results chan string

func (r results) of(name string) func(mqttclient.Result) {
	return func(x mqttclient.Result) { r <- name + ": " + x.String() }
}

// unfinished leaves four messages of a session in the four places they can be:
// a not received, b and c received but not answered, d released.
func unfinished(t *testing.T, v mqtt.Version, s *mqttclient.Session, r results) (ids []uint16) {
	t.Helper()
	c, p, _ := connect(t, mqttclient.Options{Version: v, Session: s}, nil)
	for _, m := range []struct {
		name string
		qos  byte
	}{{"d", 2}, {"a", 1}, {"b", 2}, {"c", 1}} {
		if err := c.PublishAsync(t.Context(), message("t", m.name, m.qos), r.of(m.name)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, p.publish().PacketID)
	}
	p.send(acknowledge(mqtt.PUBREC, ids[0], 0))
	p.ack(mqtt.PUBREL)
	c.Close()
	if n := s.Unfinished(); n != 4 {
		t.Errorf("%d unfinished", n)
	}
	return ids
}

func TestSessionGoesOn(t *testing.T) {
	for _, v := range versions {
		t.Run(v.String(), func(t *testing.T) {
			s, r := new(mqttclient.Session), make(results, 10)
			ids := unfinished(t, v, s, r)
			c, p, _ := connect(t, mqttclient.Options{Version: v, Session: s}, present)
			if a := p.ack(mqtt.PUBREL); a.PacketID != ids[0] {
				t.Errorf("PUBREL %d", a.PacketID)
			}
			for i, want := range []string{"a", "b", "c"} {
				if m := p.publish(); string(m.Payload) != want || m.PacketID != ids[i+1] || !m.Dup {
					t.Errorf("sent again: %s %d dup %v, want %s %d", m.Payload, m.PacketID, m.Dup, want, ids[i+1])
				}
			}
			p.send(acknowledge(mqtt.PUBACK, ids[1], 0), acknowledge(mqtt.PUBCOMP, ids[0], 0), acknowledge(mqtt.PUBACK, ids[3], 0))
			for _, want := range []string{"a", "d", "c"} {
				if got := wait(t, r); got != want+": success (0x00)" {
					t.Errorf("%q, want %s", got, want)
				}
			}
			c.Close()
			if s.Unfinished() != 1 {
				t.Errorf("%d unfinished", s.Unfinished())
			}
			s.Abandon()
			if got := wait(t, r); got != "b: "+mqttclient.ErrAbandoned.Error() {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestSessionIsLost(t *testing.T) {
	s, r := new(mqttclient.Session), make(results, 10)
	unfinished(t, mqtt.V5, s, r)
	c, p, _ := connect(t, mqttclient.Options{Session: s}, nil)
	for _, want := range []string{"d", "a", "b", "c"} {
		if got := wait(t, r); got != want+": "+mqttclient.ErrSessionLost.Error() {
			t.Errorf("%q, want %s", got, want)
		}
	}
	if err := c.Enqueue(message("t", "new", 0), nil); err != nil {
		t.Fatal(err)
	}
	c.Flush()
	if m := p.publish(); string(m.Payload) != "new" {
		t.Errorf("got %s", m.Payload)
	}
}

// A QoS 2 message is handed over once, even if the connection is lost before
// PUBREL; and again if the server has forgotten the session.
func TestSessionRemembersReceived(t *testing.T) {
	s := new(mqttclient.Session)
	handler, got := collect()
	o := mqttclient.Options{Session: s, Handler: handler}
	c, p, _ := connect(t, o, nil)
	m := withID(message("t", "once", 2), 4)
	p.send(m)
	wait(t, got)
	p.ack(mqtt.PUBREC)
	c.Close()

	c, p, _ = connect(t, o, present)
	m.Dup = true
	p.send(m)
	p.ack(mqtt.PUBREC)
	c.Close()
	select {
	case <-got:
		t.Error("delivered twice")
	default:
	}

	_, p, _ = connect(t, o, nil)
	p.send(withID(message("t", "another", 2), 4))
	if m := wait(t, got); string(m.Payload) != "another" {
		t.Errorf("got %s", m.Payload)
	}
}

func TestPublishOfEndedConnectionIsNotWaitedFor(t *testing.T) {
	s := new(mqttclient.Session)
	c, p, _ := connect(t, mqttclient.Options{Session: s}, nil)
	done := make(chan error, 1)
	go func() {
		_, err := c.Publish(t.Context(), message("t", "x", 1))
		done <- err
	}()
	p.publish()
	c.Close()
	if err := wait(t, done); !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("publish: %v", err)
	}
	if s.Unfinished() != 1 {
		t.Errorf("%d unfinished", s.Unfinished())
	}
}
