package rocketmqserver

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// keys lets those sign who know a secret. It panics for the key "panic".
type keys map[string]string

func (k keys) AuthenticateRequest(r mq.SignedRequest, known *mq.Principal, _ netip.Addr) (*mq.Principal, error) {
	name := string(r.AccessKey())
	secret, found := k[name]
	switch {
	case name == "panic":
		panic("as asked for")
	case k == nil:
		return &mq.Principal{}, nil
	case name == "":
		return nil, &mq.Error{Code: mq.NotAuthorized, Text: "the request is not signed"}
	case !found || !r.SignedWith([]byte(secret)):
		return nil, &mq.Error{Code: mq.BadCredentials, Text: "wrong signature"}
	case known != nil:
		return known, nil
	}
	return &mq.Principal{AccessKey: name}, nil
}

// rules allow everything but topics below secret.
type rules struct{}

func (rules) Allow(_ *mq.Principal, _ mq.Action, topic []byte) bool {
	return !strings.HasPrefix(string(topic), "secret/")
}

func (rules) Grant(*mq.Principal, []byte) mq.Grant { return mq.GrantAll }
func (rules) Version() uint64                      { return 0 }
func (rules) Changed(func())                       {}

// lockedBuffer is a log to look at.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// producer is a client of the generated stubs on a connection of its own.
type producer struct {
	pb.MessagingServiceClient
	t    *testing.T
	conn *grpc.ClientConn
}

func (r *rig) over(creds credentials.TransportCredentials) *producer {
	r.t.Helper()
	conn, err := grpc.NewClient(r.grpc, grpc.WithTransportCredentials(creds))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return &producer{pb.NewMessagingServiceClient(conn), r.t, conn}
}

func (r *rig) producer() *producer { return r.over(insecure.NewCredentials()) }

// calling returns the context of a call with metadata.
func calling(t *testing.T, pairs ...string) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, append([]string{"x-mq-client-id", "tester"}, pairs...)...)
}

func (p *producer) send(ctx context.Context, messages ...*pb.Message) *pb.SendMessageResponse {
	p.t.Helper()
	r, err := p.SendMessage(ctx, &pb.SendMessageRequest{Messages: messages})
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// message is one to a sub-topic of "parent", with more properties.
func message(second, body string, properties ...string) *pb.Message {
	m := &pb.Message{
		Topic: &pb.Resource{Name: "parent"}, Body: []byte(body), UserProperties: map[string]string{},
		SystemProperties: &pb.SystemProperties{MessageId: "01" + hex.EncodeToString([]byte(body[:min(len(body), 16)])), MessageType: pb.MessageType_NORMAL, BodyEncoding: pb.Encoding_IDENTITY},
	}
	if second != "" {
		m.UserProperties[keySecondTopic] = second
	}
	for i := 0; i < len(properties); i += 2 {
		m.UserProperties[properties[i]] = properties[i+1]
	}
	return m
}

// wants fails the test unless the status is that code and its text has that part.
func wants(t *testing.T, s *pb.Status, code pb.Code, part string) {
	t.Helper()
	if s.GetCode() != code || !strings.Contains(s.GetMessage(), part) {
		t.Errorf("status %v %q, want %v with %q", s.GetCode(), s.GetMessage(), code, part)
	}
}

func TestGRPCSettings(t *testing.T) {
	v := newRig(t, rigOptions{})
	stream, err := v.producer().Telemetry(calling(t))
	if err != nil {
		t.Fatal(err)
	}
	mine := &pb.Settings{
		ClientType: pb.ClientType_PRODUCER.Enum(),
		PubSub:     &pb.Settings_Publishing{Publishing: &pb.Publishing{Topics: []*pb.Resource{{Name: "parent"}}}},
	}
	agent := protowire.AppendString(protowire.AppendTag(nil, 7, protowire.BytesType), "user agent") // not in our protocol file
	mine.ProtoReflect().SetUnknown(agent)
	for range 2 { // SDKs repeat them
		if err := stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: mine}}); err != nil {
			t.Fatal(err)
		}
		command, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		wants(t, command.Status, pb.Code_OK, "")
		s := command.GetSettings()
		back := s.GetBackoffPolicy()
		if p := s.GetPublishing(); p.GetMaxBodySize() != 64<<10 || !p.GetValidateMessageType() || len(p.GetTopics()) != 1 {
			t.Errorf("publishing %v", p)
		}
		if e := back.GetExponentialBackoff(); back.GetMaxAttempts() != 3 || e.GetInitial().AsDuration() <= 0 || e.GetMax().AsDuration() < e.GetInitial().AsDuration() || e.GetMultiplier() <= 1 {
			t.Errorf("backoff %v", back)
		}
		if s.Metric == nil || s.Metric.On {
			t.Errorf("metric %v", s.Metric)
		}
		if !bytes.Equal(s.ProtoReflect().GetUnknown(), agent) {
			t.Error("what the server does not know was not given back")
		}
	}
	_ = stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("after the client's end: %v", err)
	}
}

func TestGRPCSettingsRefused(t *testing.T) {
	v := newRig(t, rigOptions{})
	for _, c := range []struct {
		name     string
		settings *pb.Settings
		code     pb.Code
		text     string
	}{
		{"consumer", &pb.Settings{ClientType: pb.ClientType_PUSH_CONSUMER.Enum(), PubSub: &pb.Settings_Subscription{Subscription: &pb.Subscription{}}}, pb.Code_UNSUPPORTED, "no RocketMQ consumers"},
		{"consumer that says so only", &pb.Settings{ClientType: pb.ClientType_SIMPLE_CONSUMER.Enum()}, pb.Code_UNSUPPORTED, "no RocketMQ consumers"},
		{"neither", &pb.Settings{}, pb.Code_UNRECOGNIZED_CLIENT_TYPE, "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream, err := v.producer().Telemetry(calling(t))
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: c.settings}})
			command, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			wants(t, command.Status, c.code, c.text)
			_, err = stream.Recv()
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.text) {
				t.Errorf("the stream ends with %v", err)
			}
		})
	}
}

func TestGRPCRoute(t *testing.T) {
	dialled := &pb.Endpoints{Scheme: pb.AddressScheme_DOMAIN_NAME, Addresses: []*pb.Address{{Host: "mq.example.org", Port: 443}}}
	ask := func(v *rig, topic string, e *pb.Endpoints) *pb.QueryRouteResponse {
		r, err := v.producer().QueryRoute(calling(t), &pb.QueryRouteRequest{Topic: &pb.Resource{ResourceNamespace: "ns", Name: topic}, Endpoints: e})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	v := newRig(t, rigOptions{})
	r := ask(v, "parent", dialled)
	wants(t, r.Status, pb.Code_OK, "")
	q := r.MessageQueues[0]
	if len(r.MessageQueues) != 1 || q.Permission != pb.Permission_READ_WRITE || q.Broker.Id != 0 || q.Broker.Name == "" || q.Topic.Name != "parent" || q.Topic.ResourceNamespace != "ns" {
		t.Errorf("route %v", r)
	}
	if !proto.Equal(q.Broker.Endpoints, dialled) {
		t.Errorf("endpoints %v, want those that were dialled", q.Broker.Endpoints)
	}
	if len(q.AcceptMessageTypes) != 3 {
		t.Errorf("accepts %v", q.AcceptMessageTypes)
	}
	_, port, _ := net.SplitHostPort(v.grpc)
	number, _ := strconv.Atoi(port)
	local := &pb.Endpoints{Scheme: pb.AddressScheme_IPv4, Addresses: []*pb.Address{{Host: "127.0.0.1", Port: int32(number)}}}
	if got := ask(v, "parent", nil).MessageQueues[0].Broker.Endpoints; !proto.Equal(got, local) {
		t.Errorf("endpoints %v, want %v", got, local)
	}
	wants(t, ask(v, "a/b", dialled).Status, pb.Code_ILLEGAL_TOPIC, "more than one level")

	for addr, want := range map[string]*pb.Endpoints{
		"[2001:db8::1]:8081": {Scheme: pb.AddressScheme_IPv6, Addresses: []*pb.Address{{Host: "2001:db8::1", Port: 8081}}},
		"10.0.0.1:1":         {Scheme: pb.AddressScheme_IPv4, Addresses: []*pb.Address{{Host: "10.0.0.1", Port: 1}}},
		"lb.example.org:80":  {Scheme: pb.AddressScheme_DOMAIN_NAME, Addresses: []*pb.Address{{Host: "lb.example.org", Port: 80}}},
	} {
		v := newRig(t, rigOptions{server: func(o *Options) { o.AdvertiseGRPC = addr }})
		if got := ask(v, "any", dialled).MessageQueues[0].Broker.Endpoints; !proto.Equal(got, want) {
			t.Errorf("endpoints %v, want %v", got, want)
		}
	}
}

func TestGRPCSend(t *testing.T) {
	v := newRig(t, rigOptions{core: func(o *broker.Options) { o.Auth = rules{} }})
	online := v.device("online", false)
	v.device("sleeper", true).disconnect()
	p := v.producer()
	transaction := message("/p2p/online", "x")
	transaction.SystemProperties.MessageType = pb.MessageType_TRANSACTION
	priority := message("/p2p/online", "x")
	priority.SystemProperties.MessageType = pb.MessageType_PRIORITY
	lite := message("/p2p/online", "x")
	lite.SystemProperties.MessageType = pb.MessageType_LITE
	untimed := message("/p2p/online", "x")
	untimed.SystemProperties.MessageType = pb.MessageType_DELAY
	for _, c := range []struct {
		name string
		m    *pb.Message
		code pb.Code
		text string
		to   string // the topic of what the device "online" gets
	}{
		{"online", message("/p2p/online", "x"), pb.Code_OK, "", "parent/p2p/online"},
		{"without slash, more levels", message("p2p/online/a", "x"), pb.Code_OK, "", "parent/p2p/online/a"},
		{"QoS 0", message("/p2p/online", "x", "qoslevel", "0"), pb.Code_OK, "", "parent/p2p/online"},
		{"empty body", message("/p2p/online", ""), pb.Code_OK, "", "parent/p2p/online"},
		{"real topic", message("/p2p/online", "x", "mqttRealTopic", "/shown"), pb.Code_OK, "", "parent/shown"},
		{"offline persistent", message("/p2p/sleeper", "x"), pb.Code_OK, "", ""},
		{"offline", message("/p2p/nobody", "x"), pb.Code_NOT_FOUND, "offline", ""},
		{"offline and kept", message("/p2p/nobody", "x", "cleansessionflag", "false"), pb.Code_OK, "", ""},
		{"nobody subscribed", message("", "x"), pb.Code_OK, "", ""},
		{"no target", message("/p2p/", "x"), pb.Code_ILLEGAL_TOPIC, "names no client", ""},
		{"wildcard", message("/p2p/a+b", "x"), pb.Code_ILLEGAL_TOPIC, "names no client", ""},
		{"bad QoS", message("/p2p/online", "x", "qoslevel", "7"), pb.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "qoslevel", ""},
		{"forbidden", &pb.Message{Topic: &pb.Resource{Name: "secret"}, UserProperties: map[string]string{keySecondTopic: "/p2p/online"}}, pb.Code_FORBIDDEN, "no permission", ""},
		{"no topic", &pb.Message{}, pb.Code_ILLEGAL_TOPIC, "empty", ""},
		{"transaction", transaction, pb.Code_UNSUPPORTED, "transactional", ""},
		{"priority", priority, pb.Code_UNSUPPORTED, "priority", ""},
		{"lite", lite, pb.Code_UNSUPPORTED, "lite", ""},
		{"delay without time", untimed, pb.Code_ILLEGAL_DELIVERY_TIME, "without delivery timestamp", ""},
		{"larger than allowed", message("/p2p/online", strings.Repeat("x", 64<<10+1)), pb.Code_MESSAGE_BODY_TOO_LARGE, "65536", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.send(calling(t), c.m)
			wants(t, r.Status, c.code, c.text)
			if len(r.Entries) != 1 || r.Entries[0].MessageId != c.m.GetSystemProperties().GetMessageId() {
				t.Fatalf("entries %v", r.Entries)
			}
			wants(t, r.Entries[0].Status, c.code, c.text)
			if (r.Entries[0].Offset > 0) != (c.code == pb.Code_OK) {
				t.Errorf("offset %d", r.Entries[0].Offset)
			}
			if c.to == "" {
				return
			}
			if got := online.next(); got.topic != c.to || got.payload != string(c.m.Body) {
				t.Errorf("delivered %q to %s", got.payload, got.topic)
			}
		})
	}
	online.nothing()
	if got := v.device("sleeper", true).next(); got.payload != "x" {
		t.Errorf("kept %q", got.payload)
	}
	r := p.send(calling(t))
	wants(t, r.Status, pb.Code_BAD_REQUEST, "no messages")
}

// TestGRPCProperties: an MQTT 5 receiver sees the user properties, the ID and
// the keys.
func TestGRPCProperties(t *testing.T) {
	v := newRig(t, rigOptions{})
	d := v.device("online", false)
	m := message("/p2p/online", "x", "colour", "blue")
	m.SystemProperties.Keys = []string{"k1", "k2"}
	m.SystemProperties.Tag = proto.String("tag")
	m.Topic.ResourceNamespace = "MQ_INST_1"
	wants(t, v.producer().send(calling(t), m).Status, pb.Code_OK, "")
	got := d.next()
	if want := "colour=blue messageId=0178 keys=k1 k2"; got.props != want {
		t.Errorf("properties %q, want %q", got.props, want)
	}
	if got.topic != "parent/p2p/online" {
		t.Errorf("topic %s", got.topic)
	}
	v = newRig(t, rigOptions{server: func(o *Options) { o.KeepNamespace = true }})
	d = v.device("online", false)
	wants(t, v.producer().send(calling(t), m).Status, pb.Code_OK, "")
	if got := d.next(); got.topic != "MQ_INST_1%parent/p2p/online" {
		t.Errorf("topic %s", got.topic)
	}
}

func TestGRPCBatch(t *testing.T) {
	v := newRig(t, rigOptions{})
	d := v.device("online", false)
	p := v.producer()
	var good []*pb.Message
	for i := range 50 {
		good = append(good, message("/p2p/online", fmt.Sprint("good ", i)))
	}
	r := p.send(calling(t), good...)
	wants(t, r.Status, pb.Code_OK, "")
	for i := range good {
		if got := d.next(); got.payload != fmt.Sprint("good ", i) {
			t.Errorf("message %d is %q", i, got.payload)
		}
	}
	r = p.send(calling(t), message("/p2p/online", "a"), message("/p2p/", "b"), message("/p2p/nobody", "c"), message("/p2p/online", "d"))
	wants(t, r.Status, pb.Code_MULTIPLE_RESULTS, "different results")
	for i, code := range []pb.Code{pb.Code_OK, pb.Code_ILLEGAL_TOPIC, pb.Code_NOT_FOUND, pb.Code_OK} {
		if r.Entries[i].Status.Code != code {
			t.Errorf("entry %d: %v", i, r.Entries[i])
		}
	}
	if a, d := d.next(), d.next(); a.payload != "a" || d.payload != "d" {
		t.Errorf("delivered %q and %q", a.payload, d.payload)
	}
	// Some SDKs look at the status of the whole only.
	r = p.send(calling(t), message("/p2p/", "a"), message("/p2p/", "b"))
	wants(t, r.Status, pb.Code_ILLEGAL_TOPIC, "names no client")
}

func TestGRPCDelay(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.MaxDelay = time.Hour }})
	d := v.device("online", false)
	p := v.producer()
	m := message("/p2p/online", "later")
	at := time.Now().Add(400 * time.Millisecond)
	m.SystemProperties.MessageType = pb.MessageType_DELAY
	m.SystemProperties.DeliveryTimestamp = timestamppb.New(at)
	wants(t, p.send(calling(t), m).Status, pb.Code_OK, "")
	if answered := time.Now(); answered.After(at) {
		t.Skip("the machine is too slow for this")
	}
	if got := d.next(); got.payload != "later" || time.Now().Before(at.Add(-time.Millisecond)) {
		t.Errorf("%q came %v early", got.payload, time.Until(at))
	}
	m.SystemProperties.DeliveryTimestamp = timestamppb.New(time.Now().Add(2 * time.Hour))
	wants(t, p.send(calling(t), m).Status, pb.Code_ILLEGAL_DELIVERY_TIME, "longer than 1h")
	m.SystemProperties.DeliveryTimestamp = &timestamppb.Timestamp{Seconds: 1 << 60}
	wants(t, p.send(calling(t), m).Status, pb.Code_ILLEGAL_DELIVERY_TIME, "not a time")
	m.SystemProperties.DeliveryTimestamp = timestamppb.New(time.Now().Add(-time.Hour))
	wants(t, p.send(calling(t), m).Status, pb.Code_OK, "")
	d.next()
}

// sign makes the metadata as the SDKs do; upper: in capital letters.
func sign(key, secret, date string, upper bool) []string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(date))
	signature := hex.EncodeToString(mac.Sum(nil))
	if upper {
		signature = strings.ToUpper(signature)
	}
	return []string{"x-mq-date-time", date, "authorization", "MQv2-HMAC-SHA1 Credential=" + key + ", SignedHeaders=x-mq-date-time, Signature=" + signature}
}

func TestGRPCSignature(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.Auth = keys{"AK": "secret", "OTHER": "terces"} }})
	d := v.device("online", false)
	const date = "20260102T030405Z"
	p := v.producer()
	with := func(s []string, from, to string) []string {
		s[3] = strings.Replace(s[3], from, to, 1)
		return s
	}
	for _, c := range []struct {
		name string
		meta []string
		code pb.Code
		text string
	}{
		{"right", sign("AK", "secret", date, false), pb.Code_OK, ""},
		{"capital letters", sign("AK", "secret", date, true), pb.Code_OK, ""},
		{"with region", sign("AK/cn-hangzhou/Rocketmq", "secret", date, false), pb.Code_OK, ""},
		{"long ago", sign("AK", "secret", "19700101T000000Z", false), pb.Code_OK, ""},
		{"RFC 3339", sign("AK", "secret", "2026-01-02T03:04:05+08:00", false), pb.Code_UNAUTHORIZED, "not a date"},
		{"a client ID, signed as an MQTT password", sign("AK", "secret", "GID_Test@@@0001", false), pb.Code_UNAUTHORIZED, "not a date"},
		{"somebody else on the same connection", sign("OTHER", "terces", date, false), pb.Code_OK, ""},
		{"without spaces", with(sign("AK", "secret", date, false), ", ", ","), pb.Code_OK, ""},
		{"wrong secret", sign("AK", "secreT", date, false), pb.Code_UNAUTHORIZED, "wrong signature"},
		{"unknown key", sign("KA", "secret", date, false), pb.Code_UNAUTHORIZED, "wrong signature"},
		{"other date", append([]string{"x-mq-date-time", "20260102T030406Z"}, sign("AK", "secret", date, false)[2:]...), pb.Code_UNAUTHORIZED, "wrong signature"},
		{"missing", nil, pb.Code_FORBIDDEN, "not signed"},
		{"no hexadecimal", with(sign("AK", "secret", date, false), "Signature=", "Signature=zz"), pb.Code_UNAUTHORIZED, "is not MQv2-HMAC-SHA1"},
		{"other scheme", with(sign("AK", "secret", date, false), "SHA1", "SHA9"), pb.Code_UNAUTHORIZED, "is not MQv2-HMAC-SHA1"},
		{"something else signed", with(sign("AK", "secret", date, false), "x-mq-date-time", "host"), pb.Code_UNAUTHORIZED, "is not MQv2-HMAC-SHA1"},
		{"an empty key, as Python has it", sign("", "", date, false), pb.Code_FORBIDDEN, "not signed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wants(t, p.send(calling(t, c.meta...), message("/p2p/online", c.name)).Status, c.code, c.text)
			if c.code == pb.Code_OK {
				if g := d.next(); g.payload != c.name {
					t.Errorf("the device gets %q", g.payload)
				}
			}
		})
	}
	if n := len(d.got); n != 0 { // the last that was right has come, and none since
		t.Errorf("%d more messages come", n)
	}
	if n := v.Stats.AuthFailed[GRPC].Load(); n != 5 {
		t.Errorf("%d failures counted", n)
	}
	if r, err := p.Heartbeat(calling(t), &pb.HeartbeatRequest{ClientType: pb.ClientType_PRODUCER}); err != nil || r.Status.Code != pb.Code_OK {
		t.Errorf("heartbeat needs no signature: %v %v", r, err)
	}
}

// TestGRPCClientID: RocketMQ demands that a client names itself.
func TestGRPCClientID(t *testing.T) {
	v := newRig(t, rigOptions{})
	p := v.producer()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	wants(t, p.send(ctx, message("/p2p/online", "x")).Status, pb.Code_CLIENT_ID_REQUIRED, "x-mq-client-id")
	if n := v.core.Stats.Dropped[mq.DropNotAuthorized].Load(); n != 1 {
		t.Errorf("%d drops for want of authorization, want 1", n)
	}
	r, err := p.QueryRoute(ctx, &pb.QueryRouteRequest{Topic: &pb.Resource{Name: "parent"}})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, r.Status, pb.Code_CLIENT_ID_REQUIRED, "x-mq-client-id")
	h, err := p.Heartbeat(ctx, &pb.HeartbeatRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, h.Status, pb.Code_CLIENT_ID_REQUIRED, "x-mq-client-id")
}

// TestGRPCOnePort: TLS and plaintext on the same port, and who speaks neither is
// shown out.
func TestGRPCOnePort(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.FrameTime = 300 * time.Millisecond }})
	d := v.device("online", false)
	for name, creds := range map[string]credentials.TransportCredentials{
		"TLS":       credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
		"plaintext": insecure.NewCredentials(),
	} {
		wants(t, v.over(creds).send(calling(t), message("/p2p/online", name)).Status, pb.Code_OK, "")
		if got := d.next(); got.payload != name {
			t.Errorf("delivered %q", got.payload)
		}
	}
	for name, first := range map[string]string{
		"garbage":                   "garbage\r\n\r\n",
		"HTTP/1.1":                  "GET / HTTP/1.1\r\n\r\n",
		"nearly HTTP/2":             "PRI * HTTP/9.0\r\n\r\nSM\r\n\r\n",
		"slow HTTP/2":               "PRI * HTTP/2.0\r\n",
		"frames that are not":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"bad TLS":                   "\x16\x03\x01\x00\x05hello",
		"slow TLS":                  "\x16\x03",
		"nothing":                   "",
		"a frame of remoting (4.x)": "\x00\x00\x00\x10\x00\x00\x00\x04{}  ",
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := net.Dial("tcp", v.grpc)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			_, _ = io.WriteString(nc, first)
			nc.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.Copy(io.Discard, nc); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				t.Error("the connection is still open")
			}
		})
	}
	if n := v.Stats.Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// TestGRPCOversized: a request over the limit gets an answer, unread, and the
// connection goes on.
func TestGRPCOversized(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.BodySize = 10 << 10 }})
	d := v.device("online", false)
	p := v.producer()
	for _, size := range []int{10<<10 + 1, 10<<10 + grpcHeadroom, 1 << 20, 40 << 20} {
		r := p.send(calling(t), message("/p2p/online", strings.Repeat("x", size)))
		wants(t, r.Status, pb.Code_MESSAGE_BODY_TOO_LARGE, "")
		wants(t, p.send(calling(t), message("/p2p/online", "next")).Status, pb.Code_OK, "")
		if got := d.next(); got.payload != "next" {
			t.Errorf("delivered %d bytes", len(got.payload))
		}
	}
	if n := v.Stats.Accepted[GRPC].Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	r, err := p.Heartbeat(calling(t), &pb.HeartbeatRequest{Group: &pb.Resource{Name: strings.Repeat("x", smallRequest)}})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, r.Status, pb.Code_MESSAGE_BODY_TOO_LARGE, "this server takes 65536")
}

// TestGRPCMemory: large requests do not come in without memory for them.
func TestGRPCMemory(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.BodySize = 1 << 20 }})
	d := v.device("online", false)
	p := v.producer()
	elsewhere := v.opt.ReadBytes - 100<<10
	if !v.room(true).TryAcquire(elsewhere) {
		t.Fatal("no memory from the start")
	}
	wants(t, p.send(calling(t), message("/p2p/online", strings.Repeat("x", 200<<10))).Status, pb.Code_TOO_MANY_REQUESTS, "try again")
	for range 3 { // it is given back
		wants(t, p.send(calling(t), message("/p2p/online", strings.Repeat("x", 80<<10))).Status, pb.Code_OK, "")
		if got := d.next(); len(got.payload) != 80<<10 {
			t.Errorf("delivered %d bytes", len(got.payload))
		}
	}
	wants(t, p.send(calling(t), message("/p2p/", strings.Repeat("x", 80<<10))).Status, pb.Code_ILLEGAL_TOPIC, "")
	if !v.room(true).TryAcquire(100 << 10) {
		t.Error("memory was not given back")
	}
}

// TestGRPCStalled: a request that does not arrive ends its connection.
func TestGRPCStalled(t *testing.T) {
	v := newRig(t, rigOptions{server: func(o *Options) { o.FrameTime = 200 * time.Millisecond }})
	p := v.producer()
	begin := time.Now()
	stream, err := p.conn.NewStream(calling(t), &grpc.StreamDesc{ClientStreams: true}, pb.MessagingService_SendMessage_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(pb.SendMessageResponse)); status.Code(err) != codes.Unavailable || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	// A Telemetry stream ends alone; one with settings stays.
	silent, talking := p.telemetry(), p.telemetry()
	settle(t, talking)
	if _, err := silent.Recv(); status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "no settings") {
		t.Errorf("without settings: %v", err)
	}
	for range 2 { // as long again as a stream without settings lives, and once more
		if _, err := p.telemetry().Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("without settings: %v", err)
		}
	}
	settle(t, talking)
	if n := v.Connections(GRPC); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func (p *producer) telemetry() pb.MessagingService_TelemetryClient {
	p.t.Helper()
	stream, err := p.Telemetry(calling(p.t))
	if err != nil {
		p.t.Fatal(err)
	}
	return stream
}

// settle exchanges settings.
func settle(t *testing.T, stream pb.MessagingService_TelemetryClient) {
	t.Helper()
	mine := &pb.Settings{PubSub: &pb.Settings_Publishing{Publishing: &pb.Publishing{}}}
	if err := stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: mine}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
}

// TestGRPCManyStreams: a connection has a few Telemetry streams only.
func TestGRPCManyStreams(t *testing.T) {
	v := newRig(t, rigOptions{})
	p := v.producer()
	var streams []pb.MessagingService_TelemetryClient
	for range maxTelemetry {
		s := p.telemetry()
		settle(t, s)
		streams = append(streams, s)
	}
	if _, err := p.telemetry().Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "16 Telemetry streams") {
		t.Errorf("one more: %v", err)
	}
	for _, s := range streams[:2] { // the room is for others then
		_ = s.CloseSend()
		if _, err := s.Recv(); err != io.EOF {
			t.Error(err)
		}
	}
	settle(t, p.telemetry())
	settle(t, streams[2])
	settle(t, v.producer().telemetry())
}

// TestGRPCBatchSize: of more messages than remoting takes, nothing is made.
func TestGRPCBatchSize(t *testing.T) {
	v := newRig(t, rigOptions{})
	list := make([]*pb.Message, maxBatch+1)
	for i := range list {
		list[i] = &pb.Message{}
	}
	p := v.producer()
	r := p.send(calling(t), list...)
	wants(t, r.Status, pb.Code_MESSAGE_BODY_TOO_LARGE, "more than 10000 messages")
	if len(r.Entries) > 0 || v.Stats.Refuses[GRPC].Load() != 1 {
		t.Errorf("%d entries, %d refusals counted", len(r.Entries), v.Stats.Refuses[GRPC].Load())
	}
	r = p.send(calling(t), list[1:]...)
	wants(t, r.Status, pb.Code_ILLEGAL_TOPIC, "empty")
	if len(r.Entries) != maxBatch {
		t.Errorf("%d entries", len(r.Entries))
	}
	var request [][]byte
	tiny := bytes.Repeat([]byte{0x0a, 0}, 1<<20)
	if made := testing.AllocsPerRun(1, func() { request, _ = decodeSend(nil, tiny) }); made > 0 || request != nil {
		t.Errorf("%.0f allocations for a batch that is refused", made)
	}
	var m grpcMessage
	if err := m.decode(bytes.Repeat([]byte{0x12, 0}, maxProperties)); err != nil {
		t.Error(err)
	}
	if err := m.decode(bytes.Repeat([]byte{0x12, 0}, maxProperties+1)); !errors.Is(err, errProperties) {
		t.Errorf("one property more: %v", err)
	}
}

// TestGRPCInflating: bodies are decompressed when there is room, others need none.
func TestGRPCInflating(t *testing.T) {
	v := newRig(t, rigOptions{core: func(o *broker.Options) { o.StoreAfter = time.Hour }})
	d := v.device("online", true)
	d.mute = true // sends wait
	p := v.producer()
	var free []func()
	for range cap(v.inflate) {
		free = append(free, v.inflating())
	}
	zip := func(body string) *pb.Message {
		m := message("/p2p/online", body)
		m.SystemProperties.BodyEncoding = pb.Encoding_GZIP
		m.Body = gzipped([]byte(body))
		return m
	}
	var sends sync.WaitGroup
	send := func(m ...*pb.Message) {
		sends.Go(func() { wants(t, p.send(calling(t), m...).Status, pb.Code_OK, "") })
	}
	send(message("/p2p/online", "plain first"), zip("zipped"), zip("and more"))
	d.quiet()
	send(message("/p2p/online", "plain"))
	if got := d.next(); got.payload != "plain" {
		t.Errorf("delivered %q", got.payload)
	}
	for _, done := range free {
		done()
	}
	for _, want := range []string{"plain first", "zipped", "and more"} {
		if got := d.next(); got.payload != want {
			t.Errorf("delivered %q, want %q", got.payload, want)
		}
	}
	// The room is free again, though the sends wait for their answers.
	for range cap(v.inflate) {
		send(zip("again"))
		d.next()
	}
	send(zip("once more"))
	d.next()
	v.core.Drain(patience)
	sends.Wait()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b)
	_ = z.Close()
	return out.Bytes()
}

// TestGRPCUnserved: every method of the service gets an answer, and none hangs.
func TestGRPCUnserved(t *testing.T) {
	v := newRig(t, rigOptions{})
	p := v.producer()
	unary, streams := 0, 0
	for _, m := range pb.MessagingService_ServiceDesc.Methods {
		r := new(pb.UnsupportedResponse)
		if err := p.conn.Invoke(calling(t), "/apache.rocketmq.v2.MessagingService/"+m.MethodName, &pb.UnsupportedRequest{}, r); err != nil {
			t.Errorf("%s: %v", m.MethodName, err)
		}
		if r.Status.GetCode() == pb.Code_UNSUPPORTED {
			wants(t, r.Status, pb.Code_UNSUPPORTED, "producers only")
			unary++
		}
	}
	for _, m := range pb.MessagingService_ServiceDesc.Streams {
		if m.StreamName == "Telemetry" {
			continue
		}
		stream, err := p.conn.NewStream(calling(t), &m, "/apache.rocketmq.v2.MessagingService/"+m.StreamName)
		if err != nil {
			t.Fatal(err)
		}
		r := new(pb.UnsupportedResponse)
		if err := errors.Join(stream.SendMsg(&pb.UnsupportedRequest{}), stream.CloseSend(), stream.RecvMsg(r)); err != nil {
			t.Errorf("%s: %v", m.StreamName, err)
		}
		wants(t, r.Status, pb.Code_UNSUPPORTED, "producers only")
		if err := stream.RecvMsg(r); err != io.EOF {
			t.Errorf("%s: %v", m.StreamName, err)
		}
		streams++
	}
	if unary != 10 || streams != 2 {
		t.Errorf("%d methods and %d streams are not served", unary, streams)
	}
	err := p.conn.Invoke(calling(t), "/apache.rocketmq.v2.MessagingService/FromTheFuture", &pb.UnsupportedRequest{}, &pb.UnsupportedResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
	r, err := p.Heartbeat(calling(t), &pb.HeartbeatRequest{ClientType: pb.ClientType_PUSH_CONSUMER})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, r.Status, pb.Code_UNSUPPORTED, "no RocketMQ consumers")
	bye, err := p.NotifyClientTermination(calling(t), &pb.NotifyClientTerminationRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wants(t, bye.Status, pb.Code_OK, "")
}

// TestGRPCPanic: a panic ends one call.
func TestGRPCPanic(t *testing.T) {
	log := new(lockedBuffer)
	v := newRig(t, rigOptions{server: func(o *Options) { o.Auth, o.Log = keys{"AK": "secret"}, slog.New(slog.NewTextHandler(log, nil)) }})
	d := v.device("online", false)
	p := v.producer()
	wants(t, p.send(calling(t, sign("panic", "", "20260102T030405Z", false)...), message("/p2p/online", "first")).Status, pb.Code_INTERNAL_SERVER_ERROR, "a bug")
	wants(t, p.send(calling(t, sign("AK", "secret", "20260102T030405Z", false)...), message("/p2p/online", "second")).Status, pb.Code_OK, "")
	if g := d.next(); g.payload != "second" || len(d.got) != 0 {
		t.Errorf("the device gets %q, and %d more", g.payload, len(d.got))
	}
	if n := v.Stats.Accepted[GRPC].Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := v.Stats.Panics.Load(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
	if log := log.String(); strings.Count(log, "as asked for") != 1 || !strings.Contains(log, "AuthenticateRequest") {
		t.Errorf("log: %s", log)
	}
}

func TestGRPCLimits(t *testing.T) {
	log := new(lockedBuffer)
	v := newRig(t, rigOptions{server: func(o *Options) { o.PerAddress, o.Log = 2, slog.New(slog.NewTextHandler(log, nil)) }})
	dialFor := func(wait time.Duration) (net.Conn, bool) {
		nc, err := net.Dial("tcp", v.grpc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetReadDeadline(time.Now().Add(wait))
		_, err = nc.Read(make([]byte, 1))
		return nc, isTimeout(err)
	}
	dial := func() (net.Conn, bool) { return dialFor(200 * time.Millisecond) }
	first, open := dial()
	if _, second := dial(); !open || !second {
		t.Fatal("refused within the limit")
	}
	if _, open := dialFor(10 * time.Second); open { // it waits a moment for a place
		t.Error("over the limit")
	}
	_ = first.Close()
	v.waitFor("a connection that has gone does not count", func() bool { _, open := dial(); return open })
	if v.Stats.OverLimit[GRPC].Load() == 0 || !strings.Contains(log.String(), "connection limit reached") {
		t.Error("nobody learns of it")
	}
}

// TestGRPCShutdown: what was taken is answered, what comes then is refused, and
// open streams do not hold the server up.
func TestGRPCShutdown(t *testing.T) {
	v := newRig(t, rigOptions{core: func(o *broker.Options) { o.StoreAfter = time.Hour }})
	d := v.device("online", true)
	d.mute = true // the send waits
	p := v.producer()
	stream, err := p.Telemetry(calling(t))
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan *pb.SendMessageResponse, 1)
	go func() {
		r, err := p.SendMessage(calling(t), &pb.SendMessageRequest{Messages: []*pb.Message{message("/p2p/online", "x")}})
		if err != nil {
			t.Error(err)
		}
		answers <- r
	}()
	d.next()
	select {
	case r := <-answers:
		t.Fatalf("answered before it was safe: %v", r)
	case <-time.After(50 * time.Millisecond):
	}
	v.closing.Store(true)
	wants(t, p.send(calling(t), message("/p2p/online", "y")).Status, pb.Code_HA_NOT_AVAILABLE, "shutting down")
	v.closing.Store(false)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := v.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	wants(t, (<-answers).GetStatus(), pb.Code_OK, "")
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), errClosing.Text) {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestGRPCDeadline: the outcome of a call whose client has stopped waiting is not
// taken for that of a later one.
func TestGRPCDeadline(t *testing.T) {
	const storeAfter = time.Second
	v := newRig(t, rigOptions{core: func(o *broker.Options) { o.StoreAfter = storeAfter }})
	p := v.producer()
	var sends sync.WaitGroup
	send := func(ctx context.Context, id string, check func(*pb.SendMessageResponse, error, time.Duration)) {
		d := v.device(id, true)
		d.mute = true
		sends.Go(func() {
			begin := time.Now()
			r, err := p.SendMessage(ctx, &pb.SendMessageRequest{Messages: []*pb.Message{message("/p2p/"+id, "x")}})
			check(r, err, time.Since(begin))
		})
	}
	ctx, cancel := context.WithTimeout(calling(t), storeAfter/2)
	defer cancel()
	for i := range 16 {
		send(ctx, fmt.Sprint("early", i), func(_ *pb.SendMessageResponse, err error, _ time.Duration) {
			if status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%v", err)
			}
		})
	}
	sends.Wait()
	for i := range 16 {
		send(calling(t), fmt.Sprint("later", i), func(r *pb.SendMessageResponse, err error, took time.Duration) {
			if err != nil || r.Status.Code != pb.Code_OK || took < storeAfter*3/4 {
				t.Errorf("answered after %v: %v %v", took, r, err)
			}
		})
	}
	sends.Wait()
}

// greeted begins a connection with some bytes.
func (r *rig) greeted(greeting string) net.Conn {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.grpc)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { nc.Close() })
	if _, err := nc.Write([]byte(greeting)); err != nil {
		r.t.Fatal(err)
	}
	return nc
}

// opening counts the connections whose handshake is under way.
func (r *rig) opening() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.Server.grpc.opening)
}

func (r *rig) waitFor(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("%s: not so after %v", what, patience)
		}
	}
}

// emptySettings is a frame of HTTP/2.
const emptySettings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// TestGRPCShutdownStalled: clients that do nothing do not hold the end up.
func TestGRPCShutdownStalled(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00"
	for name, greetings := range map[string][]string{
		"handshake":   {"", "PRI", hello, http2Greeting},
		"reads not":   {http2Greeting + emptySettings},
		"sends stall": nil,
	} {
		t.Run(name, func(t *testing.T) {
			log := new(lockedBuffer)
			v := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(log, nil))})
			for _, g := range greetings {
				v.greeted(g)
			}
			limit := farewellTime + 2*time.Second
			switch name {
			case "handshake":
				v.waitFor("all are known", func() bool { return v.opening() == len(greetings) })
				limit = farewellTime * 9 / 10
			case "reads not":
				v.waitFor("it is accepted", func() bool { return v.Stats.Accepted[GRPC].Load() == 1 && v.opening() == 0 })
			default:
				if _, err := v.producer().conn.NewStream(calling(t), &grpc.StreamDesc{ClientStreams: true}, pb.MessagingService_SendMessage_FullMethodName); err != nil {
					t.Fatal(err)
				}
				v.waitFor("the call is there", func() bool { return v.Stats.Requests[GRPC].Load() == 1 })
			}
			begin := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := v.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > limit {
				t.Errorf("it took %v", took)
			}
			if n := v.Connections(GRPC); n != 0 || v.opening() != 0 {
				t.Errorf("%d connections, %d opening", n, v.opening())
			}
			if log.String() != "" {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// TestGRPCNoHandshake: who does not speak the protocol leaves a line.
func TestGRPCNoHandshake(t *testing.T) {
	log := new(lockedBuffer)
	v := newRig(t, rigOptions{log: slog.New(slog.NewTextHandler(log, nil))})
	closed := func(nc net.Conn) {
		t.Helper()
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(nc); isTimeout(err) {
			t.Errorf("not closed: %v", err)
		}
	}
	lines := 0
	logged := func(nc net.Conn, reason string) {
		t.Helper()
		lines++
		v.waitFor("there are lines in the log", func() bool { return strings.Count(log.String(), "\n") == lines })
		last := log.String()
		last = last[strings.LastIndex(last[:len(last)-1], "\n")+1:]
		for _, part := range []string{"level=INFO", `msg="RocketMQ connection closed"`, "remote=" + nc.LocalAddr().String(), "transport=rocketmq-grpc", "reason=", reason} {
			if !strings.Contains(last, part) {
				t.Errorf("no %s in %s", part, last)
			}
		}
	}
	for greeting, reason := range map[string]string{
		"\x00\x00\x00\x10\x00\x00\x00\x0c":             "the client speaks RocketMQ remoting; this port serves gRPC (HTTP/2 or TLS; listen.rocketmq is for remoting)",
		"POST / HTTP/1.1\r\nHost: example.org\r\n\r\n": "the client speaks HTTP; this port serves gRPC",
		"\x16\x03\x01\x00\x05hello":                    "TLS: ",
	} {
		nc := v.greeted(greeting)
		closed(nc)
		logged(nc, reason)
	}
	half := v.greeted("PRI * HTTP")
	_ = half.(*net.TCPConn).CloseWrite()
	closed(half)
	logged(half, "HTTP/2: unexpected EOF")
	nc := v.greeted("")
	picky := tls.Client(nc, &tls.Config{ServerName: "somewhere.example.org", NextProtos: []string{"h2"}})
	if err := picky.Handshake(); err == nil {
		t.Error("trusts anybody")
	}
	logged(nc, "bad certificate")
	// Who only looks leaves none.
	v.greeted("").Close()
	v.waitFor("all have gone", func() bool { return v.Stats.Accepted[GRPC].Load() == uint64(lines)+1 && v.Connections(GRPC) == 0 })
	if n := strings.Count(log.String(), "\n"); n != lines {
		t.Errorf("log: %s", log)
	}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGRPCBodies(t *testing.T) {
	text := []byte(strings.Repeat("body ", 100))
	zipped := func(w func(io.Writer) io.WriteCloser, b []byte) []byte {
		var out bytes.Buffer
		z := w(&out)
		_, _ = z.Write(b)
		_ = z.Close()
		return out.Bytes()
	}
	gz := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	zl := func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }
	digest := func(t pb.DigestType, sum string) *pb.Digest { return &pb.Digest{Type: t, Checksum: sum} }
	crc, md, sha := fmt.Sprintf("%X", crc32.ChecksumIEEE(text)), fmt.Sprintf("%X", md5.Sum(text)), fmt.Sprintf("%x", sha1.Sum(text))
	small := []byte("0") // what it becomes has a CRC32 that begins with a zero
	for i := 0; crc32.ChecksumIEEE(small) >= 1<<28; i++ {
		small = strconv.AppendInt(nil, int64(i), 10)
	}
	for _, c := range []struct {
		name   string
		body   []byte
		system *pb.SystemProperties
		want   []byte
		code   pb.Code
	}{
		{"nothing said", text, nil, text, 0},
		{"gzip", zipped(gz, text), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, text, 0},
		{"zlib", zipped(zl, text), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, text, 0},
		{"gzip bomb", zipped(gz, make([]byte, 1001)), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, nil, pb.Code_MESSAGE_BODY_TOO_LARGE},
		{"zlib bomb", zipped(zl, make([]byte, 1001)), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, nil, pb.Code_MESSAGE_BODY_TOO_LARGE},
		{"gzip at the limit", zipped(gz, make([]byte, 1000)), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, make([]byte, 1000), 0},
		{"damaged gzip", zipped(gz, text)[:20], &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"no gzip", text, &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"gzip header only", []byte{0x1f, 0x8b}, &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"unknown encoding", text, &pb.SystemProperties{BodyEncoding: 9}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"CRC32", text, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_CRC32, crc)}, text, 0},
		{"CRC32 in small letters", text, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_CRC32, strings.ToLower(crc))}, text, 0},
		{"CRC32 without its zeros", small, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_CRC32, fmt.Sprintf("%X", crc32.ChecksumIEEE(small)))}, small, 0},
		{"MD5", text, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_MD5, md)}, text, 0},
		{"SHA1", text, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_SHA1, sha)}, text, 0},
		{"unknown digest", text, &pb.SystemProperties{BodyDigest: digest(99, sha)}, text, 0},
		{"wrong CRC32", small, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_CRC32, crc)}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"wrong MD5", small, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_MD5, md)}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"wrong SHA1", small, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_SHA1, sha)}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"no sum", text, &pb.SystemProperties{BodyDigest: digest(pb.DigestType_SHA1, "")}, nil, pb.Code_MESSAGE_CORRUPTED},
		{"the sum of what travelled", zipped(gz, text), &pb.SystemProperties{BodyEncoding: pb.Encoding_GZIP, BodyDigest: digest(pb.DigestType_MD5, fmt.Sprintf("%X", md5.Sum(zipped(gz, text))))}, text, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m grpcMessage
			if err := m.decode(encode(t, &pb.Message{Body: c.body, SystemProperties: c.system})); err != nil {
				t.Fatal(err)
			}
			got, err := takeBody(&m, 1000)
			if c.code != 0 {
				if err == nil || told(err).grpc != c.code {
					t.Errorf("error %v, want %v", err, c.code)
				}
				return
			}
			if err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// The bodies of one request are bounded in all, also when they are small as they
// come.
func TestGRPCBodiesInAll(t *testing.T) {
	v := newRig(t, rigOptions{})
	d := v.device("online", false)
	var list []*pb.Message
	for range 3 * maxBodies {
		m := message("/p2p/online", "")
		m.Body = gzipped(make([]byte, v.opt.BodySize/2))
		m.SystemProperties.BodyEncoding = pb.Encoding_GZIP
		m.SystemProperties.BodyDigest = nil
		list = append(list, m)
	}
	r := v.producer().send(calling(t), list...)
	wants(t, r.Status, pb.Code_MULTIPLE_RESULTS, "")
	for i, e := range r.Entries {
		if i < 2*maxBodies {
			wants(t, e.Status, pb.Code_OK, "")
			d.next()
		} else {
			wants(t, e.Status, pb.Code_MESSAGE_BODY_TOO_LARGE, "in all")
		}
	}
	d.nothing()
}
