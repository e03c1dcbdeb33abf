package mqttserver

import (
	"testing"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mqtt"
)

func (p *peer) pubrel(pid uint16) { p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: pid}) }

// TestPipelinedRelease: PUBLISH and PUBREL in one write are both answered, and a
// refused message's PUBREL with 0x92.
func TestPipelinedRelease(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range allVersions {
		dev, p := connect(t, addr, "dev", v), connect(t, addr, "sender", v)
		again := publish("a/p2p/dev", "x", 2, 9)
		again.Dup = true
		p.send(publish("a/p2p/dev", "x", 2, 9), again, again, &mqtt.Ack{Type: mqtt.PUBREL, PacketID: 9})
		dev.expectPublish()
		dev.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: 1})
		for range 3 {
			p.expectAck(mqtt.PUBREC, 9, 0)
		}
		p.expectAck(mqtt.PUBCOMP, 9, 0)
		if v != mqtt.V5 {
			continue
		}
		p.send(publish("secret/x", "x", 2, 9), &mqtt.Ack{Type: mqtt.PUBREL, PacketID: 9})
		p.expectAck(mqtt.PUBREC, 9, mqtt.CodeNotAuthorized)
		p.expectAck(mqtt.PUBCOMP, 9, mqtt.CodePacketIdentifierNotFound)
	}
}

// TestReceiveMaximumAnew: identifiers of the connection before do not count on
// the new one (MQTT 5, section 4.9), those that are used there do.
func TestReceiveMaximumAnew(t *testing.T) {
	_, addr := serve(t, nil) // takes 10
	persistent := func(c *mqtt.Connect) {
		c.ClientID, c.CleanStart = []byte("sender"), false
		c.Properties.SessionExpiry = broker.NeverExpires
		c.Properties.Set(mqtt.PropSessionExpiry)
	}
	p, _ := open(t, addr, mqtt.V5, persistent)
	for pid := uint16(1); pid <= 10; pid++ {
		p.send(publish("a/p2p/dev", "old", 2, pid))
		p.expectAck(mqtt.PUBREC, pid, 0)
	}
	p.send(publish("a/p2p/dev", "more", 1, 11))
	p.expectClose(mqtt.CodeReceiveMaximumExceeded)

	p, _ = open(t, addr, mqtt.V5, persistent)
	p.pubrel(1) // does not make room for more than 10
	p.expectAck(mqtt.PUBCOMP, 1, 0)
	for pid := uint16(21); pid <= 30; pid++ {
		p.send(publish("a/p2p/dev", "new", 2, pid))
		p.expectAck(mqtt.PUBREC, pid, 0)
	}
	p.send(publish("a/p2p/dev", "more", 2, 31))
	p.expectClose(mqtt.CodeReceiveMaximumExceeded)

	dev, _ := open(t, addr, mqtt.V5, func(c *mqtt.Connect) { c.ClientID, c.CleanStart = []byte("dev"), false })
	for n := range 20 {
		if m := dev.expectPublish(); string(m.Payload) != []string{"old", "new"}[n/10] {
			t.Errorf("message %d is %q", n, m.Payload)
		}
	}
}
