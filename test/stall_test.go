package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestSearchStallsNobody: a client that subscribes to filters whose retained
// messages take long to look for costs others nothing but CPU.
func TestSearchStallsNobody(t *testing.T) {
	t.Parallel()
	s := startServer(t, "store.sync=os")
	filler := s.connect(mqtt.V5, "filler")
	for i := 0; i < 100_000; {
		var b []byte
		for range 1000 {
			b = (&mqtt.Publish{Topic: fmt.Appendf(nil, "a/%d/x", i), Payload: []byte("x"), Retain: true}).Append(b, mqtt.V5)
			i++
		}
		filler.write(b)
	}
	// Written ahead: the store's answer goes on with the search.
	filler.publishThis(&mqtt.Publish{Topic: []byte("z"), Payload: []byte("x"), Retain: true, QoS: 2})
	bad := s.connect(mqtt.V5, "bad", persistent)
	sub := &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("z"), QoS: 2}}}
	for i := range 300 {
		sub.Filters = append(sub.Filters, mqtt.Filter{Topic: fmt.Appendf(nil, "+/+/no%d", i), QoS: 2})
	}
	bystander := s.connect(mqtt.V5, "bystander", persistent)
	bad.send(sub)
	receive[*mqtt.Suback](bad)
	start := time.Now()
	for range 5 {
		bystander.publish(topicOf("nobody"), "x", 1)
	}
	if took := time.Since(start); took > 2*time.Second { // it was 8 s
		t.Errorf("five messages of a bystander took %v", took)
	}
}

// TestManyIdentifiersStallNobody: nor do very many subscriptions with an
// identifier.
func TestManyIdentifiersStallNobody(t *testing.T) {
	t.Parallel()
	s := startServer(t, "store.sync=os")
	bad := s.connect(mqtt.V5, "bad", persistent)
	for from := range 5 {
		bad.lastID++
		sub := &mqtt.Subscribe{PacketID: bad.lastID}
		sub.Properties.SubscriptionID = 1
		sub.Properties.Set(mqtt.PropSubscriptionID)
		for i := range 1900 {
			sub.Filters = append(sub.Filters, mqtt.Filter{Topic: fmt.Appendf(nil, "t%s/x%d", strings.Repeat("/+", 7), from*1900+i), QoS: 1})
		}
		bad.send(sub)
		receive[*mqtt.Suback](bad)
	}
	bad.subscribe(0, "#")
	bystander := s.connect(mqtt.V5, "bystander", persistent)
	topic := "t" + strings.Repeat("/a", 8)
	start := time.Now()
	for range 200 {
		bystander.publish(topic, "x", 1)
	}
	if took := time.Since(start); took > time.Second { // it was 1.5 s and more
		t.Errorf("200 messages took %v", took)
	}
}

// TestSharedQoS0Stall: a member with QoS 0 whose connection was full once gets
// messages again when it reads.
func TestSharedQoS0Stall(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	member, err := s.dial("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	b := (&mqtt.Connect{ClientID: []byte("member"), CleanStart: true}).Append(nil, mqtt.V5)
	b = (&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("$share/g/x")}}}).Append(b, mqtt.V5)
	if _, err := member.Write(b); err != nil {
		t.Fatal(err)
	}
	p := s.connect(mqtt.V5, "sender")
	eventually(t, "subscribed", func() bool { return s.metric("homing_subscriptions") > 0 })
	big := make([]byte, 100_000)
	for range 200 { // nobody reads: the socket and the outbox are full
		p.send(&mqtt.Publish{Topic: []byte("x"), Payload: big})
	}
	p.ping()
	reader := newPeer(t, member, mqtt.V5)
	reader.ping() // everything that waited is read before the answer
	came := 0
	for _, x := range reader.stash {
		if _, is := x.(*mqtt.Publish); is {
			came++
		}
	}
	if dropped := s.dropped("slow_consumer"); came == 0 || dropped == 0 || came+int(dropped) != 200 {
		t.Errorf("%d of 200 messages came, %d were dropped; want some of both", came, dropped)
	}
	eventually(t, "messages come again", func() bool { // the server may learn after the reader that there is room
		p.send(&mqtt.Publish{Topic: []byte("x"), Payload: []byte("again")})
		p.ping()
		reader.ping()
		last, is := reader.stash[len(reader.stash)-1].(*mqtt.Publish)
		return is && string(last.Payload) == "again"
	})
}
