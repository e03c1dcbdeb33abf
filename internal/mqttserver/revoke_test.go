package mqttserver

import (
	"fmt"
	"testing"

	homingauth "github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// serveAuth is serve with real rules and users.
func serveAuth(t *testing.T, o homingauth.Options) (*Server, *homingauth.Auth, string) {
	t.Helper()
	a, err := homingauth.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	s, addr := serveWith(t, func(o *broker.Options) { o.Auth = a }, func(o *Options) { o.Auth = a })
	return s, a, addr
}

// usersFile has users with secrets, name, secret, name, secret...
func usersFile(t *testing.T, users ...string) string {
	t.Helper()
	f := &homingauth.UsersFile{}
	for i := 0; i < len(users); i += 2 {
		f.Set(homingauth.FileUser{Name: users[i], Secret: users[i+1]})
	}
	path := t.TempDir() + "/users.yml"
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// logIn connects as a user, or with a user name that has a | by a signature.
func logIn(t *testing.T, addr string, v mqtt.Version, id, user, password string) *peer {
	t.Helper()
	p, ack := open(t, addr, v, func(c *mqtt.Connect) {
		c.ClientID = []byte(id)
		if user != "" {
			c.HasUsername, c.Username = true, []byte(user)
			c.HasPassword, c.Password = true, []byte(password)
		}
	})
	if ack.Code != 0 {
		t.Fatalf("%s cannot log in: %v", id, ack.Code)
	}
	return p
}

// TestLoginEnds: whoever would not be let in any more is disconnected, with
// 0x87, or in MQTT 3 closed, by the time that Apply returns or soon after; the
// others stay, and what the former had subscribed to stays without effect.
func TestLoginEnds(t *testing.T) {
	before := func(t *testing.T) homingauth.Options {
		return homingauth.Options{
			Anonymous: true, UsersFile: usersFile(t, "ann", "a", "bob", "b"),
			AccessKeys: []homingauth.AccessKey{{Key: "K1", Secret: "s1"}, {Key: "K2", Secret: "s2"}},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *homingauth.Options)
		gone   string // client ID
	}{
		{"user deleted", func(t *testing.T, o *homingauth.Options) { o.UsersFile = usersFile(t, "ann", "a") }, "bob"},
		{"password changed", func(t *testing.T, o *homingauth.Options) { o.UsersFile = usersFile(t, "ann", "a", "bob", "new") }, "bob"},
		{"key deleted", func(_ *testing.T, o *homingauth.Options) { o.AccessKeys = o.AccessKeys[1:] }, "k1"},
		{"secret changed", func(_ *testing.T, o *homingauth.Options) { o.AccessKeys[0].Secret = "new" }, "k1"},
		{"anonymous off", func(_ *testing.T, o *homingauth.Options) { o.Anonymous = false }, "nobody"},
		{"nothing", func(*testing.T, *homingauth.Options) {}, ""},
	} {
		for _, v := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			t.Run(fmt.Sprint(tt.name, " ", v), func(t *testing.T) {
				o := before(t)
				s, a, addr := serveAuth(t, o)
				clients := map[string]*peer{
					"ann":    logIn(t, addr, v, "ann", "ann", "a"),
					"bob":    logIn(t, addr, v, "bob", "bob", "b"),
					"k1":     logIn(t, addr, v, "k1", homingauth.SignatureUser("K1", "i"), homingauth.Sign("s1", "k1")),
					"k2":     logIn(t, addr, v, "k2", homingauth.SignatureUser("K2", "i"), homingauth.Sign("s2", "k2")),
					"nobody": logIn(t, addr, v, "nobody", "", ""),
				}
				for _, p := range clients {
					p.subscribe(mqtt.Filter{Topic: []byte("a"), QoS: 1}, 0)
				}
				tt.change(t, &o)
				if err := a.Apply(o); err != nil {
					t.Fatal(err)
				}
				stay := 5
				if p := clients[tt.gone]; p != nil {
					stay--
					p.expectClose(mqtt.CodeNotAuthorized)
					delete(clients, tt.gone)
				}
				clients["k2"].send(publish("a", "after", 0, 0))
				for id, p := range clients {
					if m := p.expectPublish(); string(m.Payload) != "after" {
						t.Errorf("%s got %q", id, m.Payload)
					}
				}
				waitFor(t, "it is gone", func() bool { return s.Connections() == stay })
			})
		}
	}
}

// TestServerIsSecured: who came without a login while the server was open is
// disconnected when it is secured, unless anonymous clients are let in.
func TestServerIsSecured(t *testing.T) {
	for _, anonymous := range []bool{false, true} {
		t.Run(fmt.Sprint("anonymous ", anonymous), func(t *testing.T) {
			_, a, addr := serveAuth(t, homingauth.Options{})
			p := logIn(t, addr, mqtt.V5, "x", "any", "thing")
			if err := a.Apply(homingauth.Options{Anonymous: anonymous, UsersFile: usersFile(t, "ann", "a")}); err != nil {
				t.Fatal(err)
			}
			if !anonymous {
				p.expectClose(mqtt.CodeNotAuthorized)
				return
			}
			p.send(publish("x/p2p/x", "hello", 1, 7))
			if m := p.expectPublish(); string(m.Payload) != "hello" {
				t.Errorf("got %q", m.Payload)
			}
		})
	}
}

// TestRightToPublishGone: each publish of an open connection is decided by the
// present rules, by topic alias too.
func TestRightToPublishGone(t *testing.T) {
	o := homingauth.Options{UsersFile: usersFile(t, "bob", "b"), Rules: []homingauth.Rule{{Allow: "all", Topic: "#"}}}
	s, a, addr := serveAuth(t, o)
	p := logIn(t, addr, mqtt.V5, "bob", "bob", "b")
	p.subscribe(mqtt.Filter{Topic: []byte("a"), QoS: 0}, 0)
	m := publish("a", "before", 1, 1)
	m.TopicAlias = 1
	p.send(m)
	p.expectPublish()
	p.expectAck(mqtt.PUBACK, 1, mqtt.CodeSuccess)
	for i, tt := range []struct {
		rules []homingauth.Rule
		code  mqtt.ReasonCode
	}{
		{[]homingauth.Rule{{Deny: "pub", Topic: "a"}, {Allow: "all", Topic: "#"}}, mqtt.CodeNotAuthorized},
		{o.Rules, mqtt.CodeSuccess},
		{[]homingauth.Rule{{Allow: "sub", Topic: "#"}}, mqtt.CodeNotAuthorized},
	} {
		o.Rules = tt.rules
		if err := a.Apply(o); err != nil {
			t.Fatal(err)
		}
		pid := uint16(i + 2)
		again := publish("", "after", 1, pid)
		again.TopicAlias = 1
		p.send(again)
		if tt.code == mqtt.CodeSuccess {
			p.expectPublish()
		}
		p.expectAck(mqtt.PUBACK, pid, tt.code)
	}
	if n := s.broker.Stats.Dropped[mq.DropNotAuthorized].Load(); n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
}

// TestLoginEndsDuringConnect: however the end of a login falls together with
// its connections, none stays.
func TestLoginEndsDuringConnect(t *testing.T) {
	on := homingauth.Options{AccessKeys: []homingauth.AccessKey{{Key: "K", Secret: "s"}, {Key: "L", Secret: "s"}}}
	off := on
	off.AccessKeys = on.AccessKeys[1:]
	s, a, addr := serveAuth(t, on)
	for round := range 20 {
		if err := a.Apply(on); err != nil {
			t.Fatal(err)
		}
		done, accepted := make(chan struct{}), s.Stats.Accepted.Load()
		go func() {
			defer close(done)
			for i := range 10 {
				id := fmt.Sprint(round, "-", i)
				p := dial(t, addr, mqtt.V5)
				c := &mqtt.Connect{Version: mqtt.V5, CleanStart: true, ClientID: []byte(id)}
				c.HasUsername, c.Username = true, []byte(homingauth.SignatureUser("K", "i"))
				c.HasPassword, c.Password = true, []byte(homingauth.Sign("s", id))
				_, _ = p.Write(c.Append(nil, mqtt.V5))
			}
		}()
		waitFor(t, "some are there", func() bool { return s.Stats.Accepted.Load() >= accepted+uint64(round%10) })
		if err := a.Apply(off); err != nil {
			t.Fatal(err)
		}
		<-done
		waitFor(t, "all are gone", func() bool { return s.Connections() == 0 })
	}
}
