package mqttserver

import (
	"bytes"
	"io"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestLargeConnect: every field of CONNECT may have 65 535 bytes, all of them
// together too.
// [MQTT-1.5.4-1] [MQTT3-1.5.3-1]
func TestLargeConnect(t *testing.T) {
	s, addr := serve(t, nil)
	longest := func(c byte) []byte { return bytes.Repeat([]byte{c}, 65535) }
	for _, v := range allVersions {
		for name, change := range map[string]func(*mqtt.Connect){
			"client ID": func(c *mqtt.Connect) { c.ClientID = longest('i') },
			"will":      func(c *mqtt.Connect) { c.HasWill, c.Will.Topic, c.Will.Payload = true, longest('t'), longest('w') },
			"login": func(c *mqtt.Connect) {
				c.HasUsername, c.Username, c.HasPassword, c.Password = true, longest('u'), true, longest('p')
			},
			"all": func(c *mqtt.Connect) {
				c.ClientID = longest('a')
				c.HasWill, c.Will.Topic, c.Will.Payload = true, longest('t'), longest('w')
				c.HasUsername, c.Username, c.HasPassword, c.Password = true, longest('u'), true, longest('p')
			},
		} {
			p, ack := open(t, addr, v, change)
			if ack.Code != 0 {
				t.Errorf("version %d, long %s: CONNACK %v", v, name, ack.Code)
			}
			p.send(&mqtt.Disconnect{})
		}
	}
	if n := s.large.Load(); n != 0 {
		t.Errorf("%d large CONNECTs are counted as under way", n)
	}
}

// TestLargeStrangers: only so many may send a large CONNECT at a time; the others
// are told, and those with a usual one are not concerned.
func TestLargeStrangers(t *testing.T) {
	s, addr := serve(t, nil)
	large := (&mqtt.Connect{Version: mqtt.V5, ClientID: bytes.Repeat([]byte("i"), 65535), HasUsername: true, Username: []byte("u")}).Append(nil, mqtt.V5)
	var begun []*peer
	for range largeConnects {
		p := dial(t, addr, mqtt.V5)
		p.raw(large[:100])
		begun = append(begun, p)
	}
	until(t, "the large CONNECTs are under way", func() bool { return s.large.Load() == largeConnects })
	over := dial(t, addr, mqtt.V5)
	over.raw(large[:100])
	over.expectConnack(mqtt.CodeServerBusy)
	over.expectClose(0)
	open(t, addr, mqtt.V5, nil)
	begun[0].raw(large[100:])
	begun[0].expectConnack(0)
	until(t, "one of them is over", func() bool { return s.large.Load() == largeConnects-1 })
}

// TestNotConnect: what cannot become a CONNECT is closed at once, not when it is
// complete or the time is over.
func TestNotConnect(t *testing.T) {
	_, addr := serve(t, nil)
	for name, begin := range map[string]string{
		"HTTP": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY": "PROXY TCP4 127.0.0.1 127.0.0.1 5 6\r\n", "PUBLISH": "\x30\xe0\xd4\x03x",
	} {
		p := dial(t, addr, mqtt.V311)
		p.raw([]byte(begin))
		if _, _, err := p.next(); err != io.EOF {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
}
