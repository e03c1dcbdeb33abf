package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Codes of a refused CONNECT, by version.
var (
	badLogin = map[mqtt.Version]mqtt.ReasonCode{
		mqtt.V311: mqtt.ReturnBadUserNameOrPassword, mqtt.V5: mqtt.CodeBadUserNameOrPassword,
	}
	noLogin = map[mqtt.Version]mqtt.ReasonCode{
		mqtt.V311: mqtt.ReturnNotAuthorized, mqtt.V5: mqtt.CodeNotAuthorized,
	}
	badClientID = map[mqtt.Version]mqtt.ReasonCode{
		mqtt.V311: mqtt.ReturnIdentifierRejected, mqtt.V5: mqtt.CodeClientIdentifierNotValid,
	}
)

// TestSignature: the contract's vector, and everything near it.
func TestSignature(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.config = "auth:\n  access-keys:\n    - key: AK\n      secret: XXXXX\n"
	s.start()
	const id, good = "GID_Test@@@0001", "vI009IZJZVGRwBwZvnbwjfuXxVM="
	for _, v := range versions {
		p := s.connect(v, id, login("Signature|AK|instance", good))
		p.leave()
		for name, how := range map[string]as{
			"wrong signature":  login("Signature|AK|instance", "vI009IZJZVGRwBwZvnbwjfuXxVN="),
			"wrong access key": login("Signature|AL|instance", good),
			"another mode":     login("Token|AK|instance", good),
			"a user":           login("AK", "XXXXX"),
			"empty password":   login("Signature|AK|instance", ""),
		} {
			if code := s.refused(v, id, how); code != badLogin[v] {
				t.Errorf("v%v, %s: 0x%02X, want 0x%02X", v, name, byte(code), byte(badLogin[v]))
			}
		}
		if code := s.refused(v, id); code != noLogin[v] {
			t.Errorf("v%v, no login: 0x%02X, want 0x%02X", v, byte(code), byte(noLogin[v]))
		}
		if code := s.refused(v, "GID_Test@@@0002", login("Signature|AK|instance", good)); code != badLogin[v] {
			t.Errorf("v%v, another client ID: 0x%02X", v, byte(code))
		}
	}
	code, out := homing(t, "sign", id, "--access-key", "AK", "--secret", "XXXXX")
	if code != 0 || !strings.Contains(out, good) || !strings.Contains(out, "Signature|AK|") {
		t.Errorf("homing sign: exit code %d\n%s", code, out)
	}
}

// passwd sets the password of a user of a server.
func (s *server) passwd(user, password string, more ...string) {
	s.t.Helper()
	cmd := exec.Command(program, append([]string{"passwd", user, "--users", filepath.Join(s.dir, "users.yml")}, more...)...)
	cmd.Stdin = strings.NewReader(password + "\n")
	if p := start(s.t, cmd); p.wait() != 0 {
		s.t.Fatalf("homing passwd: %s", p.tail())
	}
}

// TestUsersFile: users log in, changes count without a restart.
// [MQTT-3.1.4-2]
func TestUsersFile(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.passwd("alice", "secret")
	s.start()
	for _, v := range versions {
		s.connect(v, "a", login("alice", "secret")).leave()
		for name, how := range map[string]as{
			"wrong password": login("alice", "Secret"), "unknown user": login("bob", "secret"),
		} {
			if code := s.refused(v, "a", how); code != badLogin[v] {
				t.Errorf("v%v, %s: 0x%02X", v, name, byte(code))
			}
		}
		if code := s.refused(v, "a"); code != noLogin[v] {
			t.Errorf("v%v, no login: 0x%02X, want 0x%02X", v, byte(code), byte(noLogin[v]))
		}
	}
	s.passwd("bob", "builder", "--signed")
	eventually(t, "the new user can log in", func() bool { return s.refused(mqtt.V5, "b", login("bob", "builder")) == 0 })
	if info, err := os.Stat(filepath.Join(s.dir, "users.yml")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read the users file: %v %v", info.Mode(), err)
	}
	s.passwd("alice", "", "--delete")
	eventually(t, "the deleted user is refused", func() bool { return s.refused(mqtt.V5, "a", login("alice", "secret")) != 0 })
}

// TestRules: who may publish and subscribe where.
func TestRules(t *testing.T) {
	t.Parallel()
	s := newServer(t, "auth.session-owner=any") // all of them have the same client ID
	s.config = `
auth:
  anonymous: true
  rules:
    - deny: pub
      topic: secret/#
    - allow: pub
      topic: own/%c/#
    - allow: all
      topic: user/%u
    - allow: all
      topic: orders/#
    - allow: all
      topic: "#"
      user: backend
`
	s.passwd("backend", "b")
	s.passwd("alice", "a")
	s.start()
	for _, x := range []struct {
		user, topic string
		pub, sub    bool
	}{
		{"", "orders/p2p/dev1", true, false}, // others' P2P topics are never granted
		{"", "orders/p2p/me", true, true},
		{"", "orders/new", true, true},
		{"", "other/new", false, false},
		{"", "other/p2p/dev1", false, false},
		{"", "other/p2p/me", false, true},
		{"", "own/me/x", true, false},
		{"", "own/you/x", false, false},
		{"alice", "user/alice", true, true},
		{"alice", "user/bob", false, false},
		{"", "user/", false, false},
		{"backend", "other/p2p/dev1", true, false},
		{"backend", "secret/x", false, true},
		{"", "secret/x", false, false},
	} {
		how := clean
		if x.user != "" {
			how = login(x.user, x.user[:1])
		}
		five, three := s.connect(mqtt.V5, "me", how), s.connect(mqtt.V311, "me 3", how)
		for qos := byte(1); qos <= 2; qos++ {
			if code := five.publish(x.topic, "x", qos); (code != mqtt.CodeNotAuthorized) != x.pub {
				t.Errorf("%q publishes to %s with QoS %d: %v", x.user, x.topic, qos, code)
			}
		}
		if code := five.subscribe(1, x.topic)[0]; code != map[bool]mqtt.ReasonCode{true: 1, false: mqtt.CodeNotAuthorized}[x.sub] {
			t.Errorf("%q subscribes to %s: %v", x.user, x.topic, code)
		}
		if strings.Contains(x.topic, "/me") { // it is not me
			continue
		}
		three.post(&mqtt.Publish{Topic: []byte(x.topic), Payload: []byte("x"), QoS: 1})
		if x.pub {
			three.acknowledged(1)
		} else if rest := three.ended(); len(rest) > 0 {
			t.Errorf("3.1.1, %q publishes to %s: %v, want the end", x.user, x.topic, show(rest))
		}
	}
	if s.dropped("not_authorized") == 0 {
		t.Error("not_authorized is not counted")
	}
}

// TestTopicsList: other parent topics are refused.
func TestTopicsList(t *testing.T) {
	t.Parallel()
	s := startServer(t, "topics=[orders, devices]")
	sender, target := s.connect(mqtt.V5, "sender"), s.connect(mqtt.V5, "dev1")
	for topic, want := range map[string]bool{"orders/p2p/dev1": true, "devices/p2p/dev1": true, "other/p2p/dev1": false, "orders2/p2p/dev1": false} {
		id := sender.post(&mqtt.Publish{Topic: []byte(topic), Payload: []byte("x"), QoS: 1})
		if want {
			target.wants(topic, "x", 1)
		}
		if code := sender.acknowledged(id); (code == 0) != want || code != 0 && code != mqtt.CodeNotAuthorized {
			t.Errorf("%s: %v", topic, code)
		}
	}
	if code := target.subscribe(0, "other/x")[0]; code != mqtt.CodeNotAuthorized {
		t.Errorf("subscription to another parent topic: %v", code)
	}
}

// TestGroupClientIDs: client-id: group demands GID_x@@@device.
// [MQTT-3.1.3-8] [MQTT3-3.1.3-9]
// [MQTT-3.2.2-7] [MQTT3-3.2.2-5]
func TestGroupClientIDs(t *testing.T) {
	t.Parallel()
	s := startServer(t, "client-id=group")
	for _, v := range versions {
		s.connect(v, "GID_a@@@b").leave()
		if code := s.refused(v, "dev1"); code != badClientID[v] {
			t.Errorf("v%v: 0x%02X, want 0x%02X", v, byte(code), byte(badClientID[v]))
		}
	}
}

// TestFailedLogins: too many of one user from one address are refused at once, also
// with the right password. Others there are not, nor who signs; the metric says why.
func TestFailedLogins(t *testing.T) {
	t.Parallel()
	s := newServer(t, "limits.failed-logins=5")
	s.config = "auth:\n  access-keys:\n    - key: AK\n      secret: XXXXX\n"
	s.passwd("alice", "wonder")
	s.passwd("bob", "builder")
	s.start()
	const id, user, good = "GID_Test@@@0001", "Signature|AK|i", "vI009IZJZVGRwBwZvnbwjfuXxVM="
	for range 5 {
		if code := s.refused(mqtt.V5, "other", login("alice", "bad")); code != mqtt.CodeBadUserNameOrPassword {
			t.Fatalf("0x%02X", byte(code))
		}
	}
	if code := s.refused(mqtt.V5, "other", login("alice", "wonder")); code != mqtt.CodeConnectionRateExceeded {
		t.Errorf("the sixth: 0x%02X, want 0x9F", byte(code))
	}
	if code := s.refused(mqtt.V311, "other", login("alice", "bad")); code != mqtt.ReturnServerUnavailable {
		t.Errorf("3.1.1: 0x%02X, want 0x03", byte(code))
	}
	for range 60 {
		if code := s.refused(mqtt.V5, "other", login(user, "bad")); code != mqtt.CodeBadUserNameOrPassword {
			t.Fatalf("a wrong signature: 0x%02X", byte(code))
		}
	}
	s.connect(mqtt.V5, "b", login("bob", "builder")).leave()
	s.connect(mqtt.V5, id, login(user, good)).leave()
	for reason, want := range map[string]float64{"credentials": 65, "failed_logins": 2, "busy": 0} {
		if n := s.metric(`homing_connections_refused_total{reason="` + reason + `"}`); n != want {
			t.Errorf("%v connections refused for %s, want %v", n, reason, want)
		}
	}
}
