package test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homing-mq/homing/internal/mqtt"
)

// eachVersion runs a test with MQTT 3.1.1 and 5.
func eachVersion(t *testing.T, s *server, f func(t *testing.T, v mqtt.Version)) {
	t.Helper()
	for _, v := range versions {
		t.Run("v"+v.String(), func(t *testing.T) {
			s.use(t)
			f(t, v)
		})
	}
}

// TestOnlyTheTarget: exactly one client gets a P2P message, without a
// subscription, whatever the others subscribe to.
func TestOnlyTheTarget(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
		for _, transport := range []string{"mqtt", "ws"} {
			t.Run(fmt.Sprintf("v%v over %s", v, transport), func(t *testing.T) {
				s.use(t)
				target := s.connectOver(transport, v, "dev1")
				other := s.connectOver(transport, v, "dev2")
				all := s.connect(v, "all")
				sender := s.connectOver(transport, v, "sender")
				if got := all.subscribe(2, "#", "+/+/+", "orders/#", "orders/+/dev1"); !slices.Equal(got, []mqtt.ReasonCode{2, 2, 2, 2}) {
					t.Fatalf("SUBACK %v", got)
				}
				for qos := range byte(3) {
					payload := fmt.Sprintf("hello %d", qos)
					id := sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(payload), QoS: qos})
					target.wants(topicOf("dev1"), payload, qos)
					if qos > 0 {
						if code := sender.acknowledged(id); code != 0 {
							t.Errorf("QoS %d: acknowledged with %v", qos, code)
						}
					}
				}
				other.wantsNothing(sender)
				all.wantsNothing(sender)
				for _, p := range []*peer{target, other, all, sender} {
					p.leave()
				}
			})
		}
	}
}

// TestTopics: where a message goes by its topic, and what the target sees.
func TestTopics(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	sender := s.connect(mqtt.V5, "sender")
	all := s.connect(mqtt.V5, "all")
	all.subscribe(0, "#")
	for _, id := range []string{"dev1", "GID_orders@@@7", "p2p", "größe", "with space", "$dev"} {
		target := s.connect(mqtt.V311, id)
		for _, topic := range []string{topicOf(id), topicOf(id) + "/status/led", topicOf(id) + "/", "a/p2p/" + id, "p2p/p2p/" + id} {
			sender.publish(topic, "x", 0)
			target.wants(topic, "x", 0)
		}
		target.leave()
	}
	all.wantsNothing(sender)
	for _, plain := range []string{"/orders/p2p/dev1", "orders/P2P/dev1", "orders/x/p2p/dev1", "p2p/dev1", "orders/p2p2/dev1"} {
		if code := sender.publish(plain, "plain", 1); code != 0 {
			t.Errorf("%s: %v", plain, code)
		}
		all.wants(plain, "plain", 0)
	}
}

func TestRetainIsIgnored(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(_ *testing.T, v mqtt.Version) {
		sender, target := s.connect(v, "sender"), s.connect(v, "dev1")
		sender.publishThis(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("retain"), QoS: 1, Retain: true})
		target.wants(topicOf("dev1"), "retain", 1) // it checks the flag
		target.leave()
		target = s.connect(v, "dev1")
		target.wantsNothing(sender)
		target.leave()
		sender.leave()
	})
}

// TestSubscribingToP2P: one's own P2P topic is granted and changes nothing,
// others are refused.
// [MQTT-3.8.4-7] [MQTT3-3.8.4-5] [MQTT3-3.9.3-2]
// [MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-6] [MQTT3-2.3.1-7] [MQTT3-3.8.4-1] [MQTT3-3.8.4-2]
func TestSubscribingToP2P(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		refused := mqtt.CodeNotAuthorized
		if v != mqtt.V5 {
			refused = mqtt.CodeUnspecifiedError
		}
		target, sender := s.connect(v, "dev1"), s.connect(v, "sender")
		for filter, want := range map[string]mqtt.ReasonCode{
			"orders/p2p/dev1":     1,
			"orders/p2p/dev1/#":   1,
			"orders/p2p/dev1/a/b": 1,
			"orders/p2p/dev2":     refused,
			"orders/p2p/dev2/#":   refused,
			"orders/p2p/+":        refused,
			"orders/p2p/#":        refused,
			"orders/p2p":          refused,
			"+/p2p/dev2":          refused,
			"#":                   1,
			"orders/+/dev2":       1,
		} {
			if got := target.subscribe(1, filter); !slices.Equal(got, []mqtt.ReasonCode{want}) {
				t.Errorf("SUBSCRIBE %s: %v, want 0x%02X", filter, got, byte(want))
			}
		}
		sender.publish(topicOf("dev1"), "once", 0)
		target.wants(topicOf("dev1"), "once", 0)
		sender.publish(topicOf("dev2"), "not yours", 0)
		target.wantsNothing(sender)
		target.leave()
		sender.leave()
	})
}

// TestMalformedP2PTopics: 0x90, in 3.x the connection is closed.
// [MQTT3-3.3.5-2]
func TestMalformedP2PTopics(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	topics := []string{"orders/p2p/", "orders/p2p", "orders/p2p//a", "orders/p2p/+", "orders/p2p/#", "orders/p2p/a+b", "orders/p2p/+/x"}
	for _, topic := range topics {
		for qos := range byte(3) {
			before := s.dropped("bad_topic")
			five, three := s.connect(mqtt.V5, "five"), s.connect(mqtt.V311, "three")
			if code := five.publish(topic, "x", qos); qos > 0 && code != mqtt.CodeTopicNameInvalid {
				t.Errorf("%s QoS %d: %v", topic, qos, code)
			}
			five.ping() // the connection goes on
			five.leave()
			three.post(&mqtt.Publish{Topic: []byte(topic), Payload: []byte("x"), QoS: qos})
			if rest := three.ended(); len(rest) > 0 {
				t.Errorf("%s QoS %d in 3.1.1: got %v before the end", topic, qos, show(rest))
			}
			if n := s.dropped("bad_topic") - before; n != 2 {
				t.Errorf("%s QoS %d: bad_topic counted %d times, want 2", topic, qos, n)
			}
		}
	}
}

// TestProperties: MQTT 5 properties travel, also through the store.
// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
func TestProperties(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	sender := s.connect(mqtt.V5, "sender", persistent)
	var props []byte
	props = mqtt.AppendPayloadFormat(props, true)
	props = mqtt.AppendContentType(props, "text/plain")
	props = mqtt.AppendResponseTopic(props, "orders/p2p/sender")
	props = mqtt.AppendCorrelationData(props, "\x00\xff7")
	props = mqtt.AppendUserProperty(props, "k", "1")
	props = mqtt.AppendUserProperty(props, "k", "2")
	props = mqtt.AppendUserProperty(props, "", "größe")
	target := s.connect(mqtt.V5, "dev1", persistent)
	check := func(qos byte) {
		t.Helper()
		m := target.wants(topicOf("dev1"), "hi", qos)
		if d := cmp.Diff(decodeProps(t, props), decodeProps(t, m.Props)); d != "" || m.HasExpiry {
			t.Errorf("QoS %d: properties (-sent +received), expiry %v:\n%s", qos, m.HasExpiry, d)
		}
	}
	for qos := range byte(3) {
		sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("hi"), QoS: qos, Props: props})
		check(qos)
	}
	target.leave()
	sender.publishThis(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("hi"), QoS: 1, Props: props})
	s.restart()
	target = s.connect(mqtt.V5, "dev1", persistent)
	check(1)
}

// decodeProps lists travelling properties.
func decodeProps(t testing.TB, b []byte) []string {
	t.Helper()
	var p mqtt.Properties
	if err := mqtt.DecodeProps(b, &p); err != nil {
		t.Fatal(err)
	}
	list := []string{
		fmt.Sprintf("format %v %d", p.Has(mqtt.PropPayloadFormat), p.PayloadFormat),
		fmt.Sprintf("type %q response %q correlation %q", p.ContentType, p.ResponseTopic, p.CorrelationData),
	}
	for k, v := range mqtt.UserProperties(b) {
		list = append(list, fmt.Sprintf("%s=%s", k, v))
	}
	return list
}

// TestMessageExpiry: what is left of the expiry is shown; what has expired is
// dropped and counted.
// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
func TestMessageExpiry(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	sender := s.connect(mqtt.V5, "sender", persistent)
	publish := func(payload string, seconds uint32) {
		t.Helper()
		m := &mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(payload), QoS: 1, HasExpiry: true, Expiry: seconds}
		if code := sender.publishThis(m); code != 0 {
			t.Fatalf("%s: %v", payload, code)
		}
	}
	publish("short", 1)
	published := time.Now()
	publish("long", 100)
	eventually(t, "two seconds passed", func() bool { return time.Since(published) > 2100*time.Millisecond })
	target := s.connect(mqtt.V5, "dev1", persistent)
	m := target.wants(topicOf("dev1"), "long", 1)
	waited := uint32(time.Since(published) / time.Second)
	if !m.HasExpiry || m.Expiry > 98 || m.Expiry < 100-waited-1 {
		t.Errorf("expiry %v %d after %d s, want about 98", m.HasExpiry, m.Expiry, waited)
	}
	eventually(t, "the expired message is counted", func() bool { return s.dropped("expired") == 1 })

	id := sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("now"), QoS: 1, HasExpiry: true, Expiry: 7})
	if m := target.wants(topicOf("dev1"), "now", 1); !m.HasExpiry || m.Expiry > 7 || m.Expiry < 6 {
		t.Errorf("online: expiry %v %d, want 7", m.HasExpiry, m.Expiry)
	}
	sender.acknowledged(id)
}

// TestRetention: p2p.retention bounds the wait of what has no expiry.
func TestRetention(t *testing.T) {
	t.Parallel()
	s := startServer(t, "p2p.retention=1s")
	sender := s.connect(mqtt.V311, "sender", persistent)
	sender.publish(topicOf("dev1"), "old", 1)
	at := time.Now()
	eventually(t, "two seconds passed", func() bool { return time.Since(at) > 2100*time.Millisecond })
	target := s.connect(mqtt.V311, "dev1", persistent)
	target.wantsNothing(sender)
	eventually(t, "the expired message is counted", func() bool { return s.dropped("expired") == 1 })
}

// TestInboxInOrder: an offline device gets its inbox in order on connect, and
// what comes during that behind it, whatever the QoS.
// [MQTT-4.6.0-5] [MQTT3-4.6.0-6]
func TestInboxInOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t, "store.sync=interval")
	eachVersion(t, s, func(_ *testing.T, v mqtt.Version) {
		const n = 300
		sender := s.connect(v, "sender "+v.String(), persistent)
		id := "device " + v.String()
		send := func(i int, qos byte) {
			sender.post(&mqtt.Publish{Topic: []byte(topicOf(id)), Payload: fmt.Appendf(nil, "%d", i), QoS: qos})
		}
		for i := range n {
			send(i, 1+byte(i%2))
		}
		sender.settle(n)
		target := s.connect(v, id, persistent, receiveMaximum(10))
		for i := range n {
			send(n+i, byte(i%3))
		}
		for i := range 2 * n {
			want := 1 + byte(i%2)
			if i >= n {
				want = byte((i - n) % 3)
			}
			target.wants(topicOf(id), fmt.Sprint(i), want)
		}
		target.wantsNothing(sender)
	})
}

// settle completes n QoS 1 and 2 messages that were posted.
func (p *peer) settle(n int) {
	p.t.Helper()
	for n > 0 {
		switch a := receive[*mqtt.Ack](p); a.Type {
		case mqtt.PUBACK, mqtt.PUBCOMP:
			n--
		case mqtt.PUBREC:
			p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID})
		}
	}
}
