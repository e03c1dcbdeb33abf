package test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// accessConfig is that of a company: devices that log in by signature, a back-end
// with a key, users, and clients without a login.
const accessConfig = `
auth:
  anonymous: true
  access-keys:
    - {key: DEVICES, secret: dev-secret}
    - {key: BACKEND, secret: back-secret}
  rules:
    - {allow: pub, topic: "devices/up/%c/#", access-key: DEVICES}
    - {allow: pub, topic: "devices/p2p/#", access-key: BACKEND}
    - {allow: sub, topic: "devices/news/#"}
    - {allow: pub, topic: "public/#"}
    - {allow: pub, topic: "devices/p2p/#", user: alice}
    - {allow: all, topic: "#", user: operator}
    - {allow: sub, topic: "$SYS/#", user: operator}
`

// principal is one who uses the server.
type accessPrincipal struct {
	name        string
	key, secret string // of a signature
	user        string // "": none
}

var accessPrincipals = []accessPrincipal{
	{name: "anonymous"}, {name: "user", user: "alice"}, {name: "operator", user: "operator"},
	{name: "device", key: "DEVICES", secret: "dev-secret"}, {name: "key", key: "BACKEND", secret: "back-secret"},
}

// login returns what the principal connects with.
func (a *accessPrincipal) login(id string) as {
	switch {
	case a.key != "":
		return login(auth.SignatureUser(a.key, "x"), auth.Sign(a.secret, id))
	case a.user != "":
		return login(a.user, a.user+"-pw")
	}
	return func(*mqtt.Connect) {}
}

// errand is a message with all that could lead it somewhere.
type accessErrand struct {
	topic    string
	real     string // mqttRealTopic
	multi    string // INNER_MULTI_DISPATCH
	delay    bool
	response string // response topic
}

const (
	accessOK      = "taken"
	accessRefused = "refused"
)

// accessWorld is a server with somebody who sees all that is published.
type accessWorld struct {
	*server
	all *peer // operator's, subscribed to #
	dev *peer // device's, the target of P2P
	n   int
}

func newAccessWorld(t *testing.T, settings ...string) *accessWorld {
	w := &accessWorld{server: newServer(t, settings...)}
	w.config = accessConfig
	w.addr["rocketmq"], w.addr["rocketmq-grpc"] = "127.0.0.1:0", "127.0.0.1:0"
	for _, user := range []string{"alice", "operator"} {
		w.passwd(user, user+"-pw")
	}
	w.start()
	w.all = w.connect(mqtt.V5, "watcher", clean, accessPrincipals[2].login("watcher"))
	w.all.subscribe(0, "#", "$SYS/#")
	w.dev = w.connect(mqtt.V5, "dev", clean, accessPrincipals[3].login("dev"))
	return w
}

// seen returns the topics under which a message with the text has come to the
// watcher and to the device, one each, "" where it has not. What the watcher got
// before a message of its own is all there is.
func (w *accessWorld) seen(text string) (all, dev string) {
	w.t.Helper()
	w.n++
	end := fmt.Sprint("end ", w.n)
	for _, p := range []*peer{w.all, w.dev} {
		to := "devices/p2p/" + p.id
		if code := w.all.publish(to, end, 0); code != 0 {
			w.t.Fatal(code)
		}
		for {
			m := p.message()
			if string(m.Payload) == end {
				break
			}
			if string(m.Payload) == text {
				if p == w.all {
					all += string(m.Topic)
				} else {
					dev += string(m.Topic)
				}
			}
		}
	}
	return all, dev
}

// sendMQTT publishes over MQTT.
func (w *accessWorld) sendMQTT(transport string, a *accessPrincipal, e accessErrand, text string) string {
	w.t.Helper()
	w.n++
	id := fmt.Sprint("sender", w.n)
	p := w.connectOver(transport, mqtt.V5, id, clean, a.login(id))
	defer p.leave()
	m := &mqtt.Publish{Topic: []byte(strings.ReplaceAll(e.topic, "%c", id)), Payload: []byte(text), QoS: 1}
	if e.response != "" {
		var props mqtt.Properties
		props.ResponseTopic = []byte(e.response)
		props.Set(mqtt.PropResponseTopic)
		m.Props = props.AppendTravelling(nil)
	}
	if code := p.publishThis(m); code.Failed() {
		return accessRefused + map[bool]string{false: fmt.Sprintf(" with 0x%02X", byte(code))}[code == mqtt.CodeNotAuthorized]
	}
	return accessOK
}

// properties are those of a RocketMQ message.
func (e *accessErrand) properties() (parent string, props [][2]string) {
	parent, second, _ := strings.Cut(e.topic, "/")
	if e.multi == "" {
		props = append(props, [2]string{"mqttSecondTopic", "/" + second})
	} else {
		props = append(props, [2]string{"INNER_MULTI_DISPATCH", e.multi})
	}
	if e.real != "" {
		props = append(props, [2]string{"mqttRealTopic", e.real})
	}
	if e.delay {
		props = append(props, [2]string{"TIMER_DELAY_MS", "1"})
	}
	return parent, props
}

// sendRemoting sends one message as a RocketMQ producer of the remoting protocol.
func (w *accessWorld) sendRemoting(a *accessPrincipal, e accessErrand, text string) string {
	w.t.Helper()
	parent, props := e.properties()
	var properties []byte
	for _, p := range props {
		properties = rocketmq.AppendProperty(properties, p[0], p[1])
	}
	r := rocketmq.Command{Code: int32(rocketmq.SendMessageV2), Language: rocketmq.LanguageJava, Version: 479}
	for i, value := range []string{"group", parent, "TBW102", "4", "0", "0", "1", "0", string(properties), "0", "false", "0", "false", "b"} {
		r.Ext = append(r.Ext, rocketmq.Field{Key: []byte{'a' + byte(i)}, Value: []byte(value)})
	}
	if a.key != "" {
		r.Ext = append(r.Ext, rocketmq.Field{Key: []byte(rocketmq.KeyAccessKey), Value: []byte(a.key)})
		r.Ext = append(r.Ext, rocketmq.Field{Key: []byte(rocketmq.KeySignature), Value: []byte(rocketmq.Sign([]byte(a.secret), r.Ext, []byte(text)))})
	}
	conn, err := net.DialTimeout("tcp", w.addr["rocketmq"], patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(r.Append(nil, rocketmq.JSON, []byte(text))); err != nil {
		w.t.Fatal(err)
	}
	var in []byte
	for {
		f, _, complete, err := rocketmq.Split(in, 1<<20)
		if err != nil {
			w.t.Fatal(err)
		}
		if complete {
			var answer rocketmq.Command
			if err := answer.Decode(f.Serialize, f.Header); err != nil {
				w.t.Fatal(err)
			}
			switch rocketmq.ResponseCode(answer.Code) {
			case rocketmq.Success:
				return accessOK
			case rocketmq.NoPermission:
				return accessRefused
			}
			return fmt.Sprintf("refused with %d %s", answer.Code, answer.Remark)
		}
		more := make([]byte, 4096)
		n, err := conn.Read(more)
		if err != nil {
			w.t.Fatal(err)
		}
		in = append(in, more[:n]...)
	}
}

// sendGRPC sends one message as a RocketMQ producer of the gRPC protocol.
func (w *accessWorld) sendGRPC(a *accessPrincipal, e accessErrand, text string) string {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.addr["rocketmq-grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	date := time.Now().UTC().Format("20060102T150405Z")
	pairs := []string{"x-mq-client-id", "producer", "x-mq-language", "JAVA", "x-mq-protocol", "v2", "x-mq-client-version", "5.0.7", "x-mq-date-time", date}
	if a.key != "" {
		mac := hmac.New(sha1.New, []byte(a.secret))
		mac.Write([]byte(date))
		pairs = append(pairs, "authorization", fmt.Sprintf("MQv2-HMAC-SHA1 Credential=%s, SignedHeaders=x-mq-date-time, Signature=%X", a.key, mac.Sum(nil)))
	}
	parent, props := e.properties()
	m := &pb.Message{Topic: &pb.Resource{Name: parent}, Body: []byte(text), UserProperties: map[string]string{}, SystemProperties: &pb.SystemProperties{MessageId: "01AABBCCDDEEFF00112233445566778899", BodyEncoding: pb.Encoding_IDENTITY}}
	for _, p := range props {
		m.UserProperties[p[0]] = p[1]
	}
	answer, err := pb.NewMessagingServiceClient(conn).SendMessage(metadata.AppendToOutgoingContext(ctx, pairs...), &pb.SendMessageRequest{Messages: []*pb.Message{m}})
	if err != nil {
		w.t.Fatal(err)
	}
	code := answer.GetStatus().GetCode()
	if code == pb.Code_OK && len(answer.Entries) > 0 {
		code = answer.Entries[0].GetStatus().GetCode()
	}
	switch code {
	case pb.Code_OK:
		return accessOK
	case pb.Code_FORBIDDEN, pb.Code_UNAUTHORIZED:
		return accessRefused
	}
	return fmt.Sprintf("refused with %v", code)
}

// TestAccessToPublish: who may say what where, by each door, in each way that a
// message can lead somewhere; and what arrives of it.
func TestAccessToPublish(t *testing.T) {
	t.Parallel()
	w := newAccessWorld(t)
	for _, x := range []struct {
		name    string
		errand  accessErrand
		only    string // of the doors, "MQTT" or "RocketMQ"; "": all
		allowed string // the principals
		all     string // where the watcher sees it, if allowed
		dev     string // where the device sees it
	}{
		{"public topic", accessErrand{topic: "public/x"}, "", "anonymous user operator device key", "public/x", ""},
		{"P2P", accessErrand{topic: "devices/p2p/dev"}, "", "user operator key", "", "devices/p2p/dev"},
		{"own topic", accessErrand{topic: "devices/up/%c/t"}, "MQTT", "operator device", "devices/up/", ""},
		{"another device's topic", accessErrand{topic: "devices/up/dev/t"}, "", "operator", "devices/up/dev/t", ""},
		{"statistics", accessErrand{topic: "$SYS/broker/uptime"}, "MQTT", "", "", ""},
		// Whoever answers does so with rights of its own.
		{"response topic", accessErrand{topic: "public/x", response: "secret/x"}, "MQTT", "anonymous user operator device key", "public/x", ""},
		{"real topic that is allowed", accessErrand{topic: "devices/p2p/dev", real: "p2p/dev/x"}, "RocketMQ", "key", "", "devices/p2p/dev/x"},
		{"real topic that is not", accessErrand{topic: "devices/p2p/dev", real: "secret/x"}, "RocketMQ", "", "", ""},
		{"delayed", accessErrand{topic: "public/x", delay: true}, "RocketMQ", "anonymous device key", "public/x", ""},
		{"delayed where not allowed", accessErrand{topic: "secret/x", delay: true}, "RocketMQ", "", "", ""},
		{"several, all allowed", accessErrand{topic: "devices/x", multi: "%LMQ%%p2p%dev%"}, "RocketMQ", "key", "", "devices/p2p/dev"},
		{"several, one not", accessErrand{topic: "devices/x", multi: "%LMQ%%p2p%dev%,%LMQ%secret%x"}, "RocketMQ", "", "", ""},
	} {
		doors := map[string]func(*accessPrincipal, string) string{}
		if x.only != "RocketMQ" {
			for _, transport := range []string{"mqtt", "ws"} {
				doors[transport] = func(a *accessPrincipal, text string) string { return w.sendMQTT(transport, a, x.errand, text) }
			}
		}
		if x.only != "MQTT" {
			doors["remoting"] = func(a *accessPrincipal, text string) string { return w.sendRemoting(a, x.errand, text) }
			doors["gRPC"] = func(a *accessPrincipal, text string) string { return w.sendGRPC(a, x.errand, text) }
		}
		for door, send := range doors {
			for _, a := range accessPrincipals {
				if a.user != "" && (door == "remoting" || door == "gRPC") {
					continue // RocketMQ clients have keys
				}
				text := fmt.Sprintf("%s/%s/%s", x.name, door, a.name)
				want, wantAll, wantDev := accessRefused, "", ""
				if strings.Contains(x.allowed, a.name) {
					want, wantAll, wantDev = accessOK, x.all, x.dev
				}
				got := send(&a, text)
				if x.errand.delay && got == accessOK { // it comes a moment later
					m := w.all.message()
					for string(m.Payload) != text {
						m = w.all.message()
					}
					wantAll = ""
				}
				all, dev := w.seen(text)
				if got != want || !strings.HasPrefix(all, wantAll) || wantAll == "" && all != "" || dev != wantDev {
					t.Errorf("%s: %s, the watcher has it by %q, the device by %q; want %s, %q, %q", text, got, all, dev, want, wantAll, wantDev)
				}
			}
		}
	}
}

// TestAccessToConnect: who may come as whom, subscribe to what, and leave what will,
// by each door.
func TestAccessToConnect(t *testing.T) {
	t.Parallel()
	w := newAccessWorld(t)
	for _, transport := range []string{"mqtt", "ws"} {
		for _, owner := range accessPrincipals {
			id := "owned-" + owner.name + "-" + transport
			p := w.connectOver(transport, mqtt.V5, id, persistent, owner.login(id))
			p.subscribe(1, "devices/news/#")
			p.leave()
			if code := w.all.publish("devices/news/"+id, "news", 1); code != 0 {
				t.Fatal(code)
			}
			for _, a := range accessPrincipals {
				if a.name == owner.name {
					continue
				}
				for _, how := range []as{persistent, clean} {
					p := w.open(transport, mqtt.V5)
					p.hello(id, how, a.login(id))
					if code := receive[*mqtt.Connack](p).Code; code != mqtt.CodeNotAuthorized {
						t.Errorf("%s: %s connects as a client of %s: %v", transport, a.name, owner.name, code)
					}
					p.ended()
				}
			}
			p = w.connectOver(transport, mqtt.V5, id, persistent, owner.login(id))
			if !p.connack.SessionPresent {
				t.Errorf("%s: %s has lost its session to those who were refused", transport, owner.name)
			}
			p.wants("devices/news/"+id, "news", 1)
			p.leave()
		}
		for _, a := range accessPrincipals {
			id := "own-" + a.name + "-" + transport
			p := w.connectOver(transport, mqtt.V5, id, clean, a.login(id))
			for filter, allowed := range map[string]string{
				"devices/news/1": "anonymous user operator device key", "secret/#": "operator", "#": "operator", "$SYS/#": "operator",
				"$share/g/secret/#": "operator", "devices/p2p/dev": "", "devices/p2p/" + id: "anonymous user operator device key",
			} {
				if code := p.subscribe(0, filter)[0]; code.Failed() == strings.Contains(allowed, a.name) {
					t.Errorf("%s: %s subscribes to %s: %v", transport, a.name, filter, code)
				}
			}
			p.leave()
			for topic, allowed := range map[string]string{"public/will": "anonymous user operator device key", "secret/will": "operator", "$SYS/will": ""} {
				text := transport + a.name + topic
				p := w.connectOver(transport, mqtt.V5, id, clean, a.login(id), func(c *mqtt.Connect) {
					c.HasWill, c.Will = true, mqtt.Will{Topic: []byte(topic), Payload: []byte(text)}
				})
				w.departure(p.vanish)
				want := map[bool]string{true: topic}[strings.Contains(allowed, a.name)]
				all, _ := w.seen(text)
				for end := time.Now().Add(patience); want != "" && all == "" && time.Now().Before(end); { // it is published after the client is gone
					all, _ = w.seen(text)
				}
				if all != want {
					t.Errorf("%s: the will of %s on %s arrives as %q, want %q", transport, a.name, topic, all, want)
				}
			}
		}
	}
}
