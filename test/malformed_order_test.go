package test

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestMalformedOrder: acknowledgements that do not fit the message they name.
// They are protocol errors [MQTT-4.13.1-1] [MQTT3-4.8.0-1].
func TestMalformedOrder(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct {
		name  string
		qos   byte
		first []mqtt.PacketType // in order, each answered by the server
		wrong mqtt.PacketType
	}{
		{"PUBREC for QoS 1", 1, nil, mqtt.PUBREC},                                                // [MQTT-4.3.2-4]
		{"PUBCOMP for QoS 1", 1, nil, mqtt.PUBCOMP},                                              // [MQTT-4.3.2-4]
		{"PUBACK for QoS 2", 2, nil, mqtt.PUBACK},                                                // [MQTT-4.3.3-8]
		{"PUBCOMP before PUBREC", 2, nil, mqtt.PUBCOMP},                                          // [MQTT-4.3.3-8]
		{"PUBACK after PUBREC", 2, []mqtt.PacketType{mqtt.PUBREC}, mqtt.PUBACK},                  // [MQTT-4.3.3-11]
		{"PUBACK after two PUBREC", 2, []mqtt.PacketType{mqtt.PUBREC, mqtt.PUBREC}, mqtt.PUBACK}, // [MQTT-4.3.3-11]
	} {
		for i, v := range all {
			t.Run(fmt.Sprint(c.name, " ", v), func(t *testing.T) {
				s.use(t)
				topic := fmt.Sprintf("order/%s/%d", c.name, i)
				target, sender := s.connect(v, "target"), s.connect(mqtt.V5, "sender")
				target.subscribe(c.qos, topic)
				sender.post(&mqtt.Publish{Topic: []byte(topic), QoS: c.qos})
				id := target.arrival().PacketID
				for _, first := range c.first {
					target.send(&mqtt.Ack{Type: first, PacketID: id})
					receiveIf(target, func(a *mqtt.Ack) bool { return a.PacketID == id && a.Type == mqtt.PUBREL })
				}
				target.send(&mqtt.Ack{Type: c.wrong, PacketID: id}, &mqtt.Pingreq{})
				target.cutOff(mqtt.CodeProtocolError)
			})
		}
	}
}

// cutOff is disconnected for a peer that has sent PINGREQ after what the server
// must not take: it fails without waiting if that is answered.
func (p *peer) cutOff(code mqtt.ReasonCode) {
	p.t.Helper()
	for x := p.next(); x != nil; x = p.next() {
		if _, ok := x.(*mqtt.Pingresp); ok {
			p.t.Fatalf("%s is still served; before: %v", p.id, show(p.stash))
		}
		p.stash = append(p.stash, x)
	}
	p.disconnected(code)
}

// TestNothingAfterTheEnd: what a client sends after its DISCONNECT, after a
// refused CONNECT, or after something malformed is not processed
// [MQTT-3.14.4-1] [MQTT-3.1.4-6] [MQTT3-3.14.4-2] [MQTT3-3.1.4-5].
func TestNothingAfterTheEnd(t *testing.T) {
	s := startServer(t)
	for _, v := range versions {
		connect := func(id string) string { return frame(0x10, head(v, 0x02), props(v), text(id)) }
		for _, c := range []struct{ name, send string }{
			{"DISCONNECT", connect("leaver") + frame(0xE0)},
			{"a refused CONNECT", frame(0x10, head(v, 0x04), props(v), text("refused"), props(v), text("#"), text("x"))},
			{"a malformed packet", connect("broken") + frame(0x80, "0001")},
			{"a second CONNECT", connect("twice") + connect("twice")},
			{"a packet of a server", connect("server") + frame(0xD0)},
		} {
			t.Run(fmt.Sprint(c.name, " ", v), func(t *testing.T) {
				s.use(t)
				watcher, other := s.connect(mqtt.V5, "watcher"), s.connect(mqtt.V5, "other")
				watcher.subscribe(0, "after")
				bad := s.open("mqtt", v)
				bad.write(unhex(t, c.send+publishTo(v, "after", 0)))
				bad.ended()
				other.publish("after", "mark", 0)
				watcher.wants("after", "mark", 0)
			})
		}
	}
}
