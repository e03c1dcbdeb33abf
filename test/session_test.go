package test

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestTakeover: the newer connection wins, the older is told 0x8E, and what was
// under way goes on.
// [MQTT-3.1.4-3] [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT3-3.1.4-2] [MQTT3-3.3.1-1] [MQTT3-4.4.0-1] [MQTT3-2.3.1-4]
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
// [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.1.2-23] [MQTT-3.1.4-4] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
// [MQTT3-3.1.2-4] [MQTT3-3.1.2-6] [MQTT3-3.1.4-3] [MQTT3-3.2.2-1] [MQTT3-3.2.2-2] [MQTT3-3.2.2-3]
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
// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT3-4.3.3-2] [MQTT3-2.3.1-6]
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
// [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-4.4.0-1] [MQTT3-4.3.3-1] [MQTT3-4.4.0-1]
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
// [MQTT-3.3.4-9] [MQTT-3.3.4-10] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
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
// [MQTT-3.8.4-8] [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-4.5.0-1] [MQTT3-3.1.2-5] [MQTT3-3.8.4-6] [MQTT3-3.10.4-1]
// [MQTT3-3.10.4-2] [MQTT3-4.5.0-1]
// [MQTT-3.3.2-3] [MQTT-3.10.4-4] [MQTT3-3.3.2-3] [MQTT3-3.10.4-4]
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

// TestTakeoverOfSender: once the newer connection is accepted, nothing of the
// older one is handled any more: it would come out of order, and its packet
// identifiers would stand in the way of the new session's.
func TestTakeoverOfSender(t *testing.T) {
	t.Parallel()
	s := startServer(t, "store.sync=os", "p2p.inbox-limit=0")
	target := s.connect(mqtt.V5, "dev1", persistent)
	const n = 200
	for round := range 20 {
		old := s.connect(mqtt.V5, "sender")
		var b []byte
		for i := range n {
			m := mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: fmt.Appendf(nil, "%d old %d", round, i), QoS: 2, PacketID: uint16(i + 1)}
			b = m.Append(b, mqtt.V5)
		}
		old.write(b)
		sender := s.connect(mqtt.V5, "sender")
		for i := range n {
			sender.send(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: fmt.Appendf(nil, "%d new %d", round, i), QoS: 2, PacketID: uint16(i + 1)})
		}
		sender.settle(n)
		seen := 0
		for seen < n {
			m := string(target.message().Payload)
			switch {
			case m == fmt.Sprintf("%d new %d", round, seen):
				seen++
			case seen > 0:
				t.Fatalf("after %d messages of the new connection: %q", seen, m)
			}
		}
		old.conn.Close()
	}
	target.wantsNothing(s.connect(mqtt.V5, "another"))
}

// TestPubrelAgain: a PUBREL that is sent again on a new connection gets one
// PUBCOMP. A second one could end the next exchange with the same packet
// identifier.
// [MQTT-4.3.3-11]
func TestPubrelAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		for round := range 50 {
			sender := s.connect(v, "sender", persistent)
			const n = 10
			for range n {
				sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("x"), QoS: 2})
			}
			for range n {
				receiveIf(sender, func(a *mqtt.Ack) bool { return a.Type == mqtt.PUBREC })
			}
			var release []byte
			for id := range uint16(n) {
				release = mqtt.AppendAck(release, v, mqtt.PUBREL, id+1, 0)
			}
			sender.write(release)
			again := s.open("mqtt", v)
			again.hello("sender", persistent)
			if round%2 == 0 {
				again.write(release)
			}
			receive[*mqtt.Connack](again)
			if round%2 != 0 { // the answer to the first PUBREL is ready before the second one comes
				again.ping()
				again.ping()
				again.write(release)
			}
			for range n {
				receive[*mqtt.Ack](again)
			}
			again.ping()
			again.leave()
			if len(again.stash) > 0 {
				t.Fatalf("round %d: after %d PUBCOMP: %v", round, n, show(again.stash))
			}
			sender.conn.Close()
		}
	})
}

// TestTakeoverStorm: connections with one client ID, each closed with a reset
// while the next one takes over. None may be left.
func TestTakeoverStorm(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	connect := &mqtt.Connect{ClientID: []byte("storm"), CleanStart: true}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				conn, err := s.dial("mqtt")
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = conn.Write(connect.Append(nil, mqtt.V5)) // taken over already
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all connections are closed", func() bool { return s.metric("homing_connections") == 0 })
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
