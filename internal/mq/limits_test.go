package mq

import (
	"strings"
	"testing"
)

// TestLimits: what each limit says of messages at it and over it.
func TestLimits(t *testing.T) {
	l := Limits{TopicLength: 20, PacketSize: 100, MaxQoS: AtLeastOnce, StrictText: true}
	at := func(m Message, size int) Message { // padded to that size as a PUBLISH
		m.Payload = nil
		for m.PublishSize() < size {
			m.Payload = append(m.Payload, 'x')
		}
		return m
	}
	topic, long := []byte("a/p2p/b"), []byte(strings.Repeat("t", 21))
	for _, x := range []struct {
		name string
		m    Message
		want Breach
	}{
		{"ordinary", Message{Topic: topic, QoS: 1}, BreachNone},
		{"longest topic", Message{Topic: long[1:]}, BreachNone},
		{"longer topic", Message{Topic: long}, BreachTopicLength},
		{"longest shown topic", Message{Topic: topic, RealTopic: long[1:]}, BreachNone},
		{"longer shown topic", Message{Topic: topic, RealTopic: long}, BreachTopicLength},
		{"control character", Message{Topic: []byte("a/\x01")}, BreachTopicText},
		{"control character that is shown", Message{Topic: topic, RealTopic: []byte("a/\u009f")}, BreachTopicText},
		{"QoS", Message{Topic: topic, QoS: 2}, BreachQoS},
		{"largest, QoS 0", at(Message{Topic: topic}, 100), BreachNone},
		{"larger, QoS 0", at(Message{Topic: topic}, 101), BreachSize},
		{"largest with all", at(Message{Topic: topic, RealTopic: long[1:], QoS: 1, Expiry: 1, Props: []byte("\x01\x01")}, 100), BreachNone},
		{"larger with all", at(Message{Topic: topic, RealTopic: long[1:], QoS: 1, Expiry: 1, Props: []byte("\x01\x01")}, 101), BreachSize},
	} {
		if got := l.Check(&x.m); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
		if got := (&Limits{TopicLength: 65535, MaxQoS: 2}).Check(&x.m); got != BreachNone {
			t.Errorf("%s, without limits: %v", x.name, got)
		}
	}
	// Nothing that no packet can carry, whatever the settings.
	huge := Message{Topic: topic, Payload: make([]byte, 1<<28)}
	if got := (&Limits{TopicLength: 65535, MaxQoS: 2}).Check(&huge); got != BreachSize {
		t.Errorf("a payload of 256 MiB: %v", got)
	}
	m := Message{Topic: topic, RealTopic: topic, Payload: []byte("x"), QoS: 1}
	if n := testing.AllocsPerRun(100, func() { l.Check(&m) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
