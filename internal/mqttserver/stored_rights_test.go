package mqttserver

import (
	"testing"

	homingauth "github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// TestStoredSubscription: by whatever change of the settings its owner loses the
// right, a stored subscription brings nothing and what is missed is counted; it
// works again when the change is undone.
func TestStoredSubscription(t *testing.T) {
	all := homingauth.Rule{Allow: "all", Topic: "#", AccessKey: "back-end"}
	before := func(t *testing.T) homingauth.Options {
		return homingauth.Options{
			UsersFile:  usersFile(t, "bob", "b"),
			AccessKeys: []homingauth.AccessKey{{Key: "back-end", Secret: "s"}, {Key: "devices", Secret: "s"}},
			Rules:      []homingauth.Rule{all, {Allow: "sub", Topic: "a/#", User: "bob"}, {Allow: "sub", Topic: "a/#", AccessKey: "devices"}},
			Topics:     []string{"a", "b"},
		}
	}
	backEnd := func(t *testing.T, addr string) *peer {
		return logIn(t, addr, mqtt.V5, "back-end", homingauth.SignatureUser("back-end", "i"), homingauth.Sign("s", "back-end"))
	}
	for _, tt := range []struct {
		name, user, password string
		change               func(*testing.T, *homingauth.Options)
		published            mqtt.ReasonCode // to the topic by the back-end, while changed
		revoked              uint64
	}{
		{"rule gone", "bob", "b", func(_ *testing.T, o *homingauth.Options) { o.Rules = []homingauth.Rule{all} }, mqtt.CodeNoMatchingSubscribers, 1},
		{"deny added", "bob", "b", func(_ *testing.T, o *homingauth.Options) {
			o.Rules = append([]homingauth.Rule{{Deny: "sub", Topic: "a/secret", User: "bob"}}, o.Rules...)
		}, mqtt.CodeNoMatchingSubscribers, 1},
		{"user deleted", "bob", "b", func(t *testing.T, o *homingauth.Options) { o.UsersFile = usersFile(t, "ann", "a") }, mqtt.CodeNoMatchingSubscribers, 1},
		{"key deleted", homingauth.SignatureUser("devices", "i"), homingauth.Sign("s", "dev"), func(_ *testing.T, o *homingauth.Options) {
			o.AccessKeys = o.AccessKeys[:1]
		}, mqtt.CodeNoMatchingSubscribers, 1},
		{"secret changed", homingauth.SignatureUser("devices", "i"), homingauth.Sign("s", "dev"), func(_ *testing.T, o *homingauth.Options) {
			o.AccessKeys = []homingauth.AccessKey{o.AccessKeys[0], {Key: "devices", Secret: "new"}}
		}, mqtt.CodeSuccess, 0}, // the rights are those of the name
		{"topics", "bob", "b", func(_ *testing.T, o *homingauth.Options) { o.Topics = []string{"b"} }, mqtt.CodeNotAuthorized, 0}, // nobody publishes there
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := before(t)
			s, a, addr := serveAuth(t, o)
			come := func() *peer {
				p, ack := open(t, addr, mqtt.V5, func(c *mqtt.Connect) {
					c.CleanStart, c.Properties = false, keepFor(1000)
					c.HasUsername, c.Username = true, []byte(tt.user)
					c.HasPassword, c.Password = true, []byte(tt.password)
				})
				if ack.Code != 0 {
					t.Fatalf("refused: %v", ack.Code)
				}
				return p
			}
			p := come()
			if code := p.subscribe(mqtt.Filter{Topic: []byte("a/#"), QoS: 1}, 0); code != 1 {
				t.Fatalf("not granted: %v", code)
			}
			p.send(&mqtt.Disconnect{})
			p.expectClose(0)
			b := backEnd(t, addr)
			changed := o
			tt.change(t, &changed)
			if err := a.Apply(changed); err != nil {
				t.Fatal(err)
			}
			b.send(publish("a/secret", "changed", 1, 1))
			b.expectAck(mqtt.PUBACK, 1, tt.published)
			if n := s.broker.Stats.Dropped[mq.DropRevoked].Load(); n != tt.revoked {
				t.Errorf("%d counted, want %d", n, tt.revoked)
			}
			if err := a.Apply(o); err != nil {
				t.Fatal(err)
			}
			b.send(publish("a/secret", "again", 1, 2))
			b.expectAck(mqtt.PUBACK, 2, mqtt.CodeSuccess)
			p = come()
			want := []string{"again"}
			if tt.published == mqtt.CodeSuccess {
				want = []string{"changed", "again"}
			}
			for _, text := range want {
				if m := p.expectPublish(); string(m.Payload) != text {
					t.Errorf("got %q, want %q", m.Payload, text)
				}
			}
		})
	}
}
