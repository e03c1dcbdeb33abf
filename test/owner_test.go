package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mqtt"
)

// ownerServer has users ann and bob, an access key, anonymous clients, and a
// policy.
func ownerServer(t *testing.T, policy string) *server {
	t.Helper()
	s := newServer(t, "auth.session-owner="+policy)
	s.config = "auth:\n  anonymous: true\n  access-keys:\n    - key: AK\n      secret: XXXXX\n"
	s.passwd("ann", "a", "--signed")
	s.passwd("bob", "b", "--signed")
	s.fixPorts()
	s.start()
	return s
}

func (s *server) notOwner() int {
	s.t.Helper()
	return int(s.metric(`homing_connections_refused_total{reason="owner"}`))
}

// owned is a client ID of user ann that somebody else asks for.
type owned struct {
	transport string
	v         mqtt.Version
	id        string
	other     as
}

func ownedIDs(t *testing.T) (list []owned) {
	t.Helper()
	for _, transport := range []string{"mqtt", "ws"} {
		for _, v := range versions {
			for _, name := range []string{"user", "anonymous", "key"} {
				o := owned{transport: transport, v: v, id: fmt.Sprintf("dev-%s-%s-%s", transport, v, name)}
				o.other = map[string]as{
					"user": login("bob", "b"), "anonymous": func(*mqtt.Connect) {},
					"key": login("Signature|AK|i", auth.Sign("XXXXX", o.id)),
				}[name]
				list = append(list, o)
			}
		}
	}
	return list
}

// TestSessionOwner: what has waited for one login does not reach another, by no
// transport and no version, also when the server was killed right after it had
// accepted the first, and again before the other came.
func TestSessionOwner(t *testing.T) {
	t.Parallel()
	ann := login("ann", "a")
	for policy, want := range map[string]struct{ other, ann int }{"strict": {0, 2}, "clean": {0, 0}, "any": {2, 0}} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s, list := ownerServer(t, policy), ownedIDs(t)
			for _, o := range list {
				s.connectOver(o.transport, o.v, o.id, persistent, ann)
			}
			s.kill()
			s.start()
			sender := s.connect(mqtt.V5, "sender", login("bob", "b"))
			for _, o := range list {
				sender.publish(topicOf(o.id), "one", 1)
				sender.publish(topicOf(o.id), "two", 1)
			}
			s.kill()
			s.start()
			for _, o := range list {
				p := s.open(o.transport, o.v)
				p.hello(o.id, persistent, o.other)
				ack := receive[*mqtt.Connack](p)
				if policy == "strict" {
					checkNotOwner(t, s, p, ack, o.id)
				} else {
					if ack.Code != 0 || ack.SessionPresent != (policy == "any") {
						t.Fatalf("%s: CONNACK %v, session present %v", o.id, ack.Code, ack.SessionPresent)
					}
					got(t, s, p, want.other)
					p.leave()
				}
			}
			n, dropped := s.notOwner(), s.dropped("other_owner")
			if policy == "strict" && n != len(list) || policy != "strict" && n != 0 {
				t.Errorf("%d refusals counted", n)
			}
			if policy == "clean" && dropped != 2*len(list) || policy != "clean" && dropped != 0 {
				t.Errorf("%d messages counted as those of another owner", dropped)
			}
			s.kill()
			s.start()
			for _, o := range list {
				p := s.connectOver(o.transport, o.v, o.id, persistent, ann)
				got(t, s, p, want.ann)
				p.leave()
			}
		})
	}
}

// got wants exactly n messages.
func got(t *testing.T, s *server, p *peer, n int) {
	t.Helper()
	for _, payload := range []string{"one", "two"}[:n] {
		p.wants(topicOf(p.id), payload, 1)
	}
	sender := s.connect(mqtt.V5, "prober", login("bob", "b"))
	p.wantsNothing(sender)
	sender.leave()
}

// checkNotOwner checks a refusal: its code, what the client is told, and what is
// logged.
func checkNotOwner(t *testing.T, s *server, p *peer, ack *mqtt.Connack, id string) {
	t.Helper()
	if ack.Code != noLogin[p.version] {
		t.Errorf("%s: CONNACK %v, want %v", id, ack.Code, noLogin[p.version])
	}
	told := string(ack.Properties.ReasonString)
	if p.version == mqtt.V5 && (!strings.Contains(told, "belongs to another login") || strings.Contains(told, "ann")) {
		t.Errorf("%s: told %q", id, told)
	}
	p.ended()
	logged := func(lines []string) bool {
		return slices.ContainsFunc(lines, func(line string) bool {
			for _, part := range []string{"belongs to another login", id, `user \"ann\"`, `"login"`, "127.0.0.1:"} {
				if !strings.Contains(line, part) {
					return false
				}
			}
			return true
		})
	}
	if !s.find(logged) {
		t.Errorf("%s: not logged:\n%s", id, s.tail())
	}
}

// TestUserClientIDs: users are bound to client IDs by auth.client-id.
func TestUserClientIDs(t *testing.T) {
	t.Parallel()
	s := newServer(t, `auth.client-id=["%u", "%u-*"]`)
	s.config = "auth:\n  access-keys:\n    - key: AK\n      secret: XXXXX\n"
	s.passwd("ann", "a")
	s.start()
	for _, v := range versions {
		for id, code := range map[string]mqtt.ReasonCode{"ann": 0, "ann-1": 0, "": 0, "bob": badClientID[v], "anna": badClientID[v], "bob-ann": badClientID[v]} {
			if got := s.refused(v, id, login("ann", "a")); got != code {
				t.Errorf("v%v, %q: 0x%02X, want 0x%02X", v, id, byte(got), byte(code))
			}
		}
		if got := s.refused(v, "bob", login("ann", "x")); got != badLogin[v] {
			t.Errorf("v%v, wrong password: 0x%02X", v, byte(got))
		}
		s.connect(v, "dev", login("Signature|AK|i", auth.Sign("XXXXX", "dev"))).leave()
	}
}
