package mqttserver

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// open sends a CONNECT that change has made, and returns the answer.
func open(t *testing.T, addr string, v mqtt.Version, change func(*mqtt.Connect)) (*peer, mqtt.Connack) {
	t.Helper()
	p := dial(t, addr, v)
	c := &mqtt.Connect{Version: v, CleanStart: true, ClientID: []byte("dev")}
	if change != nil {
		change(c)
	}
	p.send(c)
	var ack mqtt.Connack
	p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, v) })
	return p, ack
}

// refused expects CONNACK with a code (MQTT 5) and the end, or for 3.x the end
// at once.
func refused(t *testing.T, addr string, v mqtt.Version, code mqtt.ReasonCode, change func(*mqtt.Connect)) {
	t.Helper()
	p := dial(t, addr, v)
	c := &mqtt.Connect{Version: v, CleanStart: true, ClientID: []byte("dev")}
	change(c)
	p.send(c)
	if v == mqtt.V5 {
		p.expectConnack(code)
	}
	p.expectClose(0)
}

func (p *peer) subscribe(f mqtt.Filter, id uint32) mqtt.ReasonCode {
	p.t.Helper()
	s := &mqtt.Subscribe{PacketID: 3, Filters: []mqtt.Filter{f}}
	if id != 0 {
		s.Properties.SubscriptionID = id
		s.Properties.Set(mqtt.PropSubscriptionID)
	}
	p.send(s)
	var ack mqtt.Suback
	p.expect(mqtt.SUBACK, func(first byte, body []byte) error { return ack.Decode(first, body, p.v) })
	return ack.Codes[0]
}

var allVersions = []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}

// TestConnackSaysWhatIsThere: everything is available, so nothing is said.
func TestConnackSaysWhatIsThere(t *testing.T) {
	_, addr := serve(t, nil)
	_, ack := open(t, addr, mqtt.V5, nil)
	for _, p := range []mqtt.Prop{
		mqtt.PropRetainAvailable, mqtt.PropSharedAvailable, mqtt.PropSubscriptionIDAvailable, mqtt.PropWildcardAvailable,
		mqtt.PropMaximumQoS, mqtt.PropServerKeepAlive, mqtt.PropResponseInfo, mqtt.PropAuthMethod, mqtt.PropAssignedClientID,
	} {
		if ack.Properties.Has(p) {
			t.Errorf("CONNACK has %v", p)
		}
	}
}

// TestRetain: a retained message reaches the core in every version; RETAIN of a
// P2P message says nothing.
func TestRetain(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range allVersions {
		p := connect(t, addr, "dev", v)
		topic := "r/" + v.String()
		p.send(&mqtt.Publish{Topic: []byte(topic), Payload: []byte("old"), QoS: 1, PacketID: 1, Retain: true})
		p.expect(mqtt.PUBACK, nil)
		if code := p.subscribe(mqtt.Filter{Topic: []byte(topic)}, 0); code != 0 {
			t.Fatal(code)
		}
		if got := p.expectPublish(); !got.Retain || string(got.Payload) != "old" {
			t.Errorf("%v: got %+v", v, got)
		}
		p.send(&mqtt.Publish{Topic: []byte("a/p2p/dev"), Retain: true})
		if got := p.expectPublish(); got.Retain {
			t.Errorf("%v: a P2P message with RETAIN", v)
		}
		_ = p.Close()
	}
}

// TestSubscriptionIdentifier goes with the messages of its subscription, and
// with every filter of the packet. [MQTT-3.3.4-3]
func TestSubscriptionIdentifier(t *testing.T) {
	_, addr := serve(t, nil)
	p := connect(t, addr, "dev", mqtt.V5)
	s := &mqtt.Subscribe{PacketID: 3, Filters: []mqtt.Filter{{Topic: []byte("a/+")}, {Topic: []byte("b/+")}}}
	s.Properties.SubscriptionID = 268_435_455
	s.Properties.Set(mqtt.PropSubscriptionID)
	p.send(s)
	p.expect(mqtt.SUBACK, nil)
	for _, topic := range []string{"a/1", "b/1"} {
		p.send(publish(topic, "x", 0, 0))
		if got := p.expectPublish(); len(got.SubscriptionIDs) != 1 || got.SubscriptionIDs[0] != 268_435_455 {
			t.Errorf("%s: identifiers %v", topic, got.SubscriptionIDs)
		}
	}
}

// TestSubackCodes of each version. closes is a code no version has: the
// connection is closed.
func TestSubackCodes(t *testing.T) {
	_, addr := serve(t, nil)
	const closes = mqtt.ReasonCode(0xFF)
	for _, c := range []struct {
		filter string
		codes  [3]mqtt.ReasonCode // 3.1, 3.1.1, 5
	}{
		{"a/b", [3]mqtt.ReasonCode{1, 1, 1}},
		{"$share/group/a/+", [3]mqtt.ReasonCode{1, 1, 1}},
		{"secret/x", [3]mqtt.ReasonCode{1, 0x80, mqtt.CodeNotAuthorized}}, // 3.1 has no way to say it
		{"a/p2p/other", [3]mqtt.ReasonCode{1, 0x80, mqtt.CodeNotAuthorized}},
		{"a/#/b", [3]mqtt.ReasonCode{closes, 0x80, mqtt.CodeTopicFilterInvalid}},
		{"$share//a", [3]mqtt.ReasonCode{closes, 0x80, mqtt.CodeTopicFilterInvalid}}, // [MQTT-4.8.2-1]
		{"$share/group", [3]mqtt.ReasonCode{closes, 0x80, mqtt.CodeTopicFilterInvalid}},
		{"$share/group/", [3]mqtt.ReasonCode{closes, 0x80, mqtt.CodeTopicFilterInvalid}},
		{"$share/gr+up/a", [3]mqtt.ReasonCode{closes, 0x80, mqtt.CodeTopicFilterInvalid}}, // [MQTT-4.8.2-2]
	} {
		for i, v := range allVersions {
			p := connect(t, addr, "dev", v)
			if c.codes[i] == closes {
				p.send(&mqtt.Subscribe{PacketID: 3, Filters: []mqtt.Filter{{Topic: []byte(c.filter), QoS: 1}}})
				p.expectClose(0)
				continue
			}
			if code := p.subscribe(mqtt.Filter{Topic: []byte(c.filter), QoS: 1}, 0); code != c.codes[i] {
				t.Errorf("%s in %v: %v, want %v", c.filter, v, code, c.codes[i])
			}
		}
	}
	p := connect(t, addr, "dev", mqtt.V5) // [MQTT-3.8.3-4]
	p.send(&mqtt.Subscribe{PacketID: 3, Filters: []mqtt.Filter{{Topic: []byte("$share/g/a"), NoLocal: true}}})
	p.expectClose(mqtt.CodeProtocolError)
}

// TestUnsubackCodes: what is not there is told apart. [MQTT-3.10.4-5]
func TestUnsubackCodes(t *testing.T) {
	_, addr := serve(t, nil)
	p := connect(t, addr, "dev", mqtt.V5)
	p.subscribe(mqtt.Filter{Topic: []byte("a/b")}, 0)
	p.send(&mqtt.Unsubscribe{PacketID: 4, Filters: [][]byte{[]byte("a/b"), []byte("a/b"), []byte("#/a")}})
	var ack mqtt.Unsuback
	p.expect(mqtt.UNSUBACK, func(first byte, body []byte) error { return ack.Decode(first, body, p.v) })
	want := []mqtt.ReasonCode{mqtt.CodeSuccess, mqtt.CodeNoSubscriptionExisted, mqtt.CodeTopicFilterInvalid}
	if !slices.Equal(ack.Codes, want) {
		t.Errorf("%v, want %v", ack.Codes, want)
	}
}

// TestServerKeepAlive: MQTT 5 clients are told and held to it, others keep
// theirs. [MQTT-3.2.2-21] [MQTT-3.2.2-22] [MQTT-3.1.2-22]
func TestServerKeepAlive(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.KeepAlive = 1 })
	connected := time.Now()
	var held []*peer
	for _, seconds := range []uint16{0, 60} {
		p, ack := open(t, addr, mqtt.V5, func(c *mqtt.Connect) { c.KeepAlive, c.ClientID = seconds, []byte{'a', 'a' + byte(seconds%26)} })
		if !ack.Properties.Has(mqtt.PropServerKeepAlive) || ack.Properties.ServerKeepAlive != 1 {
			t.Errorf("keep alive %d is answered by %d", seconds, ack.Properties.ServerKeepAlive)
		}
		held = append(held, p)
	}
	p, ack := open(t, addr, mqtt.V5, func(c *mqtt.Connect) { c.KeepAlive = 1 })
	if ack.Properties.Has(mqtt.PropServerKeepAlive) {
		t.Error("a keep alive within the limit is changed")
	}
	old := []*peer{connect(t, addr, "old", mqtt.V311), connect(t, addr, "older", mqtt.V31)}
	for _, p := range append(held, p) {
		p.expectClose(mqtt.CodeKeepAliveTimeout)
	}
	if d := time.Since(connected); d < 1500*time.Millisecond {
		t.Errorf("closed after %v", d)
	}
	for _, p := range old {
		p.expectAlive()
	}
}

// TestResponseInformation: an address for answers, for who asks and can have
// one. [MQTT-3.1.2-28]
func TestResponseInformation(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.ResponseTopic, o.TopicLength = "response/p2p/%c", 100 })
	ask := func(id string, want bool) func(*mqtt.Connect) {
		return func(c *mqtt.Connect) {
			c.ClientID = []byte(id)
			c.Properties.RequestResponseInfo = want
			c.Properties.Set(mqtt.PropRequestResponseInfo)
		}
	}
	for _, c := range []struct {
		id   string
		ask  bool
		want string
	}{
		{"dev", true, "response/p2p/dev"}, {"dev", false, ""}, {"a/b", true, ""}, {"a+", true, ""}, {strings.Repeat("x", 99), true, ""},
	} {
		if _, ack := open(t, addr, mqtt.V5, ask(c.id, c.ask)); string(ack.Properties.ResponseInfo) != c.want {
			t.Errorf("%q is told %q, want %q", c.id, ack.Properties.ResponseInfo, c.want)
		}
	}
	p, ack := open(t, addr, mqtt.V5, ask("asks", true))
	other := connect(t, addr, "answers", mqtt.V311)
	other.send(publish(string(ack.Properties.ResponseInfo), "answer", 0, 0))
	if got := p.expectPublish(); string(got.Payload) != "answer" {
		t.Errorf("got %q", got.Payload)
	}
	_, addr = serve(t, nil)
	if _, ack := open(t, addr, mqtt.V5, ask("dev", true)); ack.Properties.Has(mqtt.PropResponseInfo) {
		t.Error("response information without a topic for it")
	}
}

// TestMaximumQoS: over it nothing is taken, and a subscription gets less.
// [MQTT-3.2.2-9] [MQTT-3.2.2-10] [MQTT-3.2.2-11] [MQTT-3.2.2-12]
func TestMaximumQoS(t *testing.T) {
	for maximum := range 2 {
		s, addr := serve(t, func(o *Options) { o.MaxQoS = maximum })
		_, ack := open(t, addr, mqtt.V5, nil)
		if !ack.Properties.Has(mqtt.PropMaximumQoS) || int(ack.Properties.MaximumQoS) != maximum {
			t.Errorf("CONNACK says %d, want %d", ack.Properties.MaximumQoS, maximum)
		}
		for _, v := range allVersions {
			p := connect(t, addr, "pub", v)
			if code := p.subscribe(mqtt.Filter{Topic: []byte("a"), QoS: 2}, 0); int(code) != maximum {
				t.Errorf("granted %d, want %d", code, maximum)
			}
			p.send(publish("a", "x", byte(maximum), 1))
			if got := p.expectPublish(); int(got.QoS) != maximum {
				t.Errorf("QoS %d", got.QoS)
			}
			if maximum == 1 {
				p.expect(mqtt.PUBACK, nil)
			}
			before := s.broker.Stats.Dropped[mq.DropQoSTooHigh].Load()
			p.send(publish("a/p2p/x", "x", byte(maximum+1), 2))
			p.expectClose(mqtt.CodeQoSNotSupported)
			if s.broker.Stats.Dropped[mq.DropQoSTooHigh].Load() != before+1 {
				t.Error("not counted")
			}
			refused(t, addr, v, mqtt.CodeQoSNotSupported, func(c *mqtt.Connect) {
				c.HasWill, c.Will = true, mqtt.Will{Topic: []byte("w"), QoS: byte(maximum + 1)}
			})
		}
	}
}

// TestPayloadFormat: what is not the text it says it is, is refused, and leaves
// nothing behind.
func TestPayloadFormat(t *testing.T) {
	s, addr := serve(t, nil) // ReceiveMax 10
	text := mqtt.AppendPayloadFormat(nil, true)
	bad := func(topic string, qos byte, pid uint16) *mqtt.Publish {
		p := publish(topic, "\xff", qos, pid)
		p.Props = text
		return p
	}
	p := connect(t, addr, "dev", mqtt.V5)
	p.subscribe(mqtt.Filter{Topic: []byte("a/b")}, 0)
	for _, topic := range []string{"a/b", "a/p2p/dev"} {
		for range 15 { // more than the receive maximum
			p.send(bad(topic, 1, 7), bad(topic, 2, 8))
			p.expectAck(mqtt.PUBACK, 7, mqtt.CodePayloadFormatInvalid)
			p.expectAck(mqtt.PUBREC, 8, mqtt.CodePayloadFormatInvalid)
		}
		good := publish(topic, "\u00e9\x00", 2, 8) // [MQTT-4.3.3-9]: a new message
		good.Props = text
		p.send(good)
		for got := 0; got < 2; { // PUBREC may be first
			first, body, err := p.next()
			if err != nil {
				t.Fatal(err)
			}
			var ack mqtt.Ack
			var pub mqtt.Publish
			switch mqtt.TypeOf(first) {
			case mqtt.PUBREC:
				if err := ack.Decode(first, body, p.v); err != nil || ack.Code != 0 {
					t.Fatal(err, ack.Code)
				}
			case mqtt.PUBLISH:
				if err := pub.Decode(first, body, p.v); err != nil || string(pub.Payload) != "\u00e9\x00" {
					t.Fatal(err, pub.Payload)
				}
				if pub.QoS == 2 {
					p.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: pub.PacketID, Code: mqtt.CodeUnspecifiedError})
				}
			default:
				t.Fatal(mqtt.TypeOf(first))
			}
			got++
		}
		p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 8})
		p.expectAck(mqtt.PUBCOMP, 8, 0)
	}
	s.mu.Lock()
	c := s.conns.next
	s.mu.Unlock()
	p.expectAlive()
	if n := c.unacked.Load(); n != 0 {
		t.Errorf("%d of the client's messages count as under way", n)
	}
	// Bytes are bytes, also if a user property looks like the indicator.
	plain := publish("a/b", "\xff", 0, 0)
	plain.Props = mqtt.AppendUserProperty(mqtt.AppendPayloadFormat(nil, false), "\x01\x01", "\x01\x01")
	p.send(plain)
	p.expectPublish()
	p.send(bad("a/b", 0, 0))
	p.expectClose(mqtt.CodePayloadFormatInvalid)
	if n := s.broker.Stats.Dropped[mq.DropBadPayload].Load(); n != 61 {
		t.Errorf("%d counted, want 61", n)
	}
	refused(t, addr, mqtt.V5, mqtt.CodePayloadFormatInvalid, func(c *mqtt.Connect) {
		c.HasWill, c.Will = true, mqtt.Will{Topic: []byte("w"), Payload: []byte("\xff")}
		c.Will.Properties.PayloadFormat = 1
		c.Will.Properties.Set(mqtt.PropPayloadFormat)
	})
}

// TestWillTopics that could never be published to are refused at once.
func TestWillTopics(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.TopicLength = 20 })
	for topic, code := range map[string]mqtt.ReasonCode{
		"":                      mqtt.CodeMalformedPacket,
		"a/+":                   mqtt.CodeMalformedPacket,
		"a/p2p/":                mqtt.CodeTopicNameInvalid,
		strings.Repeat("x", 21): mqtt.CodeTopicNameInvalid,
	} {
		for _, v := range allVersions {
			refused(t, addr, v, code, func(c *mqtt.Connect) { c.HasWill, c.Will = true, mqtt.Will{Topic: []byte(topic)} })
		}
	}
}

// TestWillAndDisconnect: 0x00 is the only farewell. [MQTT-3.1.2-10] [MQTT-3.14.4-3]
func TestWillAndDisconnect(t *testing.T) {
	s, addr := serve(t, nil)
	heir := connect(t, addr, "heir", mqtt.V5)
	heir.subscribe(mqtt.Filter{Topic: []byte("will/+")}, 0)
	for _, c := range []struct {
		v    mqtt.Version
		code mqtt.ReasonCode
		will bool
	}{
		{mqtt.V5, mqtt.CodeNormalDisconnection, false}, {mqtt.V311, 0, false}, {mqtt.V31, 0, false},
		{mqtt.V5, mqtt.CodeDisconnectWithWillMessage, true}, {mqtt.V5, mqtt.CodeUnspecifiedError, true},
	} {
		p, _ := open(t, addr, c.v, func(p *mqtt.Connect) {
			p.HasWill, p.Will = true, mqtt.Will{Topic: []byte("will/x"), Payload: []byte("bye")}
		})
		p.send(&mqtt.Disconnect{Code: c.code})
		p.expectClose(0)
		if c.will {
			heir.expectPublish()
		}
		heir.expectAlive() // nothing else came
	}
	_ = heir.Close()
	waitClosed(t, s)
}

// TestDisconnectExpiry: a DISCONNECT changes the session expiry, within the
// limit, and not from none. Section 3.14.2.2.2.
func TestDisconnectExpiry(t *testing.T) {
	s, addr := serve(t, func(o *Options) { o.SessionExpiry = 1 })
	bye := func(seconds uint32) *mqtt.Disconnect {
		d := &mqtt.Disconnect{}
		d.Properties.SessionExpiry = seconds
		d.Properties.Set(mqtt.PropSessionExpiry)
		return d
	}
	p, _ := open(t, addr, mqtt.V5, nil)
	p.send(bye(1))
	p.expectClose(mqtt.CodeProtocolError)
	p, ack := open(t, addr, mqtt.V5, func(c *mqtt.Connect) {
		c.Properties.SessionExpiry = 100
		c.Properties.Set(mqtt.PropSessionExpiry)
	})
	if ack.Properties.SessionExpiry != 1 {
		t.Errorf("session expiry %d", ack.Properties.SessionExpiry)
	}
	p.send(bye(1000))
	p.expectClose(0)
	waitFor(t, "the session ends at the limit", func() bool { return s.broker.Sessions() == 0 })
	p = connect(t, addr, "dev", mqtt.V5)
	d := &mqtt.Disconnect{}
	d.Properties.ServerReference = []byte("elsewhere")
	d.Properties.Set(mqtt.PropServerReference)
	p.send(d)
	p.expectClose(mqtt.CodeProtocolError)
}

// TestStrictText: the code points a receiver may refuse.
func TestStrictText(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "plain/topic": true, "\u00e9\u4e16\U0001F600": true, " ~": true, "\u00a0": true, "\ufdcf\ufdf0\ufffd": true, "\ufeff": true,
		"\x01": false, "a\x1f": false, "\x7f": false, "\u0080": false, "a\u009fb": false,
		"\ufdd0": false, "\ufdef": false, "\ufffe": false, "\uffff": false, "\U0001FFFE": false, "\U0010FFFF": false,
	} {
		if strictText([]byte(text)) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}

// TestStrictUTF8: names with such code points are malformed where that is set,
// and are names otherwise.
func TestStrictUTF8(t *testing.T) {
	const odd = "a/\x01"
	_, strict := serve(t, func(o *Options) { o.StrictUTF8 = true })
	_, lax := serve(t, nil)
	for _, v := range allVersions {
		for name, send := range map[string]packet{
			"topic":       publish(odd, "x", 0, 0),
			"filter":      &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte(odd)}}},
			"unsubscribe": &mqtt.Unsubscribe{PacketID: 1, Filters: [][]byte{[]byte(odd)}},
		} {
			p := connect(t, strict, "dev", v)
			p.send(send)
			t.Log(v, name)
			p.expectClose(mqtt.CodeMalformedPacket)
		}
		connects := map[string]func(*mqtt.Connect){
			"client ID":  func(c *mqtt.Connect) { c.ClientID = []byte("\ufffe") },
			"user name":  func(c *mqtt.Connect) { c.HasUsername, c.Username = true, []byte(odd) },
			"will topic": func(c *mqtt.Connect) { c.HasWill, c.Will.Topic = true, []byte(odd) },
		}
		for name, change := range connects {
			t.Log(v, name)
			refused(t, strict, v, mqtt.CodeMalformedPacket, change)
			if p, ack := open(t, lax, v, change); ack.Code != 0 {
				t.Errorf("CONNACK %v by default", ack.Code)
			} else {
				p.send(&mqtt.Disconnect{})
				p.expectClose(0)
			}
		}
		p := connect(t, lax, "dev", v)
		if code := p.subscribe(mqtt.Filter{Topic: []byte(odd)}, 0); code != 0 {
			t.Errorf("SUBACK %v by default", code)
		}
		p.send(publish(odd, "x", 0, 0))
		p.expectPublish()
	}
}

// TestProblemInformation: reason strings for who wants them. [MQTT-3.1.2-29]
func TestProblemInformation(t *testing.T) {
	_, addr := serve(t, nil)
	for _, wanted := range []bool{true, false} {
		p, _ := open(t, addr, mqtt.V5, func(c *mqtt.Connect) {
			c.Properties.RequestProblemInfo = wanted
			c.Properties.Set(mqtt.PropRequestProblemInfo)
		})
		p.send(publish("secret/x", "x", 1, 1), publish("secret/x", "x", 2, 2), &mqtt.Ack{Type: mqtt.PUBREL, PacketID: 3}, &mqtt.Pingresp{})
		for range 3 {
			first, body, err := p.next()
			var a mqtt.Ack
			if err != nil || a.Decode(first, body, p.v) != nil || !a.Code.Failed() {
				t.Fatal(err, first, body)
			}
			if has := a.Properties.Has(mqtt.PropReasonString); has != wanted && a.Type != mqtt.PUBCOMP {
				t.Errorf("%v: reason string %v, wanted %v", a.Type, has, wanted)
			}
		}
		var d mqtt.Disconnect
		p.expect(mqtt.DISCONNECT, func(first byte, body []byte) error { return d.Decode(first, body, p.v) })
		if d.Code != mqtt.CodeProtocolError {
			t.Errorf("DISCONNECT %v", d.Code)
		}
	}
}

// TestMaximumPacketSizeOfClient: nothing larger is sent, and reason strings are
// what is left out first. [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.4.2-2]
// [MQTT-3.5.2-2] [MQTT-3.14.2-3]
func TestMaximumPacketSizeOfClient(t *testing.T) {
	_, addr := serve(t, func(o *Options) { o.ResponseTopic = "response/p2p/%c" })
	limit := func(size uint32) func(*mqtt.Connect) {
		return func(c *mqtt.Connect) {
			c.Properties.MaximumPacketSize = size
			c.Properties.RequestResponseInfo = true
			c.Properties.Set(mqtt.PropMaximumPacketSize, mqtt.PropRequestResponseInfo)
		}
	}
	const connack = 2 + 2 + 1 + 3 + 5 + 3 // receive maximum, maximum packet size, topic alias maximum
	p, ack := open(t, addr, mqtt.V5, limit(connack))
	if ack.Properties.Has(mqtt.PropResponseInfo) {
		t.Error("response information over the limit")
	}
	p.send(publish("secret/x", "x", 1, 1), publish("secret/x", "x", 2, 2))
	for _, want := range []mqtt.PacketType{mqtt.PUBACK, mqtt.PUBREC} {
		first, body, err := p.next()
		if err != nil || mqtt.TypeOf(first) != want || len(body) != 3 {
			t.Fatalf("%v of %d bytes, %v", mqtt.TypeOf(first), len(body), err)
		}
	}
	many := &mqtt.Subscribe{PacketID: 1}
	for len(many.Filters) < connack-5 {
		many.Filters = append(many.Filters, mqtt.Filter{Topic: []byte("a")})
	}
	p.send(many)
	p.expect(mqtt.SUBACK, nil)
	p.send(&mqtt.Unsubscribe{PacketID: 1, Filters: [][]byte{[]byte("a")}})
	p.expect(mqtt.UNSUBACK, nil)
	many.Filters = append(many.Filters, mqtt.Filter{Topic: []byte("a")})
	p.send(many)
	first, body, err := p.next()
	if err != nil || mqtt.TypeOf(first) != mqtt.DISCONNECT || len(body) != 1 || body[0] != byte(mqtt.CodePacketTooLarge) {
		t.Fatalf("%v % x, %v", mqtt.TypeOf(first), body, err)
	}

	p = dial(t, addr, mqtt.V5) // even CONNACK is too large
	c := &mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte("dev")}
	limit(connack - 1)(c)
	p.send(c)
	p.expectClose(0)
	p = dial(t, addr, mqtt.V5)
	c.HasWill, c.Will = true, mqtt.Will{Topic: []byte("a/p2p/")}
	limit(5)(c)
	p.send(c)
	if first, body, err := p.next(); err != nil || mqtt.TypeOf(first) != mqtt.CONNACK || len(body) != 3 {
		t.Fatalf("%v % x, %v", mqtt.TypeOf(first), body, err)
	}
	p.expectClose(0)
}

func TestAnswerSize(t *testing.T) {
	for _, n := range []int{1, 124, 125, 16380, 16381, 30000} {
		ack := mqtt.Suback{PacketID: 1, Codes: make([]mqtt.ReasonCode, n)}
		if got, want := answerSize(n), len(ack.Append(nil, mqtt.V5)); got != want {
			t.Errorf("%d codes: %d, want %d", n, got, want)
		}
	}
}

// TestClientIDs of old: as lenient as the field.
func TestClientIDs(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range allVersions { // [MQTT-3.1.3-5] [MQTT3-3.1.3-5]
		_ = connect(t, addr, strings.Repeat("x", 1000)+"\u00e9/", v).Close()
	}
	for v, want := range map[mqtt.Version]mqtt.ReasonCode{mqtt.V31: mqtt.ReturnIdentifierRejected, mqtt.V311: 0, mqtt.V5: 0} {
		if _, ack := open(t, addr, v, func(c *mqtt.Connect) { c.ClientID = nil }); ack.Code != want {
			t.Errorf("%v: an empty client ID gets %v, want %v", v, ack.Code, want)
		}
	}
}

// TestBeforeConnect: nothing but CONNECT, and no DISCONNECT in answer.
// [MQTT-3.1.0-1] [MQTT3-3.1.0-1] [MQTT-3.14.0-1]
func TestBeforeConnect(t *testing.T) {
	_, addr := serve(t, nil)
	for _, first := range []packet{
		&mqtt.Pingreq{}, publish("a", "x", 0, 0), authPacket(0x18, "TALK", ""), &mqtt.Disconnect{}, &mqtt.Connack{},
		&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("a")}}},
	} {
		p := dial(t, addr, mqtt.V5)
		p.send(first)
		if got, _, err := p.next(); err == nil {
			t.Errorf("%T is answered by %v", first, mqtt.TypeOf(got))
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%T is let be", first)
		}
	}
}

// TestUnknownIdentifiers: 0x92 where there is a code, and an end in any case.
func TestUnknownIdentifiers(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range allVersions {
		p := connect(t, addr, "dev", v)
		code := mqtt.ReasonCode(0)
		if v == mqtt.V5 {
			code = mqtt.CodePacketIdentifierNotFound
		}
		p.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: 5})
		p.expectAck(mqtt.PUBCOMP, 5, code)
		p.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: 6})
		p.expectAck(mqtt.PUBREL, 6, code)
		p.send(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: 7}, &mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: 8})
		if v == mqtt.V5 { // [MQTT-4.3.3-4]: only a PUBREC below 0x80
			p.send(&mqtt.Ack{Type: mqtt.PUBREC, PacketID: 9, Code: mqtt.CodeUnspecifiedError})
		}
		p.expectAlive()
	}
}

// TestWrongAcknowledgement: an acknowledgement that does not fit the message's
// QoS, or comes too early, is a protocol error. [MQTT-4.13.1-1] [MQTT3-4.8.0-1]
func TestWrongAcknowledgement(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range allVersions {
		for _, c := range []struct {
			qos byte
			ack mqtt.PacketType
		}{{1, mqtt.PUBREC}, {1, mqtt.PUBCOMP}, {2, mqtt.PUBACK}, {2, mqtt.PUBCOMP}} {
			p := connect(t, addr, "dev", v)
			p.subscribe(mqtt.Filter{Topic: []byte("a"), QoS: 2}, 0)
			from := connect(t, addr, "from", v)
			from.send(publish("a", "x", c.qos, 1))
			got := p.expectPublish()
			p.send(&mqtt.Ack{Type: c.ack, PacketID: got.PacketID})
			p.expectClose(mqtt.CodeProtocolError)
		}
	}
}

// TestMalformedConnectIsExplained: CONNACK says what is wrong.
func TestMalformedConnectIsExplained(t *testing.T) {
	_, addr := serve(t, nil)
	p := dial(t, addr, mqtt.V5)
	p.send(&mqtt.Connect{CleanStart: true, HasWill: true, Will: mqtt.Will{Topic: []byte("a/+"), Payload: []byte("x")}})
	var ack mqtt.Connack
	p.expect(mqtt.CONNACK, func(first byte, body []byte) error { return ack.Decode(first, body, p.v) })
	if !ack.Code.Failed() || len(ack.Properties.ReasonString) == 0 {
		t.Errorf("CONNACK %v, reason %q", ack.Code, ack.Properties.ReasonString)
	}
}

// TestBridge: a bridge of 3.x gets no message of its own back, and RETAIN as it
// was published.
func TestBridge(t *testing.T) {
	_, addr := serve(t, nil)
	for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311} {
		p := dial(t, addr, v)
		p.send(&mqtt.Connect{ClientID: []byte("bridge"), CleanStart: true, Bridge: true})
		p.expectConnack(0)
		p.subscribe(mqtt.Filter{Topic: []byte("br/#")}, 0)
		other := connect(t, addr, "other", v)
		p.send(&mqtt.Publish{Topic: []byte("$SYS/broker/connection/bridge/state"), Payload: []byte("1"), QoS: 1, PacketID: 9, Retain: true})
		p.expectAck(mqtt.PUBACK, 9, 0)
		p.send(&mqtt.Publish{Topic: []byte("br/x"), Payload: []byte("own")})
		p.expectAlive()
		other.send(&mqtt.Publish{Topic: []byte("br/x"), Payload: []byte("far"), Retain: true})
		if m := p.expectPublish(); string(m.Payload) != "far" || !m.Retain {
			t.Errorf("%v: %q, retain %v", v, m.Payload, m.Retain)
		}
		other.send(&mqtt.Publish{Topic: []byte("br/x"), Retain: true})
		p.expectPublish()
	}
}

// TestBridgeWindow: as many messages are under way to a bridge as mosquitto takes
// with its own settings, and the next one follows an acknowledgement.
func TestBridgeWindow(t *testing.T) {
	_, addr := serve(t, nil)
	p := dial(t, addr, mqtt.V311)
	p.send(&mqtt.Connect{ClientID: []byte("bridge"), CleanStart: true, Bridge: true})
	p.expectConnack(0)
	p.subscribe(mqtt.Filter{Topic: []byte("br/#"), QoS: 1}, 0)
	other := connect(t, addr, "other", mqtt.V311)
	for id := range uint16(bridgeInflight + 5) {
		other.send(publish("br/x", "far", 1, id+1))
		other.expectAck(mqtt.PUBACK, id+1, 0)
	}
	var ids []uint16
	for range bridgeInflight {
		ids = append(ids, p.expectPublish().PacketID)
	}
	p.expectAlive() // nothing else came
	for i := range 5 {
		p.send(&mqtt.Ack{Type: mqtt.PUBACK, PacketID: ids[i]})
		p.expectPublish()
	}
}
