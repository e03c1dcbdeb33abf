package test

import (
	"fmt"

	"github.com/homing-mq/homing/internal/mqtt"
)

// topicOf is the P2P topic most tests use.
func topicOf(target string) string { return "orders/p2p/" + target }

// publish sends a message and returns the code of its PUBACK or PUBREC; a QoS
// 2 exchange is completed. QoS 0 has no code.
func (p *peer) publish(topic, payload string, qos byte) mqtt.ReasonCode {
	p.t.Helper()
	return p.publishThis(&mqtt.Publish{Topic: []byte(topic), Payload: []byte(payload), QoS: qos})
}

func (p *peer) publishThis(m *mqtt.Publish) mqtt.ReasonCode {
	p.t.Helper()
	id := p.post(m)
	if m.QoS == 0 {
		return 0
	}
	return p.acknowledged(id)
}

// post sends a message, gives it a packet identifier and does not wait.
func (p *peer) post(m *mqtt.Publish) uint16 {
	p.t.Helper()
	if m.QoS > 0 {
		p.lastID++
		m.PacketID = p.lastID
	}
	p.send(m)
	return m.PacketID
}

// acknowledged waits for the answer to a QoS 1 or 2 publish.
func (p *peer) acknowledged(id uint16) mqtt.ReasonCode {
	p.t.Helper()
	a := receiveIf(p, func(a *mqtt.Ack) bool { return a.PacketID == id && (a.Type == mqtt.PUBACK || a.Type == mqtt.PUBREC) })
	if a.Type == mqtt.PUBREC && !a.Code.Failed() {
		p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: id})
		receiveIf(p, func(a *mqtt.Ack) bool { return a.PacketID == id && a.Type == mqtt.PUBCOMP })
	}
	return a.Code
}

// arrival takes the next message and does not acknowledge it.
func (p *peer) arrival() *mqtt.Publish {
	p.t.Helper()
	return receive[*mqtt.Publish](p)
}

// message takes the next message and acknowledges it, QoS 2 to the end.
func (p *peer) message() *mqtt.Publish {
	p.t.Helper()
	m := p.arrival()
	p.acknowledge(m)
	return m
}

func (p *peer) acknowledge(m *mqtt.Publish) {
	p.t.Helper()
	switch m.QoS {
	case 1:
		p.send(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: m.PacketID})
	case 2:
		p.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: m.PacketID})
		receiveIf(p, func(a *mqtt.Ack) bool { return a.PacketID == m.PacketID && a.Type == mqtt.PUBREL })
		p.send(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: m.PacketID})
	}
}

// wants takes the next message and checks what it is.
func (p *peer) wants(topic, payload string, qos byte) *mqtt.Publish {
	p.t.Helper()
	m := p.message()
	if string(m.Topic) != topic || string(m.Payload) != payload || m.QoS != qos || m.Retain {
		p.t.Fatalf("%s received %s %q QoS %d retain %v, not %s %q QoS %d", p.id, m.Topic, m.Payload, m.QoS, m.Retain, topic, payload, qos)
	}
	return m
}

// wantsNothing checks that no message has come: from sends another one, which
// would be behind it.
func (p *peer) wantsNothing(from *peer) {
	p.t.Helper()
	p.lastID++
	mark := fmt.Sprintf("mark %d", p.lastID)
	from.publish(topicOf(p.id), mark, 0)
	p.wants(topicOf(p.id), mark, 0)
}

// subscribe returns the codes of SUBACK.
func (p *peer) subscribe(qos byte, filters ...string) []mqtt.ReasonCode {
	p.t.Helper()
	p.lastID++
	s := &mqtt.Subscribe{PacketID: p.lastID}
	for _, f := range filters {
		s.Filters = append(s.Filters, mqtt.Filter{Topic: []byte(f), QoS: qos})
	}
	p.send(s)
	return receiveIf(p, func(a *mqtt.Suback) bool { return a.PacketID == s.PacketID }).Codes
}

// ping waits until the server has handled what was sent before.
func (p *peer) ping() {
	p.t.Helper()
	p.send(&mqtt.Pingreq{})
	receive[*mqtt.Pingresp](p)
}

// leave disconnects in good order and waits until the server has taken the
// client off its session.
func (p *peer) leave() {
	p.t.Helper()
	p.server.departure(func() {
		p.send(&mqtt.Disconnect{})
		p.ended()
		p.conn.Close()
	})
}

// vanish closes the connection without DISCONNECT, and waits like leave.
func (p *peer) vanish() {
	p.t.Helper()
	p.server.departure(func() { p.conn.Close() })
}

// departure runs what makes a client leave, and waits until it has.
func (s *server) departure(do func()) {
	s.t.Helper()
	n := s.metric("homing_clients_connected")
	do()
	eventually(s.t, "a client leaves", func() bool { return s.metric("homing_clients_connected") < n })
}

// disconnected waits for DISCONNECT, in 3.x only for the end, and checks its
// code.
func (p *peer) disconnected(code mqtt.ReasonCode) {
	p.t.Helper()
	rest := p.ended()
	if p.version != mqtt.V5 {
		return
	}
	for _, x := range rest {
		if d, ok := x.(*mqtt.Disconnect); ok {
			if d.Code != code {
				p.t.Fatalf("%s: DISCONNECT 0x%02X (%s), want 0x%02X", p.id, byte(d.Code), d.Properties.ReasonString, byte(code))
			}
			return
		}
	}
	p.t.Fatalf("%s: the connection ended without DISCONNECT 0x%02X; before: %v", p.id, byte(code), show(rest))
}
