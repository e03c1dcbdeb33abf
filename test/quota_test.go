package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// TestInboxesLimit: invented client IDs fill limits.inboxes and no more, over
// kill -9 and restarts, and a device that fetches its messages makes room.
func TestInboxesLimit(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"limits.inboxes=20", "limits.inbox-name-bytes=20000"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, setting, "limits.share=100", "p2p.keep=always")
			id := func(i int) string { return fmt.Sprintf("%03d%s", i, strings.Repeat("x", 997)) }
			sender := s.connect(mqtt.V5, "sender")
			arrived, refused := 0, 0
			for i := range 50 {
				switch code := sender.publish(topicOf(id(i)), "x", 1+byte(i%2)); code {
				case mqtt.CodeSuccess:
					arrived++
				case mqtt.CodeQuotaExceeded:
					refused++
				default:
					t.Errorf("message %d: %v", i, code)
				}
			}
			if n := s.dropped("inboxes_full"); arrived != 20 || refused != 30 || n != 30 {
				t.Fatalf("%d of 50 arrived, %d were refused, %d counted; want 20, 30 and 30", arrived, refused, n)
			}
			for life := range 2 {
				if life == 0 {
					s.kill()
				} else {
					s.stop()
				}
				s.start()
				used, names := s.metric(`homing_quota_used{quota="inboxes"}`), s.metric(`homing_quota_used{quota="inbox-name-bytes"}`)
				if used != 20 || names != 20_000 {
					t.Fatalf("life %d: %v inboxes with names of %v bytes, want 20 with 20000", life, used, names)
				}
				sender = s.connect(mqtt.V311, "sender")
				if code := sender.publish(topicOf(id(40)), "x", 1); code != mqtt.CodeSuccess || s.dropped("inboxes_full") != 1 {
					t.Errorf("life %d: a refusal in 3.1.1: %v, %d counted", life, code, s.dropped("inboxes_full"))
				}
				device := s.connect(mqtt.V311, id(life))
				device.acknowledge(device.wants(topicOf(id(life)), "x", 1+byte(life%2)))
				device.leave()
				eventually(t, "the place is free", func() bool { return s.metric(`homing_quota_used{quota="inboxes"}`) == 19 })
				sender.publish(topicOf(id(41+life)), "x", 1)
				sender.leave()
				if n := s.dropped("inboxes_full"); n != 1 {
					t.Errorf("life %d: %d refused, want 1: there was a place", life, n)
				}
			}
		})
	}
}

// TestWillLimit: a will over the limit refuses CONNECT, in each version with its
// code; who has one may come back, and who leaves properly gives his place up.
func TestWillLimit(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"limits.wills=1", "limits.will-bytes=300"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, setting, "limits.share=100")
			eachVersion(t, s, func(t *testing.T, v mqtt.Version) {
				will := func(c *mqtt.Connect) {
					c.HasWill, c.Will.Topic, c.Will.Payload = true, []byte("w"), []byte(strings.Repeat("x", 100))
				}
				full := mqtt.ReturnServerUnavailable
				if v == mqtt.V5 {
					full = mqtt.CodeQuotaExceeded
				}
				before := s.metric(`homing_connections_refused_total{reason="wills"}`)
				s.connect(v, "first "+v.String(), will)
				if code := s.refused(v, "second", will); code != full {
					t.Errorf("a second will: %v, want %v", code, full)
				}
				first := s.connect(v, "first "+v.String(), will) // takes over
				s.connect(v, "without").leave()
				if n := s.metric(`homing_connections_refused_total{reason="wills"}`) - before; n != 1 {
					t.Errorf("%v refusals counted, want 1", n)
				}
				s.departure(first.leave)
				eventually(t, "the will is gone", func() bool { return s.metric(`homing_quota_used{quota="wills"}`) == 0 })
				second := s.connect(v, "second", will)
				s.departure(second.leave)
			})
		})
	}
}

// TestByteLimits: retained and delayed messages are bounded in bytes; metrics tell
// what is used of what.
func TestByteLimits(t *testing.T) {
	t.Parallel()
	s := startServer(t, "limits.retained-bytes=100KiB", "limits.share=100")
	sender := s.connect(mqtt.V5, "sender")
	arrived := 0
	for i := range 20 {
		m := &mqtt.Publish{Topic: fmt.Appendf(nil, "r/%d", i), Payload: make([]byte, 10<<10), QoS: 1, Retain: true}
		if code := sender.publishThis(m); code == mqtt.CodeNoMatchingSubscribers || code == mqtt.CodeSuccess {
			arrived++
		} else if code != mqtt.CodeQuotaExceeded {
			t.Errorf("message %d: %v", i, code)
		}
	}
	if n := s.dropped("retained_bytes"); arrived != 9 || n != 11 {
		t.Errorf("%d of 20 arrived, %d counted; want 9 and 11", arrived, n)
	}
	used, limit := s.metric(`homing_quota_used{quota="retained-bytes"}`), s.metric(`homing_quota_limit{quota="retained-bytes"}`)
	if used < 90<<10 || used > 100<<10 || limit != 100<<10 {
		t.Errorf("%v of %v bytes", used, limit)
	}
}

// TestSharesOfUsers: one user fills its share of the inboxes; another gets the rest.
func TestSharesOfUsers(t *testing.T) {
	t.Parallel()
	s := newServer(t, "limits.inboxes=20", "p2p.keep=always")
	s.passwd("greedy", "secret-1")
	s.passwd("modest", "secret-2")
	s.start()
	arrived := map[string]int{}
	for _, user := range []string{"greedy", "modest"} {
		for c := range 2 { // with two connections
			p := s.connect(mqtt.V5, fmt.Sprint(user, c), login(user, map[string]string{"greedy": "secret-1", "modest": "secret-2"}[user]))
			for i := range 20 {
				if p.publish(topicOf(fmt.Sprint(user, c, "-", i)), "x", 1) == mqtt.CodeSuccess {
					arrived[user]++
				}
			}
			p.leave()
		}
	}
	if arrived["greedy"] != 15 || arrived["modest"] != 5 {
		t.Errorf("%v arrived, want 15 and 5 of 40 each", arrived)
	}
}
