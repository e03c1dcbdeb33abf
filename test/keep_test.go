package test

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// keepRule is the table of the contract, section Keeping.
var keepRule = map[string]func(sender, target bool) bool{
	"either": func(sender, target bool) bool { return sender || target },
	"sender": func(sender, _ bool) bool { return sender },
	"target": func(_, target bool) bool { return target },
	"always": func(_, _ bool) bool { return true },
	"never":  func(_, _ bool) bool { return false },
}

func sessionKind(is bool) as {
	if is {
		return persistent
	}
	return clean
}

func kindName(is bool) string {
	if is {
		return "persistent"
	}
	return "clean"
}

// TestKeepTable: every row, for offline and online targets: policy x sender x
// target x QoS x version of the sender.
func TestKeepTable(t *testing.T) {
	t.Parallel()
	for policy, rule := range keepRule {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, "p2p.keep="+policy)
			for _, v := range versions {
				for _, sender := range []bool{false, true} {
					for _, target := range []bool{false, true} {
						for qos := range byte(3) {
							k := &keepCase{s: s, v: v, sender: sender, target: target, qos: qos, kept: qos > 0 && rule(sender, target)}
							k.run(t)
						}
					}
				}
			}
		})
	}
}

// keepCase is one row.
type keepCase struct {
	s              *server
	v              mqtt.Version
	sender, target bool // persistent
	qos            byte
	kept           bool
}

func (k *keepCase) run(t *testing.T) {
	name := fmt.Sprintf("%s sender v%v, %s target, QoS %d", kindName(k.sender), k.v, kindName(k.target), k.qos)
	t.Run(name, func(t *testing.T) {
		k.s.use(t)
		id := "target of " + t.Name()
		id = fmt.Sprintf("%x", id)
		sender := k.s.connect(k.v, "sender "+id, sessionKind(k.sender))
		defer sender.leave()
		online := k.s.connect(mqtt.V5, id, sessionKind(k.target))
		k.online(t, sender, online)
		online.leave()
		k.offline(t, sender, id)
	})
}

// online: delivered in any case.
func (k *keepCase) online(t *testing.T, sender, target *peer) {
	pid := sender.post(&mqtt.Publish{Topic: []byte(topicOf(target.id)), Payload: []byte("online"), QoS: k.qos})
	target.wants(topicOf(target.id), "online", k.qos)
	if k.qos > 0 {
		if code := sender.acknowledged(pid); code != 0 {
			t.Errorf("online: acknowledged with %v", code)
		}
	}
}

func (k *keepCase) offline(t *testing.T, sender *peer, id string) {
	before := k.s.dropped("offline")
	code := sender.publish(topicOf(id), "offline", k.qos)
	want := mqtt.CodeSuccess
	if k.v == mqtt.V5 && k.qos > 0 && !k.kept {
		want = mqtt.CodeNoMatchingSubscribers
	}
	if code != want {
		t.Errorf("offline: acknowledged with %v, want %v", code, want)
	}
	sender.ping()
	wantDropped := 1
	if k.kept {
		wantDropped = 0
	}
	if n := k.s.dropped("offline") - before; n != wantDropped {
		t.Errorf("offline: %d dropped, want %d", n, wantDropped)
	}
	target := k.s.connect(mqtt.V5, id, sessionKind(k.target))
	if k.target != target.connack.SessionPresent {
		t.Errorf("session present: %v", target.connack.SessionPresent)
	}
	if k.kept {
		target.wants(topicOf(id), "offline", k.qos)
	}
	target.wantsNothing(sender)
	target.leave()
}

// TestCleanStart: what was kept only because of the target's session goes when
// that starts clean; what the sender asked to keep stays.
// [MQTT-3.1.2-4] [MQTT3-3.1.2-6]
func TestCleanStart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		before := s.dropped("session_ended")
		target := s.connect(v, "dev1", persistent)
		target.subscribe(1, "news/#")
		target.leave()
		asks, silent := s.connect(v, "asks", persistent), s.connect(v, "silent")
		for i := range 3 {
			asks.publish(topicOf("dev1"), fmt.Sprint("sender ", i), 1)
			silent.publish(topicOf("dev1"), fmt.Sprint("target ", i), 1)
		}
		silent.publish("news/1", "news", 1)
		target = s.connect(v, "dev1", clean)
		if target.connack.SessionPresent {
			t.Error("session present after a clean start")
		}
		for i := range 3 {
			target.wants(topicOf("dev1"), fmt.Sprint("sender ", i), 1)
		}
		silent.publish("news/2", "news", 1) // the subscription is gone, too
		target.wantsNothing(silent)
		if n := s.dropped("session_ended") - before; n != 4 {
			t.Errorf("session_ended counted %d times, want 4", n)
		}
		for _, p := range []*peer{target, asks, silent} {
			p.leave()
		}
	})
}

// TestSessionExpires is TestCleanStart for a session that ends by itself.
// [MQTT-4.1.0-2]
func TestSessionExpires(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	target := s.connect(mqtt.V5, "dev1", expires(1))
	target.leave()
	asks, silent := s.connect(mqtt.V5, "asks", persistent), s.connect(mqtt.V5, "silent")
	asks.publish(topicOf("dev1"), "sender", 1)
	if code := silent.publish(topicOf("dev1"), "target", 1); code != 0 {
		t.Fatalf("kept for the session: %v", code)
	}
	eventually(t, "the session ends", func() bool { return s.dropped("session_ended") == 1 })
	if code := silent.publish(topicOf("dev1"), "late", 1); code != mqtt.CodeNoMatchingSubscribers {
		t.Errorf("after the end of the session: %v", code)
	}
	target = s.connect(mqtt.V5, "dev1", func(c *mqtt.Connect) { c.CleanStart = false })
	if target.connack.SessionPresent {
		t.Error("the session is still there")
	}
	target.wants(topicOf("dev1"), "sender", 1)
	target.wantsNothing(asks)
}

// TestKeptForSlowTarget: nobody asks to keep the message, the target is online
// and slow. Once the sender has its acknowledgement the message is kept; before,
// the sender is told that it is gone.
func TestKeptForSlowTarget(t *testing.T) {
	t.Parallel()
	s := startServer(t, "p2p.store-after=10ms")
	patient := startServer(t, "p2p.store-after=10s")
	stubborn := startServer(t, "p2p.store-after=10ms", "p2p.keep=never")
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			for _, s := range []*server{s, patient, stubborn} {
				s.use(t)
			}
			sender, target := s.connect(mqtt.V5, "sender"), s.connect(mqtt.V5, "dev1")
			if code := sender.publish(topicOf("dev1"), "slow", qos); code != 0 {
				t.Fatalf("not acknowledged by the target: %v", code)
			}
			target.arrival()
			target.vanish()
			target = s.connect(mqtt.V5, "dev1")
			target.wants(topicOf("dev1"), "slow", qos)
			target.leave()
			sender.leave()
			if qos == 1 { // QoS 2 is written before it is sent
				goneBeforeAck(t, patient, qos)
			}
			goneBeforeAck(t, stubborn, qos)
		})
	}
}

// goneBeforeAck: the target goes before its acknowledgement and before the
// message is stored.
func goneBeforeAck(t *testing.T, s *server, qos byte) {
	sender, target := s.connect(mqtt.V5, "sender"), s.connect(mqtt.V5, "dev1")
	id := sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("gone"), QoS: qos})
	target.arrival()
	sender.ping()
	if len(sender.stash) > 0 {
		t.Errorf("acknowledged before anything is safe: %v", show(sender.stash))
	}
	target.vanish()
	if code := sender.acknowledged(id); code != mqtt.CodeNoMatchingSubscribers {
		t.Errorf("the target has gone, the sender is told %v", code)
	}
	target = s.connect(mqtt.V5, "dev1")
	target.wantsNothing(sender)
	target.leave()
	sender.leave()
}
