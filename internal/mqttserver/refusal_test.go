package mqttserver

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// nearlyFull is a store at its disk limit: it admits what is small.
type nearlyFull struct{ mq.Store }

func (s nearlyFull) Admit(size int) error {
	if size > 1000 {
		return &mq.Error{Code: mq.StoreFull, Text: "store full"}
	}
	return s.Store.Admit(size)
}

// TestFirstRefusalEnds: MQTT 3 has no code for a refusal, so its sender is
// disconnected, and sends everything again that has no acknowledgement. Nothing
// behind the refused message may be taken: the target would have it first. With
// MQTT 5 the sender is told, and goes on.
func TestFirstRefusalEnds(t *testing.T) {
	large := string(make([]byte, 2000))
	refused := map[string]*mqtt.Publish{
		"disk limit, QoS 1":          publish("o/p2p/dev", large, 1, 2),
		"disk limit, QoS 2":          publish("o/p2p/dev", large, 2, 2),
		"disk limit, ordinary topic": publish("plain", large, 1, 2),
		"not allowed, QoS 0":         publish("secret/x", "A", 0, 0),
		"not allowed, QoS 1":         publish("secret/x", "A", 1, 2),
		"not allowed, QoS 2":         publish("secret/x", "A", 2, 2),
		"no client ID, QoS 1":        publish("o/p2p/", "A", 1, 2),
	}
	for name, bad := range refused {
		for _, v := range []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5} {
			for qos := byte(0); qos <= 2; qos++ {
				t.Run(fmt.Sprintf("%s/%v/then QoS %d", name, v, qos), func(t *testing.T) { firstRefusal(t, bad, v, qos) })
			}
		}
	}
}

func firstRefusal(t *testing.T, bad *mqtt.Publish, v mqtt.Version, qos byte) {
	_, addr := serveWith(t, func(o *broker.Options) { o.Store = nearlyFull{o.Store} }, nil)
	dev := dial(t, addr, mqtt.V5)
	dev.send(&mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte("dev"), Properties: keepFor(1000)})
	dev.expect(mqtt.CONNACK, nil)
	dev.send(&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: []byte("plain"), QoS: 1}}})
	dev.expect(mqtt.SUBACK, nil)
	_ = dev.Close() // offline: all must be stored

	var pid uint16
	if qos > 0 {
		pid = 3
	}
	snd := connect(t, addr, "snd", v)
	snd.send(publish("o/p2p/dev", "before", 1, 1))
	snd.expectAck(mqtt.PUBACK, 1, 0)
	snd.send(bad, publish("o/p2p/dev", "behind", qos, pid))
	want := []string{"before"}
	if v == mqtt.V5 {
		if bad.QoS > 0 {
			snd.expectFailure(bad.PacketID)
		}
		if qos > 0 {
			snd.expect(map[byte]mqtt.PacketType{1: mqtt.PUBACK, 2: mqtt.PUBREC}[qos], nil)
			want = append(want, "behind")
		}
		snd.send(&mqtt.Pingreq{})
		snd.expect(mqtt.PINGRESP, nil)
	} else {
		snd.expectClose(0)
	}

	dev = dial(t, addr, mqtt.V5)
	dev.send(&mqtt.Connect{Version: mqtt.V5, ClientID: []byte("dev"), Properties: keepFor(1000)})
	dev.expect(mqtt.CONNACK, nil)
	for _, text := range want {
		if got := dev.expectPublish(); string(got.Payload) != text {
			t.Fatalf("got %q, want %q of %q", got.Payload, text, want)
		}
	}
	dev.send(&mqtt.Pingreq{})
	dev.expect(mqtt.PINGRESP, nil)
}

func keepFor(seconds uint32) (p mqtt.Properties) {
	p.SessionExpiry = seconds
	p.Set(mqtt.PropSessionExpiry)
	return p
}

// expectFailure expects an acknowledgement that refuses.
func (p *peer) expectFailure(pid uint16) {
	p.t.Helper()
	first, body, err := p.next()
	if err != nil {
		p.t.Fatal(err)
	}
	var a mqtt.Ack
	if err := a.Decode(first, body, p.v); err != nil || a.PacketID != pid || !a.Code.Failed() {
		p.t.Fatalf("got %v of %d with %v (%v), want a refusal of %d", mqtt.TypeOf(first), a.PacketID, a.Code, err, pid)
	}
}
