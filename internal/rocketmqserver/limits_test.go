package rocketmqserver

import (
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// TestLimitsOfMessages: the limits of a message hold for RocketMQ's senders, too,
// in each way of sending, and are counted as for those of MQTT.
func TestLimitsOfMessages(t *testing.T) {
	const topicLength, packetSize = 40, 400
	r := newRig(t, rigOptions{server: func(o *Options) {
		o.TopicLength, o.PacketSize, o.MaxQoS, o.StrictUTF8 = topicLength, packetSize, 1, true
	}})
	d := r.device("dev1", true)
	c, p := r.dial(), r.producer()
	long := func(n int, before string) string { return before + strings.Repeat("x", n-len(before)-len("parent/")) }
	fill := func(more int, kv ...string) string { // a body with which the message is packetSize bytes and more
		var props []byte
		for i := 0; i < len(kv); i += 2 {
			if kv[i] != keySecondTopic {
				props = mqtt.AppendUserProperty(props, kv[i], kv[i+1])
			}
		}
		m := mqtt.Publish{QoS: 1, PacketID: 1, Topic: []byte("parent" + "/p2p/dev1"), Props: props}
		for m.Size(mqtt.V5) < packetSize {
			m.Payload = append(m.Payload, 'x')
		}
		return string(m.Payload) + strings.Repeat("x", more)
	}
	to := []string{keySecondTopic, "/p2p/dev1"}
	with := func(kv ...string) []string { return append(to[:2:2], kv...) }
	for _, x := range []struct {
		name string
		kv   []string
		body string
		want mq.Breach
	}{
		{"ordinary", to, "x", mq.BreachNone},
		{"longest topic", []string{keySecondTopic, long(topicLength, "p2p/dev1/")}, "x", mq.BreachNone},
		{"longer topic", []string{keySecondTopic, long(topicLength+1, "p2p/dev1/")}, "x", mq.BreachTopicLength},
		{"longest shown topic", with(keyRealTopic, long(topicLength, "")), "x", mq.BreachNone},
		{"longer shown topic", with(keyRealTopic, long(topicLength+1, "")), "x", mq.BreachTopicLength},
		{"longer topic of several", []string{keyMultiDispatch, "%LMQ%%p2p%dev1%,%LMQ%" + strings.Repeat("x", topicLength+1)}, "x", mq.BreachTopicLength},
		{"control character", with(keyRealTopic, "a\x7f"), "x", mq.BreachTopicText},
		{"non-character", []string{keySecondTopic, "/p2p/dev1/\uffff"}, "x", mq.BreachTopicText},
		{"QoS", with(keyQoS, "2"), "x", mq.BreachQoS},
		{"largest", to, fill(0), mq.BreachNone},
		{"larger", to, fill(1), mq.BreachSize},
		{"largest with properties", with("color", "red"), fill(0, "color", "red"), mq.BreachNone},
		{"larger with properties", with("color", "red"), fill(1, "color", "red"), mq.BreachSize},
		{"properties alone", with("color", strings.Repeat("r", packetSize)), "", mq.BreachSize},
	} {
		code := outcomes[x.want.Code()]
		for way, send := range map[string]func() (rocketmq.ResponseCode, pb.Code, string){
			"remoting": func() (rocketmq.ResponseCode, pb.Code, string) {
				a := c.send("parent", x.body, x.kv...)
				return a.code, code.grpc, a.remark
			},
			"batch": func() (rocketmq.ResponseCode, pb.Code, string) {
				batch := rocketmq.AppendBatchMessage(nil, rocketmq.BatchMessage{Body: []byte(x.body), Properties: []byte(properties(x.kv...))})
				a := c.do(rocketmq.SendBatchMessage, batch, fields("parent", "")...)
				return a.code, code.grpc, a.remark
			},
			"gRPC": func() (rocketmq.ResponseCode, pb.Code, string) {
				m := message("", x.body, x.kv...)
				m.SystemProperties.MessageId = "" // a device would see it
				s := p.send(calling(t), m).Status
				return code.remoting, s.Code, s.Message
			},
		} {
			before := r.core.Stats.Dropped[x.want.Drop()].Load()
			if remoting, grpc, text := send(); remoting != code.remoting || grpc != code.grpc {
				t.Errorf("%s, %s: %v, %v %q", way, x.name, remoting, grpc, text)
			}
			if x.want == mq.BreachNone {
				if g := d.next(); g.payload != x.body {
					t.Errorf("%s, %s: %d bytes arrive by %q", way, x.name, len(g.payload), g.topic)
				}
			} else if n := r.core.Stats.Dropped[x.want.Drop()].Load() - before; n != 1 {
				t.Errorf("%s, %s: counted %d times as %v", way, x.name, n, x.want.Drop())
			}
		}
	}
	d.nothing()
}
