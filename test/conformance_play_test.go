package test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Waits of the player. They are for the server's side of what fails: what
// passes does not wait.
const (
	answerTime = 5 * time.Second        // for a packet, or the end
	probeAfter = 300 * time.Millisecond // without the end: ask whether the server still serves
)

var pingreq = []byte{0xC0, 0}

// player plays sequences on a server, one after another.
type player struct {
	server *server
	helper *peer // publishes
	plays  int
}

func newPlayer(s *server) *player {
	p := &player{server: s, helper: s.connect(mqtt.V5, "helper")}
	go p.finish()
	return p
}

// finish completes the QoS 2 messages of the helper.
func (p *player) finish() {
	for x := range p.helper.in {
		if a, ok := x.(*mqtt.Ack); ok && a.Type == mqtt.PUBREC && !a.Code.Failed() {
			_, _ = p.helper.conn.Write(mqtt.AppendAck(nil, mqtt.V5, mqtt.PUBREL, a.PacketID, 0))
		}
	}
}

// play returns how the server differed from the sequence.
func (p *player) play(t *testing.T, q *sequence) error {
	p.plays++
	conn, err := p.server.dial("mqtt")
	if err != nil {
		return err
	}
	defer conn.Close()
	c := &exchange{peer: newPeer(t, conn, q.version()), ids: make(map[uint16]uint16)}
	if q.connects() {
		c.hello(fmt.Sprintf("player %d", p.plays))
		if x, ok := c.wait(answerTime).(*mqtt.Connack); !ok || x.Code != 0 {
			return errors.New("the first CONNECT was refused")
		}
	}
	for i := range q.Msgs {
		if err := p.step(c, &q.Msgs[i]); err != nil {
			return fmt.Errorf("packet %d: %w", i+1, err)
		}
	}
	if q.ExpectDisconnect == nil || *q.ExpectDisconnect {
		return c.wantEnd()
	}
	return c.wantLife()
}

func (p *player) step(c *exchange, s *turn) error {
	if s.Type == "publish" {
		p.helper.post(&mqtt.Publish{Topic: []byte(s.Topic), QoS: s.QoS, Payload: []byte(s.Payload)})
		return nil
	}
	b, err := s.Payload.bytes()
	if err != nil {
		return err
	}
	switch s.Type {
	case "send":
		_, _ = c.conn.Write(c.translate(b)) // it may have ended: then what comes next says so
		return nil
	case "recv":
		want, err := readPacket(bufio.NewReader(bytes.NewReader(b)), c.version)
		if err != nil {
			return fmt.Errorf("in the sequence: %w", err)
		}
		return c.want(want)
	}
	return fmt.Errorf("unknown type %q", s.Type)
}

// exchange is a connection while it follows a sequence.
type exchange struct {
	*peer
	ids map[uint16]uint16 // packet identifiers of the sequence for the server's messages -> the server's
}

// wait returns the next packet, nil at the end of the connection, and silence
// after a while.
func (c *exchange) wait(limit time.Duration) any {
	select {
	case x := <-c.in: // nil once it is closed
		return x
	case <-time.After(limit):
		return silence{}
	}
}

// silence is what comes if nothing does.
type silence struct{}

// translate replaces the packet identifier in an acknowledgement of one of the
// server's messages.
func (c *exchange) translate(b []byte) []byte {
	switch mqtt.TypeOf(b[0]) {
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP:
		if len(b) < 4 {
			return b
		}
		if own, ok := c.ids[uint16(b[2])<<8|uint16(b[3])]; ok {
			b = slices.Clone(b)
			b[2], b[3] = byte(own>>8), byte(own)
		}
	}
	return b
}

// want takes the next packet, which must mean what want does. Instead of
// DISCONNECT the connection may just end.
func (c *exchange) want(want any) error {
	_, bye := want.(*mqtt.Disconnect)
	got := any(nil)
	if bye {
		got = c.ending()
	} else {
		got = c.wait(answerTime)
	}
	switch {
	case got == nil && bye && c.clean():
		return nil
	case got == nil:
		return fmt.Errorf("the connection ended (%v), want %s", c.err, meaning(want))
	}
	c.align(want, got)
	if w, g := meaning(want), meaning(got); w != g {
		return fmt.Errorf("%s, want %s", g, w)
	}
	return nil
}

// align makes want have what is the server's choice in got.
func (c *exchange) align(want, got any) {
	switch w := want.(type) {
	case *mqtt.Publish:
		if g, ok := got.(*mqtt.Publish); ok {
			c.ids[w.PacketID], w.PacketID = g.PacketID, g.PacketID
			if g.Expiry < w.Expiry { // less the time in the server
				w.Expiry = g.Expiry
			}
		}
	case *mqtt.Ack:
		if own, ok := c.ids[w.PacketID]; ok && w.Type == mqtt.PUBREL {
			w.PacketID = own
		}
	}
}

// ending is wait for a server that should end the connection.
func (c *exchange) ending() any {
	got := c.wait(probeAfter)
	if got == (silence{}) {
		_, _ = c.conn.Write(pingreq) // an answer ends the wait early
		got = c.wait(answerTime)
	}
	return got
}

// wantEnd waits for the end of the connection. Before it an MQTT 5 server may
// say why.
func (c *exchange) wantEnd() error {
	got := c.ending()
	if c.farewell(got) {
		got = c.wait(answerTime)
	}
	switch {
	case got != nil:
		return fmt.Errorf("%s, want the end", meaning(got))
	case !c.clean():
		return c.err
	}
	return nil
}

// farewell reports whether x may precede the end.
func (c *exchange) farewell(x any) bool {
	switch x := x.(type) {
	case *mqtt.Disconnect:
		return c.version == mqtt.V5
	case *mqtt.Connack:
		return c.version == mqtt.V5 && x.Code.Failed()
	}
	return false
}

// clean reports whether the connection ended between packets; c.in is closed.
func (c *exchange) clean() bool {
	_, broken := errors.AsType[net.Error](c.err)
	return broken || c.err == io.EOF
}

// wantLife checks that the server has nothing more to say and answers.
func (c *exchange) wantLife() error {
	_, _ = c.conn.Write(pingreq)
	got := c.wait(answerTime)
	if _, ok := got.(*mqtt.Pingresp); !ok {
		return fmt.Errorf("%s, want PINGRESP", meaning(got))
	}
	return nil
}

// meaning describes what of a packet the other side must care about. Packets
// with the same description are as good as each other.
func meaning(x any) string {
	switch x := x.(type) {
	case nil:
		return "the end"
	case silence:
		return "silence"
	case *mqtt.Connack: // its properties are the server's choice
		return fmt.Sprintf("CONNACK(%v 0x%02X)", x.SessionPresent, byte(x.Code))
	case *mqtt.Publish:
		var props mqtt.Properties
		if err := mqtt.DecodeProps(x.Props, &props); err != nil {
			return err.Error()
		}
		ids := slices.Sorted(slices.Values(x.SubscriptionIDs))
		return fmt.Sprintf("PUBLISH(%q %q qos %d id %d dup %v retain %v expiry %v %d for %v alias %d properties % X)", x.Topic, x.Payload, x.QoS, x.PacketID,
			x.Dup, x.Retain, x.HasExpiry, x.Expiry, ids, x.TopicAlias, props.AppendTravelling(nil))
	case *mqtt.Ack:
		return fmt.Sprintf("%v(%d 0x%02X)", x.Type, x.PacketID, byte(general(x.Code)))
	case *mqtt.Suback:
		return fmt.Sprintf("SUBACK(%d % X)", x.PacketID, generals(x.Codes))
	case *mqtt.Unsuback:
		return fmt.Sprintf("UNSUBACK(%d % X)", x.PacketID, generals(x.Codes))
	case *mqtt.Disconnect:
		return fmt.Sprintf("DISCONNECT(0x%02X)", byte(general(x.Code)))
	}
	return fmt.Sprintf("%T", x)
}

// general replaces codes by the most general one with the same consequence.
func general(code mqtt.ReasonCode) mqtt.ReasonCode {
	switch code {
	case mqtt.CodeNoMatchingSubscribers:
		return mqtt.CodeSuccess
	case mqtt.CodeMalformedPacket, mqtt.CodeProtocolError:
		return mqtt.CodeUnspecifiedError
	}
	return code
}

func generals(codes []mqtt.ReasonCode) []byte {
	list := make([]byte, len(codes))
	for i, c := range codes {
		list[i] = byte(general(c))
	}
	return list
}
