package test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// starts: from the SDK's start call to the first accepted send in less than 2 s
// with default settings. The machine is shared: one of three starts must be
// that fast.
func (p *trial) starts(t *testing.T) {
	const limit = 2 * time.Second
	device := p.device(p.s, mqtt.V5)
	if p.demands {
		p.who = identity{key: "any", secret: "any"} // the server asks for none
	}
	var took time.Duration
	for range 3 {
		d := p.launched(t, p.addr(p.s), p.who)
		first := d.accepted("first send", d.send(request{Body: "first", Properties: to(device.id)}))
		device.wants(topicOf(device.id), "first", 1)
		took = time.Duration((d.hello.ms(t) + first.ms(t)) * float64(time.Millisecond))
		if p.d = d; took < limit {
			break
		}
		t.Logf("%v to the first accepted send", took)
	}
	t.Logf("%s: %.0f ms to start, %v to the first accepted send", p.d.hello.SDK, p.d.hello.ms(t), took.Round(time.Millisecond))
	if took >= limit {
		t.Errorf("%v to the first accepted send, want less than %v", took, limit)
	}
	device.leave()
}

// online: to a device of each version; an MQTT 5 one sees the message's ID and
// keys, and nothing of RocketMQ.
func (p *trial) online(t *testing.T) {
	for _, v := range versions {
		device := p.device(p.s, v)
		ask := request{Body: "hi", Tag: "T", Keys: []string{"k1", "k2"}, Properties: to(device.id, "color", "red")}
		got := p.d.accepted("send", p.d.send(ask))
		m := device.wants(topicOf(device.id), "hi", 1)
		if v == mqtt.V5 {
			p.checkIdentity(t, m, got.MessageID)
		}
		device.leave()
	}
}

func (p *trial) checkIdentity(t *testing.T, m *mqtt.Publish, id string) {
	t.Helper()
	seen := userProperties(m)
	keys := strings.Fields(seen["keys"])
	slices.Sort(keys) // some SDKs have a set
	if id == "" || seen["messageId"] != id {
		t.Errorf("user property messageId is %q, the SDK says %q", seen["messageId"], id)
	}
	if !slices.Equal(keys, []string{"k1", "k2"}) {
		t.Errorf("user property keys is %q, want k1 and k2", seen["keys"])
	}
	if seen["color"] != "red" || len(seen) != 3 {
		t.Errorf("user properties %v, want messageId, keys and color=red", seen)
	}
}

func userProperties(m *mqtt.Publish) map[string]string {
	list := make(map[string]string)
	for k, v := range mqtt.UserProperties(m.Props) {
		list[string(k)] = string(v)
	}
	return list
}

// modes: every way the SDK has to send.
func (p *trial) modes(t *testing.T) {
	device := p.device(p.s, mqtt.V5)
	target := to(device.id)
	const n = 20
	if p.can("async") {
		answers, want := make([]<-chan answer, n), make([]string, n)
		for i := range n {
			want[i] = fmt.Sprintf("async %02d", i)
			answers[i] = p.d.post(request{Mode: "async", Body: want[i], Properties: target})
		}
		got := payloads(device, n)
		for i, ch := range answers {
			p.d.accepted(want[i], p.d.await(ch))
		}
		slices.Sort(got) // asynchronous sends of some SDKs overtake each other
		if !slices.Equal(got, want) {
			t.Errorf("async: received %q, want %q", got, want)
		}
	}
	if p.can("oneway") {
		if a := p.d.send(request{Mode: "oneway", Body: "oneway", Properties: target}); !a.OK {
			t.Errorf("oneway: %s", a.Error)
		}
		device.wants(topicOf(device.id), "oneway", 1)
	}
	if p.can("batch") {
		a := p.d.accepted("batch", p.d.send(request{Mode: "batch", Body: "batch", Count: n, Properties: target}))
		if len(a.MessageIDs) != n {
			t.Errorf("batch: %d message IDs, want %d: %q", len(a.MessageIDs), n, a.MessageIDs)
		}
		for i := range n {
			device.wants(topicOf(device.id), fmt.Sprint("batch-", i), 1)
		}
	}
	if p.can("ordered") {
		for i := range 50 {
			p.d.accepted("ordered", p.d.send(request{Mode: "ordered", Body: fmt.Sprint(i), OrderKey: "order 7", Properties: target}))
			seen := userProperties(device.wants(topicOf(device.id), fmt.Sprint(i), 1))
			if delete(seen, "messageId"); len(seen) > 0 {
				t.Fatalf("ordered: user properties %v", seen)
			}
		}
	}
	if p.can("transaction") {
		a := p.d.send(request{Mode: "transaction", Body: "transaction", Properties: target})
		codes := append(p.code(13, 50500), 0) // some SDKs look at the route and do not even send
		p.d.refused("transaction", a, codes, "transaction", "message type")
	}
	p.nothingFor(device)
	device.leave()
}

// payloads takes the next n messages.
func payloads(device *peer, n int) (list []string) {
	device.t.Helper()
	for range n {
		list = append(list, string(device.message().Payload))
	}
	return list
}

// nothingFor checks that a device gets no more.
func (p *trial) nothingFor(device *peer) {
	device.t.Helper()
	var how []as
	if device.server == p.guarded {
		how = append(how, login("device", "d"))
	}
	other := device.server.connect(mqtt.V5, p.name+" marker", how...)
	device.wantsNothing(other)
	other.leave()
}

// delays: a delayed message arrives, and not before its time.
func (p *trial) delays(t *testing.T) {
	if !p.can("delay") {
		return
	}
	device := p.device(p.s, mqtt.V5)
	for _, x := range []struct {
		has     bool
		name    string
		request request
	}{
		{p.timer, "delay by a time", request{DelayMS: 1000}},
		{p.levels, "delay by a level", request{DelayLevel: 1}},
	} {
		if !x.has {
			p.lacks(x.name)
			continue
		}
		x.request.Mode, x.request.Body, x.request.Properties = "delay", x.name, to(device.id)
		sent := time.Now()
		p.d.accepted(x.name, p.d.send(x.request))
		device.wants(topicOf(device.id), x.name, 1)
		if after := time.Since(sent); after < 990*time.Millisecond || after > 4*time.Second {
			t.Errorf("%s of 1 s: it came after %v", x.name, after)
		}
	}
	device.leave()
}

// nobodyKeeps: the sender to an offline device is told, unless somebody keeps
// the message.
func (p *trial) nobodyKeeps(*testing.T) {
	id := p.name + " absent"
	a := p.d.send(request{Body: "lost", Properties: to(id)})
	p.d.refused("offline, not kept", a, p.code(206, 40400), "offline")
	p.d.accepted("offline, kept", p.d.send(request{Body: "kept", Properties: to(id, "cleansessionflag", "false")}))
	device := p.s.connect(mqtt.V5, id)
	device.wants(topicOf(id), "kept", 1)
	p.nothingFor(device)
	device.leave()
}

// targets: how the device may be named, and how not.
func (p *trial) targets(*testing.T) {
	device := p.device(p.s, mqtt.V311)
	all := p.s.connect(mqtt.V311, p.name+" all")
	all.subscribe(1, "#")
	for _, second := range []string{"/p2p/", "/p2p", "p2p", "/p2p/a+b", "/p2p/#", "/p2p/+/" + device.id, "/p2p//" + device.id} {
		a := p.d.send(request{Body: "malformed", Properties: map[string]string{"mqttSecondTopic": second}})
		p.d.refused(second, a, p.code(13, 40000), "names no client")
	}
	for second, topic := range map[string]string{
		"/p2p/" + device.id:            topicOf(device.id),
		"p2p/" + device.id:             topicOf(device.id),
		"/p2p/" + device.id + "/led/1": topicOf(device.id) + "/led/1",
	} {
		p.d.accepted(second, p.d.send(request{Body: second, Properties: map[string]string{"mqttSecondTopic": second}}))
		device.wants(topic, second, 1)
	}
	for _, real := range []string{"/shown/to/it", "shown/to/it"} {
		p.d.accepted(real, p.d.send(request{Body: "real", Properties: to(device.id, "mqttRealTopic", real)}))
		device.wants("orders/shown/to/it", "real", 1)
	}
	p.nothingFor(device)
	p.nothingFor(all)
	device.leave()
	all.leave()
}

// properties: qoslevel, and what MQTT 5 devices get.
func (p *trial) properties(t *testing.T) {
	device := p.device(p.s, mqtt.V5)
	for qos := range byte(3) {
		level := strconv.Itoa(int(qos))
		got := p.d.post(request{Body: "QoS " + level, Properties: to(device.id, "qoslevel", level)})
		device.wants(topicOf(device.id), "QoS "+level, qos)
		p.d.accepted("QoS "+level, p.d.await(got))
	}
	for key, bad := range map[string]string{
		"qoslevel": "7", "cleansessionflag": "perhaps", "mqtt5MsgExpireInterval": "soon", "mqtt5UserProperty": "{}", "mqttRealTopic": "a/#",
	} {
		a := p.d.send(request{Body: "bad", Properties: to(device.id, key, bad)})
		p.d.refused(key+"="+bad, a, p.code(13, 40000), strings.ToLower(key))
	}
	p.d.accepted("MQTT 5 properties", p.d.send(request{Body: "rich", Properties: to(device.id,
		"mqtt5UserProperty", `[{"key":"k","value":"v"}]`, "mqtt5MsgExpireInterval", "60", "mqtt5ContentType", "text/plain")}))
	m := device.wants(topicOf(device.id), "rich", 1)
	var props mqtt.Properties
	if err := mqtt.DecodeProps(m.Props, &props); err != nil {
		t.Fatal(err)
	}
	if !m.HasExpiry || m.Expiry > 60 || m.Expiry < 50 || string(props.ContentType) != "text/plain" {
		t.Errorf("expiry %v %d, content type %q", m.HasExpiry, m.Expiry, props.ContentType)
	}
	seen := userProperties(m)
	if delete(seen, "messageId"); seen["k"] != "v" || len(seen) != 1 {
		t.Errorf("user properties %v, want k=v", seen)
	}
	p.nothingFor(device)
	device.leave()
}

// ordinary: without a target it is a publish to the parent topic or below, to
// those who have subscribed.
func (p *trial) ordinary(*testing.T) {
	device := p.device(p.s, mqtt.V5)
	device.subscribe(1, "orders", "orders/a/b")
	p.d.accepted("parent topic", p.d.send(request{Body: "parent", Tag: "T"}))
	device.wants("orders", "parent", 1)
	for _, second := range []string{"/a/b", "a/b"} {
		p.d.accepted(second, p.d.send(request{Body: second, Properties: map[string]string{"mqttSecondTopic": second}}))
		device.wants("orders/a/b", second, 1)
	}
	p.d.accepted("nobody subscribed", p.d.send(request{Body: "x", Properties: map[string]string{"mqttSecondTopic": "/nobody"}}))
	p.nothingFor(device)
	device.leave()
}

// large: SDKs compress bodies over 4 KiB.
func (p *trial) large(*testing.T) {
	device := p.device(p.s, mqtt.V5)
	const n = 100 << 10
	p.d.accepted("100 KiB", p.d.send(request{Body: "large ", Fill: n, Properties: to(device.id)}))
	device.wants(topicOf(device.id), "large "+strings.Repeat("x", n), 1)
	device.leave()
}

// latency: from before the send call to the device, one at a time.
func (p *trial) latency(t *testing.T) {
	const n, limit = 300, 5 * time.Millisecond
	device := p.device(p.s, mqtt.V5)
	ch := p.d.ask(request{Op: "series", Topic: "orders", Count: n, EveryMS: 1, Properties: to(device.id)})
	took := make([]time.Duration, n)
	for i := range took {
		m := device.arrival()
		now := time.Now()
		device.acknowledge(m)
		micros, err := strconv.ParseInt(string(m.Payload), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		took[i] = now.Sub(time.UnixMicro(micros))
	}
	a := p.d.await(ch)
	var calls []float64
	if err := json.Unmarshal(a.MS, &calls); err != nil || !a.OK || len(calls) != n {
		t.Fatalf("series: %v, %d of %d sends; %s", err, len(calls), n, a.Error)
	}
	slices.Sort(took)
	slices.Sort(calls)
	t.Logf("send to receive: p50 %v, p90 %v, p99 %v; the send call: p50 %.2f ms", took[n/2], took[n*9/10], took[n*99/100], calls[n/2])
	if took[n/2] > limit {
		t.Errorf("p50 %v, want at most %v", took[n/2], limit)
	}
	device.leave()
}

// ownCertificate: the server has none configured and makes one; SDKs that trust
// any connect.
func (p *trial) ownCertificate(t *testing.T) {
	switch {
	case !p.d.hello.TLS:
		p.lacks("TLS")
		t.Skip("the SDK has no TLS")
	case p.verifies:
		p.lacks("TLS without a certificate it knows")
		t.Skip("the SDK takes only certificates that it knows")
	}
	who := p.who
	who.tls = true
	p.overTLS(t, p.s, who)
}

// configuredCertificate: the server shows tls.cert.
func (p *trial) configuredCertificate(t *testing.T) {
	if !p.d.hello.TLS {
		t.Skip("the SDK has no TLS")
	}
	p.overTLS(t, p.guarded, identity{key: guardedKey, secret: guardedSecret, tls: true, env: "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=" + filepath.Join(p.guarded.dir, "cert.pem")})
}

func (p *trial) overTLS(t *testing.T, s *server, who identity) {
	t.Helper()
	if seen := p.tapped(t, s, who); seen.tls == 0 || seen.plain > 0 {
		t.Errorf("connections: %+v, want all with TLS", seen)
	}
}

// binaryHeaders: remoting has a second form of its headers.
func (p *trial) binaryHeaders(t *testing.T) {
	if !p.binary {
		if p.transport == "rocketmq" {
			p.lacks("binary headers")
		}
		t.Skip("not in this SDK")
	}
	seen := p.tapped(t, p.guarded, identity{key: guardedKey, secret: guardedSecret, env: "ROCKETMQ_SERIALIZE_TYPE=ROCKETMQ"})
	if seen.binary == 0 {
		t.Errorf("connections: %+v, want some with binary headers", seen)
	}
}

// tapped sends through a tap with a producer of its own.
func (p *trial) tapped(t *testing.T, s *server, who identity) seen {
	t.Helper()
	tap := newTap(t, p.addr(s))
	d := p.launched(t, tap.addr, who)
	device := p.device(s, mqtt.V5)
	d.accepted("send", d.send(request{Body: "tapped", Properties: to(device.id)}))
	device.wants(topicOf(device.id), "tapped", 1)
	device.leave()
	d.close()
	return tap.saw()
}

// credentials: right, wrong and missing ones, and a rule that denies.
func (p *trial) credentials(t *testing.T) {
	device := p.device(p.guarded, mqtt.V5)
	d := p.launched(t, p.addr(p.guarded), identity{key: guardedKey, secret: guardedSecret})
	d.accepted("right key", d.send(request{Body: "right", Properties: to(device.id)}))
	device.wants(topicOf(device.id), "right", 1)
	denied := request{Topic: "denied", Body: "denied", Properties: to(device.id)}
	d.refused("a rule denies it", d.send(denied), p.noPermission(40300), "no permission")
	d.refused("over the limit", d.send(request{Body: "big", Fill: 2 * guardedLimit, Properties: to(device.id)}),
		append(p.code(13, 41301), p.code(13, 0)...), "too large", "exceed", "larger") // gRPC SDKs know the limit
	d.close()
	for _, x := range []struct {
		name  string
		who   identity
		words []string
	}{
		{"wrong secret", identity{key: guardedKey, secret: "not it"}, []string{"wrong signature"}},
		{"unknown key", identity{key: "nobody", secret: guardedSecret}, []string{"unknown access key"}},
		{"no credentials", identity{}, []string{"access key", "signature", "credentials"}},
	} {
		d := p.launch(t, p.addr(p.guarded), x.who)
		if d.hello.Event == "failed" {
			p.cannotStart(t, x.name, d.hello, x.words)
			continue
		}
		d.refused(x.name, d.send(request{Body: x.name, Properties: to(device.id)}), p.noPermission(40100, 40300), x.words...)
		d.kill()
	}
	p.nothingFor(device)
	device.leave()
}

// cannotStart is for SDKs that ask the server for something when they start, or
// that demand credentials.
func (p *trial) cannotStart(t *testing.T, what string, hello answer, words []string) {
	t.Helper()
	if !containsAny(strings.ToLower(hello.Error), words...) {
		t.Errorf("%s: it does not start, and %q does not say why: none of %q", what, hello.Error, words)
	}
}

// killed: what was accepted for an offline device is there after kill -9, and
// the producer goes on by itself.
func (p *trial) killed(t *testing.T) {
	device := p.device(p.s, mqtt.V5, persistent)
	device.leave()
	target := to(device.id)
	var want []string
	accepted := func(r request) {
		r.Properties = target
		p.d.accepted(r.Body, p.d.send(r))
		want = append(want, r.Body)
	}
	if p.can("delay") {
		r := request{Mode: "delay", Body: "delay", Properties: target}
		if p.timer {
			r.DelayMS = 1000
		} else {
			r.DelayLevel = 1
		}
		p.d.accepted("delay", p.d.send(r))
	}
	for i := range 5 {
		accepted(request{Body: fmt.Sprint("sync ", i)})
	}
	if p.can("ordered") {
		accepted(request{Mode: "ordered", Body: "ordered", OrderKey: "order 7"})
	}
	if p.can("async") {
		accepted(request{Mode: "async", Body: "async"})
	}
	if p.can("batch") {
		p.d.accepted("batch", p.d.send(request{Mode: "batch", Body: "batch", Count: 3, Properties: target}))
		want = append(want, "batch-0", "batch-1", "batch-2")
	}
	p.s.kill()
	p.s.start()
	p.goesOn(t, "kill -9")
	device = p.device(p.s, mqtt.V5, persistent)
	got := payloads(device, len(want))
	if p.can("delay") {
		got = append(got, payloads(device, 1)...)
		i := slices.Index(got, "delay") // wherever it became due
		if i < 0 {
			t.Fatalf("received %q, and not the delayed message", got)
		}
		got = slices.Delete(got, i, i+1)
	}
	if !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	p.nothingFor(device)
	device.leave()
}

// killedWhileSending: what was accepted around a kill -9 is there, and perhaps
// more: SDKs send again what was not answered.
func (p *trial) killedWhileSending(t *testing.T) {
	device := p.device(p.s, mqtt.V5, persistent)
	device.leave()
	const n, before = 60, 15
	answers := make([]<-chan answer, n)
	for i := range n {
		answers[i] = p.d.post(request{Body: fmt.Sprint(i), Properties: to(device.id)})
	}
	want := map[string]bool{fmt.Sprint(before): p.d.accepted("before the kill", p.d.await(answers[before])).OK}
	p.s.kill()
	p.s.start()
	for i, ch := range answers {
		if i != before && p.d.await(ch).OK {
			want[fmt.Sprint(i)] = true
		}
	}
	p.goesOn(t, "kill -9 while sending")
	device = p.device(p.s, mqtt.V5, persistent)
	marker := p.s.connect(mqtt.V5, p.name+" marker")
	marker.publish(topicOf(device.id), "end", 0)
	for _, body := range device.until("end") {
		delete(want, body)
	}
	if len(want) > 0 {
		t.Errorf("accepted and lost: %v", want)
	}
	marker.leave()
	device.leave()
}

// until takes messages up to one that is last.
func (p *peer) until(last string) (list []string) {
	p.t.Helper()
	for {
		body := string(p.message().Payload)
		if body == last {
			return list
		}
		list = append(list, body)
	}
}

func (p *trial) restarted(t *testing.T) {
	p.s.restart()
	p.goesOn(t, "restart")
}

// goesOn: sends succeed again within 10 s of the server's start.
func (p *trial) goesOn(t *testing.T, after string) {
	t.Helper()
	up := time.Now()
	device := p.s.connect(mqtt.V5, p.name+" witness")
	for {
		a := p.d.send(request{Body: "again", Properties: to(device.id)})
		took := time.Since(up)
		if a.OK {
			t.Logf("after %s a send is accepted in %v", after, took.Round(time.Millisecond))
			break
		}
		if took > 10*time.Second {
			t.Fatalf("after %s no send is accepted in %v: %s", after, took, a.Error)
		}
		time.Sleep(50 * time.Millisecond)
	}
	device.wants(topicOf(device.id), "again", 1)
	device.leave()
}

func (p *trial) closes(*testing.T) { p.d.close() }
