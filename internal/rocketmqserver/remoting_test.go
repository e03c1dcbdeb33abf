package rocketmqserver

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
)

func TestSend(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	for _, serial := range []rocketmq.Serialize{rocketmq.JSON, rocketmq.Binary} {
		c := r.dial()
		c.serial = serial
		a := c.send("parent", "hello", "mqttSecondTopic", "/p2p/dev1", "UNIQ_KEY", "0A01", "KEYS", "k1 k2", "TAGS", "MQ2MQTT", "color", "red")
		if a.code != rocketmq.Success || string(a.Ext.Get("queueId")) != "2" || len(a.Ext.Get("msgId")) != 32 || string(a.Ext.Get("TRACE_ON")) != "false" {
			t.Errorf("answer %v %q %s", a.code, a.remark, a.Ext)
		}
		want := got{"parent/p2p/dev1", "hello", 1, "color=red messageId=0A01 keys=k1 k2", false}
		if g := d.next(); g != want {
			t.Errorf("got %+v, want %+v", g, want)
		}
	}
	// The long names of SEND_MESSAGE.
	c := r.dial()
	a := c.do(rocketmq.SendMessage, []byte("x"), "producerGroup", "g", "topic", "parent", "defaultTopic", "TBW102", "defaultTopicQueueNums", "4",
		"queueId", "3", "sysFlag", "0", "bornTimestamp", "1", "flag", "0", "properties", properties("mqttSecondTopic", "p2p/dev1", "qoslevel", "2"))
	if a.code != rocketmq.Success || string(a.Ext.Get("queueId")) != "3" {
		t.Errorf("answer %v %q %s", a.code, a.remark, a.Ext)
	}
	if g := d.next(); g.topic != "parent/p2p/dev1" || g.qos != 2 {
		t.Errorf("got %+v", g)
	}
	if n := r.Stats.Accepts[Remoting].Load(); n != 3 {
		t.Errorf("%d messages counted as accepted, want 3", n)
	}
}

func TestRefusedSends(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	c.serial = rocketmq.Binary // JSON has no values that are not UTF-8
	for _, x := range []struct {
		kv   []string
		code rocketmq.ResponseCode
		says string
	}{
		{[]string{"mqttSecondTopic", "/p2p/"}, rocketmq.MessageIllegal, `"/p2p/", which names no client`},
		{[]string{"mqttSecondTopic", "/p2p"}, rocketmq.MessageIllegal, "names no client"},
		{[]string{"mqttSecondTopic", "/p2p/a+b"}, rocketmq.MessageIllegal, "names no client"},
		{[]string{"mqttSecondTopic", "/p2p/#"}, rocketmq.MessageIllegal, "names no client"},
		{[]string{"mqttSecondTopic", "/a/+"}, rocketmq.MessageIllegal, "gives no MQTT topic"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "qoslevel", "7"}, rocketmq.MessageIllegal, "qoslevel"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "cleansessionflag", "no"}, rocketmq.MessageIllegal, "true or false"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "mqtt5UserProperty", "x"}, rocketmq.MessageIllegal, "must be JSON"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "mqtt5UserProperty", `[{"key":"k"}]`}, rocketmq.MessageIllegal, "must be JSON"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "mqtt5MsgExpireInterval", "-1"}, rocketmq.MessageIllegal, "seconds"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "mqtt5ContentType", "\xff"}, rocketmq.MessageIllegal, "UTF-8"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "color", "\xff"}, rocketmq.MessageIllegal, "UTF-8"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "mqttRealTopic", "a/#"}, rocketmq.MessageIllegal, "mqttRealTopic"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "TRAN_MSG", "true"}, rocketmq.MessageIllegal, "transactional"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "DELAY", "soon"}, rocketmq.MessageIllegal, "whole number"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "TIMER_DELAY_SEC", "3601"}, rocketmq.MessageIllegal, "longer than 1h"},
		{[]string{"mqttSecondTopic", "/p2p/dev1", "TIMER_DELAY_SEC", "9223372036854775807"}, rocketmq.MessageIllegal, "longer than 1h"},
		{[]string{"INNER_MULTI_DISPATCH", "queue"}, rocketmq.MessageIllegal, "INNER_MULTI_DISPATCH"},
		{[]string{"mqttSecondTopic", "/p2p/nobody"}, rocketmq.ConsumerNotOnline, "cleansessionflag = false"},
	} {
		a := c.send("parent", "x", x.kv...)
		if a.code != x.code || !strings.Contains(a.remark, x.says) {
			t.Errorf("%q: %v %q, want %v and %q", x.kv, a.code, a.remark, x.code, x.says)
		}
	}
	for _, topic := range []string{"", "a/p2p/dev1", "%RETRY%g"} {
		if a := c.send(topic, "x", "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.MessageIllegal || a.remark == "" {
			t.Errorf("topic %q: %v %q", topic, a.code, a.remark)
		}
	}
	transaction := fields("parent", properties("mqttSecondTopic", "/p2p/dev1"), "f", "4")
	if a := c.do(rocketmq.SendMessageV2, []byte("x"), transaction...); a.code != rocketmq.MessageIllegal || !strings.Contains(a.remark, "transaction") {
		t.Errorf("prepared: %v %q", a.code, a.remark)
	}
	if a := c.do(rocketmq.SendMessageV2, []byte("x"), "b", "parent"); a.code != rocketmq.MessageIllegal {
		t.Errorf("without its fields: %v %q", a.code, a.remark)
	}
	d.nothing()
	if n := r.core.Stats.Dropped[mq.DropBadTopic].Load(); n != 8 {
		t.Errorf("%d drops for a bad topic, want 8", n)
	}
	if n := r.core.Stats.Dropped[mq.DropBadMessage].Load(); n == 0 {
		t.Error("no drop for a bad message")
	}
}

func TestTopicsOfMessages(t *testing.T) {
	r := newRig(t, rigOptions{})
	d, e := r.device("dev1", false), r.device("dev2", false)
	d.subscribe("parent/a/+")
	d.subscribe("parent")
	c := r.dial()
	for _, x := range []struct {
		topic string
		kv    []string
		want  string // topics that dev1 gets
		other string // topics that dev2 gets
	}{
		{topic: "parent", want: "parent"},
		{topic: "MQ_INST_1_2%parent", want: "parent"},
		{topic: "parent", kv: []string{"mqttSecondTopic", "a/b"}, want: "parent/a/b"},
		{topic: "parent", kv: []string{"mqttSecondTopic", "/a/b"}, want: "parent/a/b"},
		{topic: "parent", kv: []string{"mqttSecondTopic", "/nobody/reads"}},
		{topic: "parent", kv: []string{"mqttSecondTopic", "/p2p/dev2/deeper/level"}, other: "parent/p2p/dev2/deeper/level"},
		{topic: "parent", kv: []string{"mqttSecondTopic", "/p2p/dev2", "mqttRealTopic", "/shown/so"}, other: "parent/shown/so"},
		{topic: "parent", kv: []string{"INNER_MULTI_DISPATCH", "%LMQ%%p2p%dev2%"}, other: "parent/p2p/dev2"},
		{topic: "parent", kv: []string{"INNER_MULTI_DISPATCH", "%LMQ%%p2p%dev2%,%LMQ%parent%a%c%,%LMQ%parent%a%+%,%LMQ%%p2p%dev2"}, want: "parent/a/c", other: "parent/p2p/dev2"},
		{topic: "parent", kv: []string{"INNER_MULTI_DISPATCH", "%LMQ%parent%+"}, want: "parent"},
	} {
		if a := c.send(x.topic, "x", x.kv...); a.code != rocketmq.Success {
			t.Errorf("%s %q: %v %q", x.topic, x.kv, a.code, a.remark)
		}
		for d, want := range map[*device]string{d: x.want, e: x.other} {
			if want == "" {
				continue
			}
			if g := d.next(); g.topic != want {
				t.Errorf("%s %q: %s gets %q, want %q", x.topic, x.kv, d.id, g.topic, want)
			}
		}
	}
	d.nothing()
	e.nothing()
}

func TestPropertiesOfMessages(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	c.send("parent", "x", "mqttSecondTopic", "/p2p/dev1", "qoslevel", "0", "mqtt5UserProperty", `[{"key":"a","value":"1"},{"key":"a","value":""}]`,
		"mqtt5MsgExpireInterval", "60", "mqtt5ContentType", "text/plain", "WAIT", "true", "__SHARDINGKEY", "s", "receipt", "r1")
	want := got{"parent/p2p/dev1", "x", 0, "a=1 a= receipt=r1 (text/plain)", true}
	if g := d.next(); g != want {
		t.Errorf("got %+v, want %+v", g, want)
	}
}

// A message that is kept waits for a target that has never been there; SEND_OK
// comes when it is written.
func TestKept(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial()
	for i := range 3 {
		a := c.send("parent", fmt.Sprint(i), "mqttSecondTopic", "/p2p/later", "cleansessionflag", "false", "mqttRealTopic", "x", "qoslevel", fmt.Sprint(i%2+1))
		if a.code != rocketmq.Success {
			t.Fatalf("%v %q", a.code, a.remark)
		}
	}
	if n := r.core.Stats.Stored.Load(); n != 3 {
		t.Errorf("%d messages stored, want 3", n)
	}
	d := r.device("later", true)
	for i := range 3 {
		if g := d.next(); g.payload != fmt.Sprint(i) || g.topic != "parent/x" {
			t.Errorf("message %d: %+v", i, g)
		}
	}
}

func TestOnewayAndOrder(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", true)
	c := r.dial()
	const n = 500 // more than Unanswered
	for i := range n {
		flag := int32(0)
		if i%2 == 0 {
			flag = rocketmq.FlagOneway
		}
		c.request(rocketmq.SendMessageV2, flag, fmt.Append(nil, i), fields("parent", properties("mqttSecondTopic", "/p2p/dev1"))...)
	}
	answered := make(map[int32]bool)
	for range n / 2 {
		a := c.answer()
		if a.code != rocketmq.Success || answered[a.Opaque] || a.Opaque%2 != 0 {
			t.Fatalf("answer %d: %v %q", a.Opaque, a.code, a.remark)
		}
		answered[a.Opaque] = true
	}
	for i := range n {
		if g := d.next(); g.payload != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, g.payload)
		}
	}
	if a := c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent"); a.code != rocketmq.Success {
		t.Errorf("then %v", a.code)
	}
}

func TestBatch(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	var body []byte
	for i := range 3 {
		body = rocketmq.AppendBatchMessage(body, rocketmq.BatchMessage{Body: fmt.Append(nil, i), Properties: []byte(properties("mqttSecondTopic", "/p2p/dev1"))})
	}
	a := c.do(rocketmq.SendBatchMessage, body, fields("parent", "", "m", "true")...)
	if ids := bytes.Split(a.Ext.Get("msgId"), []byte{','}); a.code != rocketmq.Success || len(ids) != 3 || len(ids[2]) != 32 {
		t.Errorf("%v %q %s", a.code, a.remark, a.Ext)
	}
	for i := range 3 {
		if g := d.next(); g.payload != fmt.Sprint(i) {
			t.Errorf("message %d: %+v", i, g)
		}
	}
	// Nothing of a batch with a malformed message is sent.
	bad := rocketmq.AppendBatchMessage(bytes.Clone(body), rocketmq.BatchMessage{Body: []byte("x"), Properties: []byte(properties("mqttSecondTopic", "/p2p/"))})
	if a := c.do(rocketmq.SendBatchMessage, bad, fields("parent", "")...); a.code != rocketmq.MessageIllegal || !strings.Contains(a.remark, "message 4 of the batch") {
		t.Errorf("%v %q", a.code, a.remark)
	}
	if a := c.do(rocketmq.SendBatchMessage, body[:len(body)-1], fields("parent", "")...); a.code != rocketmq.MessageIllegal {
		t.Errorf("cut: %v %q", a.code, a.remark)
	}
	if a := c.do(rocketmq.SendBatchMessage, nil, fields("parent", "")...); a.code != rocketmq.MessageIllegal {
		t.Errorf("empty: %v %q", a.code, a.remark)
	}
	d.nothing()
	// One target of several is not there: the answer says so.
	mixed := rocketmq.AppendBatchMessage(body, rocketmq.BatchMessage{Body: []byte("x"), Properties: []byte(properties("mqttSecondTopic", "/p2p/nobody"))})
	if a := c.do(rocketmq.SendBatchMessage, mixed, fields("parent", "")...); a.code != rocketmq.ConsumerNotOnline {
		t.Errorf("mixed: %v %q", a.code, a.remark)
	}
}

func TestBodies(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	limit := r.opt.BodySize
	p2p := properties("mqttSecondTopic", "/p2p/dev1")
	deflate := func(n int) []byte {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		w.Write(bytes.Repeat([]byte("x"), n))
		w.Close()
		return b.Bytes()
	}
	for _, x := range []struct {
		name string
		body []byte
		sys  string
		want int // bytes that arrive; 0: refused
		says string
	}{
		{"at the limit", make([]byte, limit), "0", limit, ""},
		{"over the limit", make([]byte, limit+1), "0", 0, "larger than"},
		{"far over the limit", make([]byte, 8<<20), "0", 0, "larger than"},
		{"compressed", deflate(limit), "1", limit, ""},
		{"bomb", deflate(limit + 1), "1", 0, "larger than"},
		{"not zlib", []byte("no"), "1", 0, "cannot be decompressed"},
		{"empty", nil, "0", -1, ""},
	} {
		a := c.do(rocketmq.SendMessageV2, x.body, fields("parent", p2p, "f", x.sys)...)
		if x.want == 0 {
			if a.code != rocketmq.MessageIllegal || !strings.Contains(a.remark, x.says) {
				t.Errorf("%s: %v %q", x.name, a.code, a.remark)
			}
			continue
		}
		if a.code != rocketmq.Success {
			t.Errorf("%s: %v %q", x.name, a.code, a.remark)
		}
		if g := d.next(); len(g.payload) != max(x.want, 0) {
			t.Errorf("%s: %d bytes arrive", x.name, len(g.payload))
		}
	}
	d.nothing()
}

func TestCredentials(t *testing.T) {
	r := newRig(t, rigOptions{auth: auth.Options{AccessKeys: theKey, Rules: []auth.Rule{
		{Deny: "pub", Topic: "denied/#"}, {Allow: "pub", Topic: "#", AccessKey: "AK"},
	}}})
	d := r.device("dev1", false)
	for _, x := range []struct {
		name, secret, topic string
		code                rocketmq.ResponseCode
		says                string
	}{
		{"right", "SK", "parent", rocketmq.Success, ""},
		{"wrong", "no", "parent", rocketmq.NoPermission, "wrong signature"},
		{"missing", "", "parent", rocketmq.NoPermission, "not signed"},
		{"denied", "SK", "denied", rocketmq.NoPermission, "auth.rules"},
	} {
		c := r.dial()
		c.secret = x.secret
		if a := c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", x.topic); a.code != rocketmq.Success {
			t.Errorf("%s: route: %v", x.name, a.code)
		}
		a := c.send(x.topic, x.name, "mqttSecondTopic", "/p2p/dev1")
		if a.code != x.code || !strings.Contains(a.remark, x.says) {
			t.Errorf("%s: %v %q, want %v and %q", x.name, a.code, a.remark, x.code, x.says)
		}
	}
	if g := d.next(); g.payload != "right" {
		t.Errorf("got %+v", g)
	}
	d.nothing()
	if n := r.Stats.AuthFailed[Remoting].Load(); n != 2 {
		t.Errorf("%d failed authentications counted, want 2", n)
	}
	// What was signed is what counts.
	c := r.dial()
	c.secret = "SK"
	signed := fields("parent", properties("mqttSecondTopic", "/p2p/dev1"))
	c.secret, signed = "", append(signed, "AccessKey", "AK", "Signature", "AAAA")
	if a := c.do(rocketmq.SendMessageV2, []byte("x"), signed...); a.code != rocketmq.NoPermission {
		t.Errorf("forged: %v", a.code)
	}
}

func TestRoute(t *testing.T) {
	r := newRig(t, rigOptions{server: func(o *Options) { o.Topics = []string{"parent"} }})
	c := r.dial()
	a := c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent")
	if addr, err := rocketmq.RouteAddr(a.body); err != nil || addr != r.remoting {
		t.Errorf("route %q %v, want %s", addr, err, r.remoting)
	}
	// SDKs do not show why there is no route, but why a send is refused.
	if a := c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "other"); a.code != rocketmq.Success {
		t.Errorf("topic other: %v %q", a.code, a.remark)
	}
	if a := c.send("other", "x"); a.code != rocketmq.TopicNotExist || !strings.Contains(a.remark, "list of parent topics") {
		t.Errorf("topic other: %v %q", a.code, a.remark)
	}
	d := r.device("dev", false)
	d.subscribe("#")
	if a := c.send("x%parent", "x"); a.code != rocketmq.Success {
		t.Errorf("topic parent: %v %q", a.code, a.remark)
	}
	if g := d.next(); g.topic != "parent" || len(d.got) != 0 {
		t.Errorf("the device gets %+v, and %d more", g, len(d.got))
	}
	r.opt.Advertise = "mq.example.com:1"
	a = c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "x%parent")
	if addr, err := rocketmq.RouteAddr(a.body); err != nil || addr != "mq.example.com:1" {
		t.Errorf("advertised route %q %v", addr, err)
	}
}

func TestOtherRequests(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial()
	beat := []byte(`{"clientID":"c@1","producerDataSet":[{"groupName":"p"}],"consumerDataSet":[{"groupName":"g"}]}`)
	if a := c.do(rocketmq.HeartBeat, beat); a.code != rocketmq.Success {
		t.Errorf("heartbeat: %v %q", a.code, a.remark)
	}
	other := r.dial()
	other.do(rocketmq.HeartBeat, bytes.Replace(beat, []byte("c@1"), []byte("d@2"), 1))
	var list struct{ ConsumerIDList []string }
	a := c.do(rocketmq.GetConsumerListByGroup, nil, "consumerGroup", "g")
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.ConsumerIDList) != 2 {
		t.Errorf("consumers: %v %q %s", a.code, a.remark, a.body)
	}
	if a := c.do(rocketmq.UnregisterClient, nil, "clientID", "c@1", "consumerGroup", "g"); a.code != rocketmq.Success {
		t.Errorf("unregister: %v", a.code)
	}
	a = c.do(rocketmq.GetConsumerListByGroup, nil, "consumerGroup", "g")
	if !bytes.Equal(a.body, []byte(`{"consumerIdList":["d@2"]}`)) {
		t.Errorf("consumers: %v %q %s", a.code, a.remark, a.body)
	}
	if a := c.do(rocketmq.SendReplyMessageV2, make([]byte, 2*r.opt.BodySize)); a.code != rocketmq.RequestCodeNotSupported {
		t.Errorf("a large request that is not supported: %v %q", a.code, a.remark)
	}
	for code, want := range map[rocketmq.RequestCode]rocketmq.ResponseCode{
		rocketmq.QueryConsumerOffset: rocketmq.QueryNotFound, rocketmq.UpdateConsumerOffset: rocketmq.Success,
		rocketmq.PullMessage: rocketmq.RequestCodeNotSupported, rocketmq.UpdateAndCreateTopic: rocketmq.RequestCodeNotSupported,
		rocketmq.SendReplyMessageV2: rocketmq.RequestCodeNotSupported, 12345: rocketmq.RequestCodeNotSupported,
		rocketmq.EndTransaction: rocketmq.MessageIllegal,
	} {
		if a := c.do(code, nil); a.code != want || want != rocketmq.Success && a.remark == "" {
			t.Errorf("%v: %v %q, want %v", code, a.code, a.remark, want)
		}
	}
}

func TestTLSOnTheSamePort(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	for _, c := range []*client{r.dial(), r.dialTLS(), r.dial()} {
		if a := c.send("parent", "x", "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.Success {
			t.Errorf("%v %q", a.code, a.remark)
		}
		d.next()
	}
}

func TestGarbageClosesTheConnection(t *testing.T) {
	r := newRig(t, rigOptions{server: func(o *Options) { o.FrameTime = 300 * time.Millisecond }})
	frame := func(total, mark uint32, rest string) string {
		b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, total), mark)
		return string(b) + rest
	}
	for name, input := range map[string]string{
		"text":               "GET / HTTP/1.1\r\n\r\n",
		"TLS that is none":   "\x16\x03\x01nothing of the kind, and long enough to be read",
		"no length":          frame(0, 0, ""),
		"header too long":    frame(100, 101, strings.Repeat(" ", 100)),
		"huge header":        frame(8<<20, 7<<20, ""),
		"frame too long":     frame(1<<30, 100, strings.Repeat(" ", 100)),
		"serialization":      frame(14, 7<<24|10, strings.Repeat(" ", 10)),
		"no JSON":            frame(14, 10, strings.Repeat("x", 10)),
		"heartbeat of noise": frame(23, 18, `{"code":34,"a":[]}x`),
		"half a request":     frame(100, 90, "{"),
		"nothing":            "",
	} {
		nc, err := net.Dial("tcp", r.remoting)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, input); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		for err == nil {
			_, err = nc.Read(make([]byte, 1024))
		}
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		nc.Close()
	}
	if a := r.dial().do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent"); a.code != rocketmq.Success {
		t.Errorf("then: %v", a.code)
	}
}

func TestIdleConnections(t *testing.T) {
	r := newRig(t, rigOptions{server: func(o *Options) { o.IdleTimeout = 300 * time.Millisecond }})
	c := r.dial()
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for range 4 { // each is a sign of life
		c.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent")
		<-tick.C
	}
	start := time.Now()
	if _, err := c.read(); !errors.Is(err, io.EOF) {
		t.Errorf("silent: %v", err)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("closed after %v", took)
	}
}

func TestConnectionLimits(t *testing.T) {
	r := newRig(t, rigOptions{server: func(o *Options) { o.PerAddress = 2 }})
	a, b := r.dial(), r.dial()
	a.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "x")
	b.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "x")
	c := r.dial()
	if _, err := c.read(); err == nil {
		t.Error("a third connection is served")
	}
	a.nc.Close()
	r.waitFor("a closed connection is not counted", func() bool { return r.Connections(Remoting) <= 1 })
	if a := r.dial().do(rocketmq.GetRouteInfoByTopic, nil, "topic", "x"); a.code != rocketmq.Success {
		t.Errorf("%v", a.code)
	}
}

// Large requests share memory: they wait for each other.
func TestLargeRequestsShareMemory(t *testing.T) {
	r := newRig(t, rigOptions{server: func(o *Options) { o.BodySize, o.ReadBytes = 1<<20, 1<<20 }})
	d := r.device("dev1", false)
	const n = 8
	done := make(chan answer, n)
	for range n {
		c := r.dial()
		go func() {
			c.request(rocketmq.SendMessageV2, 0, make([]byte, 900<<10), fields("parent", properties("mqttSecondTopic", "/p2p/dev1"))...)
			a, _ := c.read()
			done <- a
		}()
	}
	for range n {
		if a := <-done; !a.IsResponse() || a.code != rocketmq.Success {
			t.Errorf("%v %q", a.code, a.remark)
		}
		d.next()
	}
	if all := r.opt.ReadBytes / strangersShare; !r.room(false).TryAcquire(all) {
		t.Error("memory was not given back")
	} else {
		r.room(false).Release(all)
	}
}

// While the server closes, what it has taken is answered, and what comes is
// told to go elsewhere.
func TestShutdownAnswers(t *testing.T) {
	r := newRig(t, rigOptions{core: func(o *broker.Options) { o.StoreAfter = 5 * time.Second }})
	d := r.device("dev1", false)
	d.mute = true // so that only the store can answer
	c, late := r.dial(), r.dial()
	late.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "x")
	c.request(rocketmq.SendMessageV2, 0, []byte("x"), fields("parent", properties("mqttSecondTopic", "/p2p/dev1"))...)
	d.next()
	r.closing.Store(true)
	if a := late.send("parent", "x", "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.ServiceNotAvailable || !strings.Contains(a.remark, "shutting down") {
		t.Errorf("late: %v %q", a.code, a.remark)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if a := c.answer(); a.code != rocketmq.Success {
		t.Errorf("%v %q", a.code, a.remark)
	}
	if _, err := c.read(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want EOF", err)
	}
}

func TestInboxFull(t *testing.T) {
	r := newRig(t, rigOptions{core: func(o *broker.Options) { o.InboxLimit, o.RejectFull = 1, true }})
	c := r.dial()
	for _, want := range []rocketmq.ResponseCode{rocketmq.Success, rocketmq.FlowControl} {
		if a := c.send("parent", "x", "mqttSecondTopic", "/p2p/later", "cleansessionflag", "false"); a.code != want {
			t.Errorf("%v %q, want %v", a.code, a.remark, want)
		}
	}
}

func TestDelay(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	for _, kv := range [][]string{
		{"TIMER_DELAY_MS", "400"}, {"TIMER_DELIVER_MS", "in 400 ms"}, {"__STARTDELIVERTIME", "in 400 ms"},
		{"DELAY", "1"}, {"TIMER_DELAY_SEC", "1"},
		{"DELAY", "0"}, {"TIMER_DELIVER_MS", "1000"}, // not delayed
	} {
		start := time.Now()
		if kv[1] == "in 400 ms" {
			kv[1] = fmt.Sprint(start.UnixMilli() + 400)
		}
		if a := c.send("parent", "x", append(kv, "mqttSecondTopic", "/p2p/dev1")...); a.code != rocketmq.Success {
			t.Fatalf("%q: %v %q", kv, a.code, a.remark)
		}
		answered := time.Since(start)
		d.next()
		took := time.Since(start)
		delayed := kv[1] != "0" && kv[1] != "1000"
		if delayed && (took < 300*time.Millisecond || answered > 250*time.Millisecond) || !delayed && took > 300*time.Millisecond {
			t.Errorf("%q: answered after %v, delivered after %v", kv, answered, took)
		}
	}
}

// With log.level debug every message can be followed by its ID and keys.
func TestTrace(t *testing.T) {
	var log lockedBuffer
	r := newRig(t, rigOptions{log: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	d := r.device("dev1", false)
	c := r.dial()
	c.send("parent", "x", "mqttSecondTopic", "/p2p/dev1", "UNIQ_KEY", "0A01", "KEYS", "order-7")
	d.next()
	c.send("parent", "x", "mqttSecondTopic", "/p2p/nobody", "UNIQ_KEY", "0A02")
	c.send("parent", "x", "mqttSecondTopic", "/p2p/", "UNIQ_KEY", "0A03", "KEYS", "order-8")
	for _, want := range []string{
		`"message_id":"0A01","keys":"order-7","access_key":"","deliver_at":0,"topic":"parent/p2p/dev1","outcome":"ok"`,
		`"message_id":"0A02","keys":"","access_key":"","deliver_at":0,"topic":"parent/p2p/nobody","outcome":"no target"`,
		`"message_id":"0A03","keys":"order-8","topic":"parent","protocol":"remoting","reason":"property mqttSecondTopic`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log.String())
		}
	}
}

// TestPartRefused: a send of which one part is refused with a code that SDKs
// send again by themselves (16) has not delivered the other parts.
func TestPartRefused(t *testing.T) {
	rules := []auth.Rule{
		{Deny: "pub", Topic: "parent/p2p/secret"}, {Allow: "all", Topic: "#"},
	}
	newTest := func(t *testing.T) (*client, *device) {
		r := newRig(t, rigOptions{auth: auth.Options{AccessKeys: theKey, Rules: rules}})
		c := r.dial()
		c.secret = "SK"
		return c, r.device("dev", true)
	}
	check := func(t *testing.T, d *device, send func() answer) {
		for range 3 { // as the Java SDK: retryTimesWhenSendFailed is 2
			if a := send(); a.code != rocketmq.NoPermission {
				t.Fatal(a.code, a.remark)
			}
		}
		d.nothing()
	}
	t.Run("INNER_MULTI_DISPATCH", func(t *testing.T) {
		c, d := newTest(t)
		check(t, d, func() answer {
			return c.send("parent", "x", "INNER_MULTI_DISPATCH", "%LMQ%%p2p%dev%,%LMQ%%p2p%secret%", "qoslevel", "2", "cleansessionflag", "false")
		})
	})
	t.Run("batch", func(t *testing.T) {
		c, d := newTest(t)
		var body []byte
		for _, id := range []string{"dev", "secret"} {
			body = rocketmq.AppendBatchMessage(body, rocketmq.BatchMessage{Body: []byte("x"), Properties: []byte(properties(
				"mqttSecondTopic", "/p2p/"+id, "qoslevel", "2", "cleansessionflag", "false"))})
		}
		check(t, d, func() answer { return c.do(rocketmq.SendBatchMessage, body, fields("parent", "")...) })
	})
}

// What a stranger can make the server keep, or write to its log, is bounded.
func TestHeartbeatsOfStrangers(t *testing.T) {
	var log lockedBuffer
	r := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(&log, nil)), auth: auth.Options{AccessKeys: theKey}})
	c := r.dial()
	for i := range 20 {
		consumers := `{"groupName":"` + strings.Repeat("g", 10_000) + `"}`
		if i%2 == 1 {
			consumers = ""
		}
		if a := c.do(rocketmq.HeartBeat, []byte(`{"clientID":"`+strings.Repeat("c", 10_000)+`","consumerDataSet":[`+consumers+`]}`)); a.code != rocketmq.Success {
			t.Fatalf("%v %q", a.code, a.remark)
		}
	}
	if n := len(log.String()); n > 2000 {
		t.Errorf("%d bytes of log:\n%.1000s", n, log.String())
	}
	c.request(rocketmq.HeartBeat, 0, []byte(`{"clientID":"`+strings.Repeat("c", maxHeartbeat)+`"}`))
	if _, err := c.read(); err == nil {
		t.Error("a huge heartbeat is taken")
	}
}

// Strangers who announce large requests do not hold up those who have signed one.
func TestStrangersHoldUpStrangers(t *testing.T) {
	r := newRig(t, rigOptions{auth: auth.Options{AccessKeys: theKey}})
	d := r.device("dev1", false)
	strangers := r.opt.ReadBytes / strangersShare
	if !r.room(false).TryAcquire(strangers) {
		t.Fatal("no room")
	}
	defer r.room(false).Release(strangers)
	c := r.dial()
	c.secret = "SK"
	if a := c.do(rocketmq.HeartBeat, []byte(`{"clientID":"c"}`)); a.code != rocketmq.Success {
		t.Fatal(a.code)
	}
	if a := c.send("parent", strings.Repeat("x", 60<<10), "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.Success {
		t.Errorf("%v %q", a.code, a.remark)
	}
	d.next()
}

// Bodies are decompressed by as many as there are processors, and no memory of a
// large batch stays.
func TestMemoryIsGivenBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	d := r.device("dev1", false)
	c := r.dial()
	for range cap(r.inflate) { // the test has all places
		defer r.inflating()()
	}
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	w.Write([]byte("hello"))
	w.Close()
	c.request(rocketmq.SendMessageV2, 0, b.Bytes(), fields("parent", properties("mqttSecondTopic", "/p2p/dev1"), "f", "1")...)
	d.quiet()
	<-r.inflate
	if a := c.answer(); a.code != rocketmq.Success {
		t.Errorf("%v %q", a.code, a.remark)
	}
	d.next()
	r.inflate <- struct{}{}

	one := newConn(r.Server, nil, netip.AddrPort{})
	for i := range 1000 {
		p := one.part(i)
		p.props = make([]byte, 0, i%2*32<<10)
		p.messages = append(p.messages, mq.Message{Payload: make([]byte, 1000)})
	}
	if one.settle(); cap(one.parts) > 2*keptParts {
		t.Errorf("a connection keeps %d translations", cap(one.parts))
	}
	for _, p := range one.parts {
		if cap(p.props) > 4<<10 || cap(p.messages) > 0 && p.messages[:1][0].Payload != nil {
			t.Fatalf("a connection keeps %d bytes of properties and %d messages", cap(p.props), cap(p.messages))
		}
	}
}

// A client that does not read its answers does not hold the shutdown up.
func TestShutdownWithDeafClient(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.dial()
	_ = c.nc.(*net.TCPConn).SetReadBuffer(4096)
	_ = c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	ask := rocketmq.Command{Code: int32(rocketmq.GetRouteInfoByTopic), Ext: rocketmq.Fields{{Key: []byte("topic"), Value: []byte("x")}}}
	frame := bytes.Repeat(ask.Append(nil, rocketmq.JSON, nil), 1000)
	for {
		if _, err := c.nc.Write(frame); err != nil {
			break // neither side takes more
		}
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("shutdown took %v", took)
	}
}
