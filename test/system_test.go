package test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestStatistics: $SYS/broker/... is off unless it is set, and read by rule
// only; a new subscriber has the values at once. [MQTT-4.7.2-1]
func TestStatistics(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, config string
		grants       bool
		values       bool
	}{
		{"off", "auth:\n  anonymous: true\n  rules:\n    - allow: sub\n      topic: $SYS/#\n", true, false},
		{"on", "sys:\n  interval: 1s\nauth:\n  anonymous: true\n  rules:\n    - allow: sub\n      topic: $SYS/#\n    - allow: all\n      topic: \"#\"\n", true, true},
		{"no rules", "sys:\n  interval: 1s\n", false, false},
		{"rule for all", "sys:\n  interval: 1s\nauth:\n  anonymous: true\n  rules:\n    - allow: all\n      topic: \"#\"\n", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.config = c.config
			s.start()
			for _, v := range versions {
				p := s.connect(v, "reader", clean)
				code := p.subscribe(0, "$SYS/broker/#")[0]
				if code.Failed() == c.grants {
					t.Fatalf("SUBACK 0x%02X, granted should be %v", byte(code), c.grants)
				}
				if c.values {
					p.wantsStatistics()
				} else {
					p.ping()
				}
				p.leave()
			}
		})
	}
}

// wantsStatistics reads until it has seen the topics that matter.
func (p *peer) wantsStatistics() {
	p.t.Helper()
	got := make(map[string]string)
	retained := 0 // others were just published
	for _, topic := range []string{"clients/connected", "messages/received", "uptime", "version"} {
		for got[topic] == "" {
			m := receive[*mqtt.Publish](p)
			if m.QoS != 0 {
				p.t.Fatalf("%s: QoS %d", m.Topic, m.QoS)
			}
			if m.Retain {
				retained++
			}
			name, ok := strings.CutPrefix(string(m.Topic), "$SYS/broker/")
			if !ok {
				p.t.Fatalf("topic %s", m.Topic)
			}
			got[name] = string(m.Payload)
		}
	}
	if retained == 0 {
		p.t.Fatal("the last values did not come at once")
	}
	if _, err := strconv.Atoi(got["clients/connected"]); err != nil || !strings.HasSuffix(got["uptime"], " seconds") || !strings.HasPrefix(got["version"], "homing ") {
		p.t.Fatalf("values: %v", got)
	}
}
