package test

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestTakeover: the newer connection wins, the older is told 0x8E, and what was
// under way goes on.
func TestTakeover(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		sender := s.connect(v, "sender", persistent)
		first := s.connect(v, "dev1", persistent)
		sender.publish(topicOf("dev1"), "under way", 1)
		sent := first.arrival()
		second := s.connect(v, "dev1", persistent)
		first.disconnected(mqtt.CodeSessionTakenOver)
		if !second.connack.SessionPresent {
			t.Error("no session present")
		}
		m := second.wants(topicOf("dev1"), "under way", 1)
		if !m.Dup || m.PacketID != sent.PacketID {
			t.Errorf("again with DUP %v and packet identifier %d, want DUP and %d", m.Dup, m.PacketID, sent.PacketID)
		}
		second.wantsNothing(sender)
		second.leave()
		sender.leave()
	})
}

// TestSessionPresent: what CONNACK says.
func TestSessionPresent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		for i, step := range []struct {
			how  as
			want bool
		}{{persistent, false}, {persistent, true}, {clean, false}, {persistent, false}, {persistent, true}} {
			p := s.connect(v, "dev "+v.String(), step.how)
			if p.connack.SessionPresent != step.want {
				t.Errorf("step %d: session present %v", i, p.connack.SessionPresent)
			}
			p.leave()
		}
	})
	five := s.connect(mqtt.V5, "five", clean, expires(never))
	five.leave()
	s.restart()
	five = s.connect(mqtt.V5, "five", persistent)
	if !five.connack.SessionPresent {
		t.Error("MQTT 5 with clean start and session expiry: no session after a restart")
	}
}

// TestQoS2Sender: a packet identifier stands for one message until PUBREL,
// across connections and kill -9.
func TestQoS2Sender(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.fixPorts()
	s.start()
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		id := "dev " + v.String()
		publish := &mqtt.Publish{Topic: []byte(topicOf(id)), Payload: []byte("once"), QoS: 2, PacketID: 7}
		again := *publish
		again.Dup = true
		answer := func(p *peer, m *mqtt.Publish) {
			t.Helper()
			p.send(m)
			if a := receive[*mqtt.Ack](p); a.Type != mqtt.PUBREC || a.PacketID != 7 || a.Code != 0 {
				t.Fatalf("got %v", show([]any{a}))
			}
		}
		sender := s.connect(v, "sender", persistent)
		answer(sender, publish)
		answer(sender, &again)
		sender.vanish()
		sender = s.connect(v, "sender", persistent)
		answer(sender, &again)
		s.kill()
		s.start()
		sender = s.connect(v, "sender", persistent)
		if !sender.connack.SessionPresent {
			t.Fatal("the session is lost")
		}
		answer(sender, &again)
		for range 2 { // the second: PUBCOMP was lost
			sender.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 7})
			if a := receive[*mqtt.Ack](sender); a.Type != mqtt.PUBCOMP || a.PacketID != 7 {
				t.Fatalf("got %v", show([]any{a}))
			}
		}
		s.kill()
		s.start()
		sender = s.connect(v, "sender", persistent)
		publish.Payload = []byte("another")
		answer(sender, publish)
		sender.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 7})
		receive[*mqtt.Ack](sender)

		target := s.connect(v, id, persistent)
		target.wants(topicOf(id), "once", 2)
		target.wants(topicOf(id), "another", 2)
		target.wantsNothing(sender)
		sender.leave()
	})
}

// TestQoS2Target: the server keeps its half of the exchange with a target
// across connections and kill -9.
func TestQoS2Target(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.fixPorts()
	s.start()
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		id := "dev " + v.String()
		sender := s.connect(v, "sender", persistent)
		sender.publish(topicOf(id), "one", 2)
		sender.publish(topicOf(id), "two", 2)
		target := s.connect(v, id, persistent)
		one, two := target.arrival(), target.arrival()
		target.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: one.PacketID})
		receiveIf(target, func(a *mqtt.Ack) bool { return a.Type == mqtt.PUBREL && a.PacketID == one.PacketID })
		// From here on the server must not send "one" again, and "two" with the
		// same packet identifier.
		again := func() {
			t.Helper()
			rel := receive[*mqtt.Ack](target)
			if rel.Type != mqtt.PUBREL || rel.PacketID != one.PacketID {
				t.Fatalf("got %v, want PUBREL of %d", show([]any{rel}), one.PacketID)
			}
			m := target.arrival()
			if string(m.Payload) != "two" || m.PacketID != two.PacketID || !m.Dup {
				t.Fatalf("got %v, want two with identifier %d and DUP", show([]any{m}), two.PacketID)
			}
		}
		target.vanish()
		target = s.connect(v, id, persistent)
		again()
		s.kill()
		s.start()
		target = s.connect(v, id, persistent)
		again()
		target.send(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: one.PacketID})
		target.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: two.PacketID})
		receiveIf(target, func(a *mqtt.Ack) bool { return a.Type == mqtt.PUBREL && a.PacketID == two.PacketID })
		target.send(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: two.PacketID})
		target.ping()
		target.leave()
		s.restart()
		target = s.connect(v, id, persistent)
		target.wantsNothing(s.connect(v, "sender 2"))
	})
}

// TestReceiveMaximum: the server keeps within the target's window.
func TestReceiveMaximum(t *testing.T) {
	t.Parallel()
	s := startServer(t, "limits.inflight=3")
	sender := s.connect(mqtt.V5, "sender", persistent)
	for _, v := range versions {
		id := "dev " + v.String()
		for i := range 10 {
			sender.publish(topicOf(id), fmt.Sprint(i), 1)
		}
		target := s.connect(v, id, persistent, receiveMaximum(3))
		var window []*mqtt.Publish
		for i := range 10 {
			m := target.arrival()
			if string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", m.Payload, i)
			}
			if window = append(window, m); len(window) == 3 {
				target.ping()
				if len(target.stash) > 0 {
					t.Fatalf("more than 3 under way: %v", show(target.stash))
				}
				target.acknowledge(window[0])
				window = window[1:]
			}
		}
	}
}

// TestOrdinaryTopics: the rest of MQTT works beside P2P.
func TestOrdinaryTopics(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		sender, reader := s.connect(v, "sender"), s.connect(v, "reader", persistent)
		reader.subscribe(1, "news/+", "$share")
		code := sender.publish("news/1", "one", 2)
		if code != 0 {
			t.Errorf("PUBREC %v", code)
		}
		reader.wants("news/1", "one", 1)
		reader.leave()
		sender.publish("news/2", "two", 1)
		sender.publish("news/2", "zero", 0)
		sender.ping()
		reader = s.connect(v, "reader", persistent)
		reader.wants("news/2", "two", 1)
		reader.send(&mqtt.Unsubscribe{PacketID: 9, Filters: [][]byte{[]byte("news/+")}})
		receive[*mqtt.Unsuback](reader)
		code = sender.publish("news/3", "three", 1)
		if v == mqtt.V5 && code != mqtt.CodeNoMatchingSubscribers {
			t.Errorf("without a subscriber: %v", code)
		}
		reader.wantsNothing(sender)
		reader.leave()
		sender.leave()
	})
}
