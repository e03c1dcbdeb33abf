package mqttserver

import (
	"fmt"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// TestTopicAliasToClient: a client that takes aliases gets them in order, and
// no more than it takes. [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8] [MQTT-3.3.2-11]
func TestTopicAliasToClient(t *testing.T) {
	_, addr := serve(t, nil)
	for maximum, want := range map[uint16][]string{
		0: {"t/one 0", "t/one 0", "t/two 0", "t/two 0", "t/three 0", "t/three 0", "t/one 0"},
		2: {"t/one 1", " 1", "t/two 2", " 2", "t/three 0", "t/three 0", " 1"},
	} {
		p := dial(t, addr, mqtt.V5)
		c := &mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte("dev")}
		c.Properties.TopicAliasMaximum = maximum
		c.Properties.Set(mqtt.PropTopicAliasMaximum)
		p.send(c, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("t/+")}}})
		p.expectConnack(0)
		p.expect(mqtt.SUBACK, nil)
		for i, topic := range []string{"t/one", "t/one", "t/two", "t/two", "t/three", "t/three", "t/one"} {
			p.send(publish(topic, "x", 0, 0))
			got := p.expectPublish()
			if text := fmt.Sprintf("%s %d", got.Topic, got.TopicAlias); text != want[i] {
				t.Errorf("maximum %d, message %d: %q, want %q", maximum, i, text, want[i])
			}
		}
		_ = p.Close()
	}
}

// connOf is a connection without a socket.
func connOf(v mqtt.Version, outbox int, aliases uint16) *conn {
	c := &conn{srv: &Server{opt: Options{Outbox: outbox}}, version: v, maxPacket: 1 << 20}
	if aliases > 0 {
		c.more().aliasesTo, c.aliasing = newAliasesTo(aliases), true
	}
	return c
}

// sent takes what was appended to the outbox.
func (c *conn) sent(t *testing.T) (list []mqtt.Publish) {
	t.Helper()
	for b := c.out.buf; len(b) > 0; {
		first, body, n, _, err := mqtt.Split(b, 1<<28)
		if err != nil || n == 0 {
			t.Fatalf("%d bytes left, %v", len(b), err)
		}
		var p mqtt.Publish
		if err := p.Decode(first, body, c.version); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
		b = b[n:]
	}
	c.out.buf = nil
	return list
}

// TestAliasOfRefusedPacket: what the connection did not take sets no alias, and
// an alias makes no packet too large.
func TestAliasOfRefusedPacket(t *testing.T) {
	var b broker.Batch
	c := connOf(mqtt.V5, 100, 5)
	big := &mq.Message{Topic: []byte("t/big"), Payload: make([]byte, 90)}
	if r := c.SendPublish(&mq.Message{Topic: []byte("t/first")}, broker.Header{}, &b); r != broker.Sent {
		t.Fatal(r)
	}
	if r := c.SendPublish(big, broker.Header{}, &b); r != broker.SendFull {
		t.Fatal(r)
	}
	c.sent(t)
	if r := c.SendPublish(big, broker.Header{}, &b); r != broker.Sent {
		t.Fatal(r)
	}
	if got := c.sent(t); string(got[0].Topic) != "t/big" || got[0].TopicAlias != 2 {
		t.Errorf("topic %q alias %d: the packet that was refused has set it", got[0].Topic, got[0].TopicAlias)
	}
	tight := &mq.Message{Topic: []byte("t/tight"), Payload: make([]byte, 20)}
	c.maxPacket = 1 + 1 + 2 + 7 + 1 + 20
	for range 2 {
		if r := c.SendPublish(tight, broker.Header{}, &b); r != broker.Sent {
			t.Fatal(r)
		}
		if got := c.sent(t); string(got[0].Topic) != "t/tight" || got[0].TopicAlias != 0 {
			t.Errorf("topic %q alias %d in a packet without room for it", got[0].Topic, got[0].TopicAlias)
		}
	}
}

// TestAliasMemory: topics that somebody else chooses do not fill memory.
func TestAliasMemory(t *testing.T) {
	var b broker.Batch
	c := connOf(mqtt.V5, 1<<20, 65535)
	for i := range 100_000 {
		if r := c.SendPublish(&mq.Message{Topic: fmt.Appendf(nil, "%0*d", 20+i%1000, i)}, broker.Header{}, &b); r != broker.Sent {
			t.Fatalf("message %d: %v", i, r)
		}
		c.out.buf = c.out.buf[:0]
	}
	a := c.detail.aliasesTo
	held := 0
	for topic, alias := range a.byTopic {
		held += len(topic)
		if alias == 0 || alias > aliasesOut {
			t.Fatalf("alias %d", alias)
		}
	}
	if len(a.byTopic) == 0 || len(a.byTopic) > aliasesOut || held > aliasBytesOut || held != a.bytes {
		t.Errorf("%d aliases hold %d bytes, counted %d", len(a.byTopic), held, a.bytes)
	}
}

// TestSendPublishAllocates nothing, with aliases and without.
func TestSendPublishAllocates(t *testing.T) {
	s, _ := serve(t, nil)
	var b broker.Batch
	b.Begin()
	m := &mq.Message{
		Topic: []byte("orders/p2p/dev1"), Payload: make([]byte, 200), Expiry: time.Now().UnixMilli() + 60_000,
		Props: mqtt.AppendUserProperty(nil, "key", "value"),
	}
	for name, c := range map[string]*conn{
		"3.1.1": connOf(mqtt.V311, 1<<20, 0), "5.0": connOf(mqtt.V5, 1<<20, 0), "5.0 with aliases": connOf(mqtt.V5, 1<<20, 10),
	} {
		c.srv.broker = s.broker
		h := broker.Header{Seq: 7, PacketID: 8, QoS: 1}
		send := func() {
			if r := c.SendPublish(m, h, &b); r != broker.Sent {
				t.Fatal(r)
			}
			c.out.buf = c.out.buf[:0]
		}
		send()
		if n := testing.AllocsPerRun(1000, send); n != 0 {
			t.Errorf("%s: %v allocations for each PUBLISH", name, n)
		}
	}
}
