package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestLimitsOfEverySender: what one door refuses of a message every door refuses,
// counted as the same; and a message at the limit comes by every door.
func TestLimitsOfEverySender(t *testing.T) {
	t.Parallel()
	const topicLength, packetSize = 64, 1 << 10
	w := newAccessWorld(t, "mqtt.strict-utf8=true", fmt.Sprint("limits.topic-length=", topicLength), fmt.Sprint("limits.packet-size=", packetSize))
	operator, key := &accessPrincipals[2], &accessPrincipals[4]
	pad := func(s string, n int) string { return s + strings.Repeat("x", n-len(s)) }
	for _, x := range []struct {
		name, topic, body string
		drop              string // "": it is taken
	}{
		{"longest topic", pad("devices/p2p/dev/", topicLength), "longest topic", ""},
		{"longer topic", pad("devices/p2p/dev/", topicLength+1), "longer topic", "bad_topic"},
		{"control character", "devices/p2p/dev/\x7f", "control character", "bad_topic"},
		{"non-character", "devices/p2p/dev/\ufdd0", "non-character", "bad_topic"},
		{"large", "devices/p2p/dev", strings.Repeat("y", packetSize-100), ""},
		{"larger", "devices/p2p/dev", strings.Repeat("y", packetSize), "too_large"}, // than any packet with a topic
	} {
		for door, send := range map[string]func(text string) string{
			"MQTT 3": func(text string) string { return w.publishOver(mqtt.V311, operator, x.topic, text) },
			"MQTT 5": func(text string) string { return w.publishOver(mqtt.V5, operator, x.topic, text) },
			"remoting": func(text string) string {
				return w.sendRemoting(key, accessErrand{topic: x.topic}, text)
			},
			"gRPC": func(text string) string { return w.sendGRPC(key, accessErrand{topic: x.topic}, text) },
		} {
			text := pad(x.name+" by "+door, max(len(x.body), 40))
			if len(x.body) == packetSize {
				text = text[:packetSize]
			}
			before := w.dropped("bad_topic") + w.dropped("too_large")
			of := 0
			if x.drop != "" {
				of = w.dropped(x.drop)
			}
			got := send(text)
			_, dev := w.seen(text)
			switch {
			case x.drop == "" && (got != accessOK || dev != x.topic):
				t.Errorf("%s by %s: %s, and comes by %q", x.name, door, got, dev)
			case x.drop != "" && (got == accessOK || dev != ""):
				t.Errorf("%s by %s: %s, and comes by %q", x.name, door, got, dev)
			}
			all := w.dropped("bad_topic") + w.dropped("too_large") - before
			switch {
			case x.drop == "" && all != 0:
				t.Errorf("%s by %s: counted %d times", x.name, door, all)
			case x.drop != "" && (all != 1 || w.dropped(x.drop)-of != 1):
				t.Errorf("%s by %s: counted %d times, %d of them as %s", x.name, door, all, w.dropped(x.drop)-of, x.drop)
			}
		}
	}
}

// publishOver publishes with QoS 1 and says whether the message was taken.
func (w *accessWorld) publishOver(v mqtt.Version, a *accessPrincipal, topic, text string) string {
	w.t.Helper()
	w.n++
	id := fmt.Sprint("sender", w.n)
	p := w.connect(v, id, clean, a.login(id))
	pid := p.post(&mqtt.Publish{Topic: []byte(topic), Payload: []byte(text), QoS: 1})
	if ack, ok := p.next().(*mqtt.Ack); ok && ack.PacketID == pid && !ack.Code.Failed() {
		p.leave()
		return accessOK
	}
	return accessRefused
}
