package rocketmqserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// shownRules let the key AK publish P2P messages below "orders", to the topics
// below orders/shown and to news/1.
var shownRules = auth.Options{Anonymous: true, AccessKeys: theKey, Rules: []auth.Rule{
	{Deny: "pub", Topic: "orders/p2p/dev1/closed/#"},
	{Allow: "pub", Topic: "orders/p2p/dev1/#", AccessKey: "AK"},
	{Allow: "pub", Topic: "orders/shown/#", AccessKey: "AK"},
	{Allow: "pub", Topic: "nothing/p2p/#", AccessKey: "AK"},
	{Allow: "pub", Topic: "news/1", AccessKey: "AK"},
	{Allow: "sub", Topic: "#"},
}}

// TestShownTopics: every topic that a message of a RocketMQ sender leads to, and
// the one that its target sees, is one that the sender may publish to. Of a send
// with several topics nothing is taken if one of them is not.
func TestShownTopics(t *testing.T) {
	r := newRig(t, rigOptions{auth: shownRules})
	d, other := r.device("dev1", true), r.device("other", false)
	other.subscribe("#")
	remoting := r.dial()
	remoting.secret = "SK"
	grpc := r.producer()
	date := "20260101T000000Z"
	const to, shown, multi = keySecondTopic, keyRealTopic, keyMultiDispatch
	for _, x := range []struct {
		name  string
		topic string // "": orders
		kv    []string
		want  mq.Code
		drop  mq.DropReason
		shown string // where dev1 gets it; "": nowhere
		plain string // the same of who has subscribed to all
	}{
		{name: "no other topic", kv: []string{to, "/p2p/dev1"}, shown: "orders/p2p/dev1"},
		{name: "allowed", kv: []string{to, "/p2p/dev1", shown, "/shown/x"}, shown: "orders/shown/x"},
		{name: "P2P", kv: []string{to, "/p2p/dev1", shown, "p2p/dev1/x"}, shown: "orders/p2p/dev1/x"},
		{name: "not allowed", kv: []string{to, "/p2p/dev1", shown, "secret"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "as if for another client", kv: []string{to, "/p2p/dev1", shown, "p2p/dev2"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "the parent topic alone", kv: []string{to, "/p2p/dev1", shown, "/"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "for no client", kv: []string{to, "/p2p/dev1", shown, "p2p/"}, want: mq.BadTopic, drop: mq.DropBadTopic},
		{name: "twice, the last counts", kv: []string{to, "/p2p/dev1", shown, "shown/x", shown, "secret"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "delayed", kv: []string{to, "/p2p/dev1", shown, "secret", "TIMER_DELAY_MS", "1"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "at a time", kv: []string{to, "/p2p/dev1", shown, "secret", "TIMER_DELIVER_MS", "1"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "QoS 0", kv: []string{to, "/p2p/dev1", shown, "secret", "qoslevel", "0"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "QoS 2", kv: []string{to, "/p2p/dev1", shown, "secret", "qoslevel", "2"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "levels behind the client ID", kv: []string{to, "/p2p/dev1/a/b"}, shown: "orders/p2p/dev1/a/b"},
		{name: "levels that are not allowed", kv: []string{to, "/p2p/dev1/closed/a"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "another client", kv: []string{to, "/p2p/dev2"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "several", kv: []string{multi, "%LMQ%%p2p%dev1%,%LMQ%news%1"}, shown: "orders/p2p/dev1", plain: "news/1"},
		{name: "several, one not allowed", kv: []string{multi, "%LMQ%%p2p%dev1%,%LMQ%news%2"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "several, the first not allowed", kv: []string{multi, "%LMQ%news%2,%LMQ%%p2p%dev1%"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "several, with a shown topic", kv: []string{multi, "%LMQ%news%1,%LMQ%%p2p%dev1%", shown, "secret"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "one of several, with a shown topic", kv: []string{multi, "%LMQ%%p2p%dev1%", shown, "secret"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "several, one statistics", kv: []string{multi, "%LMQ%%p2p%dev1%,%LMQ%$SYS%x"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "statistics", topic: "$SYS", kv: []string{to, "broker/uptime"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "in a namespace", topic: "MQ_INST_x%secret", kv: []string{to, "/p2p/dev1"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "retry topic", topic: "%RETRY%group", kv: []string{to, "/p2p/dev1"}, want: mq.BadTopic, drop: mq.DropBadTopic},
		{name: "retry topic in a namespace", topic: "x%%RETRY%group", kv: []string{to, "/p2p/dev1"}, want: mq.NotAuthorized, drop: mq.DropNotAuthorized},
		{name: "dead letters", topic: "%DLQ%group", kv: []string{to, "/p2p/dev1"}, want: mq.BadTopic, drop: mq.DropBadTopic},
		{name: "properties of RocketMQ", kv: []string{to, "/p2p/dev1", "REAL_TOPIC", "secret", "RETRY_TOPIC", "secret"}, shown: "orders/p2p/dev1"},
	} {
		topic := x.topic
		if topic == "" {
			topic = "orders"
		}
		ways := map[string]func(body string) (remoting rocketmq.ResponseCode, grpc pb.Code, text string){
			"remoting": func(body string) (rocketmq.ResponseCode, pb.Code, string) {
				a := remoting.send(topic, body, x.kv...)
				return a.code, outcomes[x.want].grpc, a.remark
			},
			"batch": func(body string) (rocketmq.ResponseCode, pb.Code, string) {
				good := properties(to, "/p2p/dev1")
				var batch []byte
				if x.want != mq.OK && x.topic == "" { // what comes with it is not taken either
					batch = rocketmq.AppendBatchMessage(batch, rocketmq.BatchMessage{Body: []byte("too much"), Properties: []byte(good)})
				}
				batch = rocketmq.AppendBatchMessage(batch, rocketmq.BatchMessage{Body: []byte(body), Properties: []byte(properties(x.kv...))})
				a := remoting.do(rocketmq.SendBatchMessage, batch, fields(topic, "")...)
				return a.code, outcomes[x.want].grpc, a.remark
			},
			"gRPC": func(body string) (rocketmq.ResponseCode, pb.Code, string) {
				m := message("", body, x.kv...)
				m.Topic.Name = topic
				if namespace, name, ok := strings.Cut(topic, "%"); ok && namespace != "" {
					m.Topic.ResourceNamespace, m.Topic.Name = namespace, name
				}
				s := grpc.send(calling(t, sign("AK", "SK", date, true)...), m).Status
				return outcomes[x.want].remoting, s.Code, s.Message
			},
		}
		for way, send := range ways {
			before := r.core.Stats.Dropped[x.drop].Load()
			body := fmt.Sprintf("%s, %s", way, x.name)
			if code, grpc, text := send(body); code != outcomes[x.want].remoting || grpc != outcomes[x.want].grpc {
				t.Errorf("%s: %v, %v %q", body, code, grpc, text)
			}
			if x.want != mq.OK {
				if n := r.core.Stats.Dropped[x.drop].Load() - before; n != 1 {
					t.Errorf("%s: counted %d times as %v", body, n, x.drop)
				}
			}
			if x.shown != "" {
				if g := d.next(); g.topic != x.shown || g.payload != body {
					t.Errorf("%s: dev1 gets %+v", body, g)
				}
			}
			if x.plain != "" {
				if g := other.next(); g.topic != x.plain || g.payload != body {
					t.Errorf("%s: the other one gets %+v", body, g)
				}
			}
		}
	}
	d.nothing()
	other.nothing()
	if n := r.Stats.Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}
