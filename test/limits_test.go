package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestInboxLimit: drop-oldest makes room, reject refuses.
func TestInboxLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []struct{ setting, payload string }{
		{"p2p.inbox-limit=5", "%d"},
		{"p2p.inbox-bytes=5300", "%01000d"},
	} {
		for _, policy := range []string{"drop-oldest", "reject"} {
			t.Run(limit.setting+" "+policy, func(t *testing.T) {
				t.Parallel()
				s := startServer(t, limit.setting, "p2p.inbox-policy="+policy, "limits.packet-size=2KiB")
				eachVersion(t, s, func(t *testing.T, v mqtt.Version) { inboxLimit(t, s, v, policy, limit.payload) })
			})
		}
	}
}

func inboxLimit(t *testing.T, s *server, v mqtt.Version, policy, payload string) {
	id := "dev " + v.String()
	sender := s.connect(v, "sender", persistent)
	before := s.dropped("inbox_full")
	first := 0
	if policy == "drop-oldest" {
		first = 3
	}
	for i := range 8 {
		want := mqtt.CodeSuccess
		if v == mqtt.V5 && policy == "reject" && i >= 5 {
			want = mqtt.CodeQuotaExceeded
		}
		if code := sender.publish(topicOf(id), fmt.Sprintf(payload, i), 1+byte(i%2)); code != want {
			t.Errorf("message %d: %v, want %v", i, code, want)
		}
	}
	if n := s.dropped("inbox_full") - before; n != 3 {
		t.Errorf("inbox_full counted %d times, want 3", n)
	}
	target := s.connect(v, id, persistent)
	for i := first; i < first+5; i++ {
		target.wants(topicOf(id), fmt.Sprintf(payload, i), 1+byte(i%2))
	}
	target.wantsNothing(sender)
	sender.leave()
	target.leave()
}

// TestPacketTooLarge: what is larger than limits.packet-size closes the
// connection, what is larger than the target takes reaches nobody.
// [MQTT-3.1.2-24] [MQTT-3.1.2-25] [MQTT-3.2.2-15]
func TestPacketTooLarge(t *testing.T) {
	t.Parallel()
	s := startServer(t, "limits.packet-size=4KiB")
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		sender, target := s.connect(v, "sender"), s.connect(v, "dev1")
		if v == mqtt.V5 && sender.connack.Properties.MaximumPacketSize != 4<<10 {
			t.Errorf("CONNACK says %d", sender.connack.Properties.MaximumPacketSize)
		}
		big := strings.Repeat("x", 4<<10-len(topicOf("dev1"))-10)
		id := sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(big), QoS: 1})
		target.wants(topicOf("dev1"), big, 1)
		sender.acknowledged(id)
		sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte(big + "0123456789"), QoS: 1})
		sender.disconnected(mqtt.CodePacketTooLarge)
		target.wantsNothing(s.connect(v, "sender 2"))
		target.leave()
	})
	t.Run("CONNECT", func(t *testing.T) {
		s.use(t)
		p := s.open("mqtt", mqtt.V5)
		p.write([]byte{0x10, 0xFF, 0xFF, 0x7F}) // 2 MiB
		p.ended()
	})
	t.Run("target's maximum packet size", func(t *testing.T) {
		s.use(t)
		before := s.dropped("too_large")
		sender, target := s.connect(mqtt.V5, "sender"), s.connect(mqtt.V5, "dev2", maximumPacketSize(100))
		for qos := range byte(3) {
			want := mqtt.CodeNoMatchingSubscribers
			if qos == 0 { // nobody is told
				want = mqtt.CodeSuccess
			}
			if code := sender.publish(topicOf("dev2"), strings.Repeat("x", 200), qos); code != want {
				t.Errorf("QoS %d: %v, want %v", qos, code, want)
			}
		}
		target.wantsNothing(sender)
		if n := s.dropped("too_large") - before; n != 3 {
			t.Errorf("too_large counted %d times, want 3", n)
		}
	})
}

// TestProtocolVersion: a version that does not exist is told.
// [MQTT-3.1.2-1] [MQTT-3.1.2-2] [MQTT3-3.1.2-1] [MQTT3-3.1.2-2] [MQTT3-3.2.2-5]
// [MQTT3-3.2.2-6]
func TestProtocolVersion(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	connect := func(name string, level byte) []byte {
		body := append([]byte{0, byte(len(name))}, name...)
		body = append(body, level, 2, 0, 60, 0, 0, 1, 'x') // the 0 after keep alive: MQTT 5 without properties
		return append([]byte{0x10, byte(len(body))}, body...)
	}
	for _, level := range []byte{6, 100} {
		p := s.open("mqtt", mqtt.V5)
		p.write(connect("MQTT", level))
		if code := receive[*mqtt.Connack](p).Code; code != mqtt.CodeUnsupportedProtocolVersion {
			t.Errorf("level %d: 0x%02X, want 0x84", level, byte(code))
		}
		p.ended()
	}
	for _, level := range []byte{0, 2} {
		p := s.open("mqtt", mqtt.V311)
		p.write(connect("MQTT", level))
		if code := receive[*mqtt.Connack](p).Code; code != mqtt.ReturnUnacceptableVersion {
			t.Errorf("level %d: 0x%02X, want 0x01", level, byte(code))
		}
		p.ended()
	}
	p := s.open("mqtt", mqtt.V311)
	p.write(connect("HTTP", 4))
	if rest := p.ended(); len(rest) > 0 {
		t.Errorf("another protocol is answered with %v", show(rest))
	}
}

// TestMalformedPacket: MQTT 5 is told why, 3.1.1 is closed.
// [MQTT-3.1.0-2] [MQTT-4.13.1-1] [MQTT-4.13.2-1] [MQTT-3.14.4-2] [MQTT3-2.2.2-2] [MQTT3-3.1.0-2] [MQTT3-3.3.1-4]
// [MQTT3-4.8.0-1]
func TestMalformedPacket(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
		for _, c := range []struct {
			name string
			data []byte
			code mqtt.ReasonCode
		}{
			{"QoS 3", []byte{0x36, 5, 0, 1, 'a', 0, 1}, mqtt.CodeMalformedPacket},
			{"reserved bits", []byte{0xC1, 0}, mqtt.CodeMalformedPacket},
			{"packet type 0", []byte{0x00, 0}, mqtt.CodeMalformedPacket},
			{"length", []byte{0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, mqtt.CodeMalformedPacket},
			{"topic is not UTF-8", []byte{0x30, 4, 0, 1, 0xFF, 0}, mqtt.CodeMalformedPacket},
			{"second CONNECT", (&mqtt.Connect{ClientID: []byte("x"), CleanStart: true}).Append(nil, v), mqtt.CodeProtocolError},
			{"CONNACK", []byte{0x20, 3, 0, 0, 0}, mqtt.CodeProtocolError},
		} {
			p := s.connect(v, "bad")
			p.write(c.data)
			rest := p.ended()
			switch {
			case v != mqtt.V5 && len(rest) > 0:
				t.Errorf("%s: %v, want nothing", c.name, show(rest))
			case v == mqtt.V5:
				d, ok := any(nil), false
				if len(rest) == 1 {
					d, ok = rest[0].(*mqtt.Disconnect)
				}
				if !ok || d.(*mqtt.Disconnect).Code != c.code {
					t.Errorf("%s: %v, want DISCONNECT 0x%02X", c.name, show(rest), byte(c.code))
				}
			}
		}
		if s.metric("homing_panics_total") != 0 {
			t.Error("the server has panicked")
		}
	})
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	s := startServer(t, "limits.connect-timeout=300ms")
	for _, transport := range []string{"mqtt", "ws"} {
		began := time.Now()
		p := s.open(transport, mqtt.V5)
		p.write([]byte{0x10}) // a beginning is not enough
		p.ended()
		if d := time.Since(began); d < 250*time.Millisecond {
			t.Errorf("%s: closed after %v", transport, d)
		}
	}
	quiet := s.connect(mqtt.V5, "quiet") // it is in time
	began := time.Now()
	eventually(t, "twice the time has passed", func() bool { return time.Since(began) > 600*time.Millisecond })
	quiet.ping()
}

// TestKeepAlive: a silent client is closed after one and a half times its keep
// alive, one that pings is not.
// [MQTT-3.1.2-22] [MQTT-3.2.2-22] [MQTT-3.12.4-1] [MQTT3-3.1.2-24] [MQTT3-3.12.4-1]
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, transport := range []string{"mqtt", "ws"} {
		t.Run(transport, func(t *testing.T) {
			s.use(t)
			for _, v := range versions {
				p := s.connectOver(transport, v, "silent", keepAlive(1))
				began := time.Now()
				p.disconnected(mqtt.CodeKeepAliveTimeout)
				if d := time.Since(began); d < 1200*time.Millisecond {
					t.Errorf("v%v: closed after %v", v, d)
				}
			}
			lively := s.connectOver(transport, mqtt.V5, "lively", keepAlive(1))
			tick := time.NewTicker(500 * time.Millisecond)
			defer tick.Stop()
			for range 5 {
				<-tick.C
				lively.ping()
			}
		})
	}
}

// TestConnectionLimits: in all and per address.
func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"limits.connections=3", "limits.connections-per-address=3"} {
		t.Run(setting, func(t *testing.T) {
			s := startServer(t, setting)
			var open []*peer
			for i := range 3 {
				open = append(open, s.connect(mqtt.V5, fmt.Sprint("client ", i)))
			}
			over := s.open("mqtt", mqtt.V5)
			over.ended()
			if n := s.metric(`homing_connections_refused_total{reason="limit"}`); n != 1 {
				t.Errorf("counted %v times", n)
			}
			open[0].leave()
			eventually(t, "the place is free", func() bool { return s.metric("homing_connections") == 2 })
			s.connect(mqtt.V5, "client 4")
		})
	}
}

// TestReceiveMaximumOfServer: limits.receive-maximum is told and kept.
// [MQTT-3.3.4-7]
func TestReceiveMaximumOfServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, "limits.receive-maximum=5", "p2p.store-after=10s")
	target, sender := s.connect(mqtt.V5, "dev1"), s.connect(mqtt.V5, "sender")
	if n := sender.connack.Properties.ReceiveMaximum; n != 5 {
		t.Errorf("CONNACK says %d", n)
	}
	for range 6 { // the target acknowledges none
		sender.post(&mqtt.Publish{Topic: []byte(topicOf("dev1")), Payload: []byte("x"), QoS: 1})
	}
	sender.disconnected(mqtt.CodeReceiveMaximumExceeded)
	target.ping()
}

// TestHTTP: health and metrics.
func TestHTTP(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if status, body := s.get(path); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	target, sender := s.connect(mqtt.V5, "dev1"), s.connect(mqtt.V5, "sender")
	sender.publish(topicOf("dev1"), "x", 0)
	target.message()
	for _, m := range []string{
		`homing_messages_total{direction="in",kind="p2p",qos="0"}`,
		`homing_messages_total{direction="out",kind="p2p",qos="0"}`,
	} {
		if n := s.metric(m); n != 1 {
			t.Errorf("%s %v, want 1", m, n)
		}
	}
	if n := s.metric("homing_clients_connected"); n != 2 {
		t.Errorf("%v clients connected, want 2", n)
	}
}
