package mqttserver

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mqtt"
)

// speaker is a client of some version.
type speaker struct {
	v      mqtt.Version
	bridge bool
}

func (s speaker) String() string {
	if s.bridge {
		return s.v.String() + " bridge"
	}
	return s.v.String()
}

// resume connects "dev" to its persistent session.
func (s speaker) resume(t *testing.T, addr string, present bool) *peer {
	t.Helper()
	p, ack := open(t, addr, s.v, func(c *mqtt.Connect) {
		c.CleanStart, c.Bridge = false, s.bridge
		if s.v == mqtt.V5 {
			c.Properties.SessionExpiry = broker.NeverExpires
			c.Properties.Set(mqtt.PropSessionExpiry)
		}
	})
	if ack.Code != 0 || ack.SessionPresent != (present && s.v != mqtt.V31) {
		t.Fatalf("%v: CONNACK %+v", s, ack)
	}
	return p
}

// publishRetained publishes from another client and waits for the answer.
func (p *peer) publishRetained(topic string, qos byte, pid uint16) {
	p.t.Helper()
	m := publish(topic, topic, qos, pid)
	m.Retain = true
	p.send(m)
	switch qos {
	case 1:
		p.expectAck(mqtt.PUBACK, pid, 0)
	case 2:
		p.expectAck(mqtt.PUBREC, pid, 0)
		p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: pid})
		p.expectAck(mqtt.PUBCOMP, pid, 0)
	}
}

// publishes returns the RETAIN of n PUBLISH packets by topic, in whatever order
// they come, and checks their subscription identifiers.
func (p *peer) publishes(n int) map[string]bool {
	p.t.Helper()
	got := map[string]bool{}
	for len(got) < n {
		first, body, err := p.next()
		if err != nil {
			p.t.Fatalf("after %d of %d messages %v: %v", len(got), n, got, err)
		}
		if mqtt.TypeOf(first) != mqtt.PUBLISH {
			continue
		}
		var m mqtt.Publish
		if err := m.Decode(first, body, p.v); err != nil {
			p.t.Fatal(err)
		}
		if _, twice := got[string(m.Topic)]; twice {
			p.t.Fatalf("%q came twice", m.Topic)
		}
		got[string(m.Topic)] = m.Retain
	}
	return got
}

// TestResumeByAnotherVersion: what a subscription brings is the session's, how a
// PUBLISH says it is the connection's. RETAIN of a live message is as the
// subscription asks for MQTT 5, 0 for 3.x [MQTT3-3.3.1-9], and as published for
// bridges; of a retained message it is 1 for all.
func TestResumeByAnotherVersion(t *testing.T) {
	all := []speaker{{mqtt.V31, false}, {mqtt.V311, false}, {mqtt.V5, false}, {mqtt.V31, true}, {mqtt.V311, true}}
	for _, from := range all {
		for _, to := range all {
			t.Run(fmt.Sprint(from, " then ", to), func(t *testing.T) { testResume(t, from, to) })
		}
	}
}

func testResume(t *testing.T, from, to speaker) {
	srv, addr := serve(t, nil)
	other := connect(t, addr, "other", mqtt.V311)
	dev := from.resume(t, addr, false)
	asks := from.v == mqtt.V5 // its subscriptions have Retain As Published; those of bridges are made so
	id := uint32(0)
	if asks {
		id = 7
	}
	dev.subscribe(mqtt.Filter{Topic: []byte("live/#"), QoS: 2, RetainAsPublished: asks}, id)
	dev.subscribe(mqtt.Filter{Topic: []byte("$share/g/job/#"), QoS: 2, RetainAsPublished: asks}, 0)

	// Sent on the first connection and not acknowledged: it comes again.
	other.publishRetained("live/begun", 1, 1)
	other.publishRetained("live/twice", 2, 2)
	other.publishRetained("job/begun", 2, 3)
	before := map[string]bool{"live/begun": false, "live/twice": false, "job/begun": false}
	if !from.bridge { // which gets none of its own
		own := publish("live/own", "live/own", 1, 4)
		own.Retain = true
		dev.send(own)
		before["live/own"] = false
	}
	dev.publishes(len(before))
	_ = dev.Close()
	for end := time.Now().Add(10 * time.Second); srv.Connections() > 1; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the connection does not end")
		}
	}
	other.publishRetained("live/offline", 1, 5)
	before["live/offline"] = false

	dev = to.resume(t, addr, true)
	got := dev.publishes(len(before))
	other.publishRetained("live/now", 0, 0)
	other.publishRetained("live/also", 2, 6)
	other.publishRetained("job/now", 1, 7)
	for topic, retain := range dev.publishes(3) {
		got[topic] = retain
	}
	wanted := asks || from.bridge // by the subscriptions
	for topic, retain := range got {
		want := wanted && to.v == mqtt.V5 || to.bridge
		if topic == "job/begun" { // a copy made for the member, as it was then
			want = want && wanted
		}
		if retain != want {
			t.Errorf("%s: RETAIN %v, want %v", topic, retain, want)
		}
	}
	dev.send(&mqtt.Subscribe{PacketID: 9, Filters: []mqtt.Filter{{Topic: []byte("live/offline"), QoS: 1}}})
	for topic, retain := range dev.publishes(1) {
		if topic != "live/offline" || !retain {
			t.Errorf("retained message %s: RETAIN %v, want true", topic, retain)
		}
	}
}
