package test

import (
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestScenarioErrors: what a file says wrong is an error, with its line.
func TestScenarioErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"versions 5.1\n", `x.txt:1: no version "5.1"`},
		{"# nothing\n", "no steps"},
		{"set no\n", "x.txt:1: set wants KEY=VALUE"},
		{"a: CONNECT\na: CONECT", `x.txt:2: unknown packet "CONECT"`},
		{"a: CONNACK", `x.txt:1: unknown packet "CONNACK"`},
		{"a: < CONNECT", `x.txt:1: unknown packet "CONNECT"`},
		{"a: CONNECT clear", `unknown word "clear"`},
		{"a: CONNECT keepalive=1", `unknown word "keepalive=1"`},
		{"a: CONNECT keep-alive", `unknown word "keep-alive"`},
		{"a: CONNECT keep-alive=x", "invalid syntax"},
		{"a: CONNECT keep-alive=65536", "too large"},
		{"a: CONNECT session-expiry=1", "in CONNECT of MQTT 3.1.1"},
		{"5.0| a: CONNECT session-expiry=1\n3.1.1| a: CONNECT session-expiry=1", "x.txt:2:"},
		{"a: PUBLISH topic=t session-expiry=1", `unknown word "session-expiry=1" in PUBLISH`},
		{"a: < PUBACK 0x10", `unknown word "0x10" in PUBACK of MQTT 3.1.1`},
		{"a: SUBSCRIBE q1 filter=t", "before the first filter"},
		{"a: SUBSCRIBE filter=$SYS/#", "needs alone"},
		{"a: nothing", "one duration"},
		{"a: nothing soon", "invalid duration"},
		{"a: raw 1", "no bytes"},
		{"a: drop now", `unknown word "now"`},
		{"a/b: PUBLISH topic=t", "only < can be of several clients"},
		{"server: kill", "needs alone"},
		{"alone\nserver: pause", `unknown verb "pause"`},
		{"repeat 2\na: drop", "x.txt:1: repeat without end"},
		{"any-order\na: drop\nend", "x.txt:2: only expectations"},
		{"end", `unknown line "end"`},
		{`a: PUBLISH topic="t`, "a quote without its end"},
	} {
		if _, err := parseScenario("x.txt", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
	}
}

// TestScenarioMatch: what is as expected and what is not.
func TestScenarioMatch(t *testing.T) {
	t.Parallel()
	got := map[string]any{
		"publish": &mqtt.Publish{
			QoS: 1, PacketID: 7, Retain: true, Topic: []byte("t"), Payload: []byte("x"), HasExpiry: true, Expiry: 9,
			SubscriptionIDs: []uint32{2, 1},
			Props:           mqtt.AppendUserProperty(mqtt.AppendUserProperty(nil, "b", "1"), "a", "2"),
		},
		"puback":  &mqtt.Ack{Type: mqtt.PUBACK, PacketID: 3, Code: mqtt.CodeNoMatchingSubscribers},
		"suback":  &mqtt.Suback{PacketID: 3, Codes: []mqtt.ReasonCode{1, 0}},
		"connack": &mqtt.Connack{SessionPresent: true},
	}
	const rest = " topic=t payload=x expiry=9 sub-id=1 sub-id=2 user:b=1 user:a=2"
	for _, c := range []struct {
		packet, want string
		ok           bool
	}{
		{"publish", "PUBLISH q1 retain" + rest, true},
		{"publish", "PUBLISH retain" + rest, false},
		{"publish", "PUBLISH q2 retain" + rest, false},
		{"publish", "PUBLISH q1" + rest, false},
		{"publish", "PUBLISH q1 maybe-retain maybe-dup" + rest, true},
		{"publish", "PUBLISH q1 dup retain" + rest, false},
		{"publish", "PUBLISH q1 id=7 retain" + rest, true},
		{"publish", "PUBLISH q1 id=8 retain" + rest, false},
		{"publish", "PUBLISH q1 id={seven} retain" + rest, true},
		{"publish", "PUBLISH q1 id={six} retain" + rest, false},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "expiry=9", "expiry=8..9", 1), true},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "expiry=9", "expiry=10..11", 1), false},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "expiry=9", "expiry=*", 1), true},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "expiry=9", "", 1), false},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "sub-id=1", "", 1), false},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "user:b=1 user:a=2", "user:a=2 user:b=1", 1), false},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, " user:a=2", "", 1), false},
		{"publish", "PUBLISH q1 retain content-type=c" + rest, false},
		{"publish", "PUBLISH q1 retain -content-type" + rest, true},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "payload=x", "payload-size=1", 1), true},
		{"publish", "PUBLISH q1 retain" + strings.Replace(rest, "payload=x", "payload-size=2", 1), false},
		{"puback", "PUBACK", true},
		{"puback", "PUBACK id=4", false},
		{"puback", "PUBACK 0x10", true},
		{"puback", "PUBACK 0x00", false},
		{"puback", "PUBACK 0x00/0x10", true},
		{"puback", "PUBREC", false},
		{"suback", "SUBACK 0x01 0x00", true},
		{"suback", "SUBACK 0x00 0x01", false},
		{"suback", "SUBACK 0x01", false},
		{"suback", "SUBACK", false},
		{"connack", "CONNACK", false},
		{"connack", "CONNACK session-present", true},
		{"connack", "CONNACK -session-present", false},
		{"connack", "closed", false},
	} {
		s, err := parseStep("a: < " + c.want)
		if err != nil {
			t.Fatal(err)
		}
		r := &scenarioRun{version: mqtt.V5}
		r.vars = map[string]string{"six": "6"}
		found, ok := (&actor{run: r, sent: 3}).matches(s, s.words, got[c.packet])
		if ok != c.ok {
			t.Errorf("%s: matches %v", c.want, ok)
		}
		if strings.Contains(c.want, "{seven}") && found["seven"] != "7" {
			t.Errorf("%s: %v", c.want, found)
		}
	}
}
