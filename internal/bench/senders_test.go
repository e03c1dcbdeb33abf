package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// front takes messages of RocketMQ producers for a faulty server.
type front struct {
	pb.UnimplementedMessagingServiceServer
	*faulty
	secret string // of the access key AK; "": requests must not be signed

	mu       sync.Mutex
	ids      map[string]bool // of messages
	conns    []net.Conn
	shown    []string // properties, without the ID, of the last message
	goodbyes int
}

// newFront starts one; it ends with the test.
func newFront(s *faulty, via Via) (*front, Senders) {
	f := &front{faulty: s, ids: make(map[string]bool)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	if via == ViaGRPC {
		server := grpc.NewServer()
		pb.RegisterMessagingServiceServer(server, f)
		s.wg.Go(func() { _ = server.Serve(l) })
		s.t.Cleanup(server.Stop)
	} else {
		s.wg.Go(func() { f.accept(l) })
		s.t.Cleanup(func() { l.Close() })
	}
	return f, Senders{Via: via, Address: l.Addr().String()}
}

func (f *front) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, nc)
		f.mu.Unlock()
		f.wg.Go(func() {
			defer nc.Close()
			for r := bufio.NewReader(nc); f.command(nc, r) == nil; {
			}
		})
	}
}

// command answers one command of remoting.
func (f *front) command(nc net.Conn, r io.Reader) error {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(r, frame); err != nil {
		return err
	}
	frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame))...)
	if _, err := io.ReadFull(r, frame[4:]); err != nil {
		return err
	}
	got, _, _, err := rocketmq.Split(frame, len(frame))
	var c rocketmq.Command
	var h rocketmq.SendHeader
	if err == nil {
		err = c.Decode(got.Serialize, got.Header)
	}
	if err == nil {
		err = h.Decode(rocketmq.RequestCode(c.Code), c.Ext)
	}
	if err == nil {
		err = rocketmq.CheckProperties(h.Properties)
	}
	if err != nil {
		f.t.Error(err)
		return err
	}
	if signed := c.Ext.Get(rocketmq.KeySignature) != nil; signed != (f.secret != "") || signed && !rocketmq.Verify([]byte(f.secret), c.Ext, got.Body) {
		f.t.Errorf("signed: %v", signed)
	}
	born := time.UnixMilli(h.BornTimestamp)
	if rocketmq.RequestCode(c.Code) != rocketmq.SendMessageV2 || string(h.ProducerGroup) == "" || time.Since(born).Abs() > time.Minute {
		f.t.Errorf("request %+v", h)
	}
	properties := make(map[string]string)
	for k, v := range rocketmq.Properties(h.Properties) {
		properties[string(k)] = string(v)
	}
	if properties["WAIT"] != "true" || len(properties["UNIQ_KEY"]) != 32 {
		f.t.Errorf("properties %q", properties)
	}
	m := f.message(string(h.Topic), properties["UNIQ_KEY"], properties, got.Body)
	if m.QoS == 0 != c.IsOneway() {
		f.t.Errorf("QoS %d, oneway %v", m.QoS, c.IsOneway())
	}
	code := rocketmq.Success
	switch f.route(m) {
	case ignore:
		return nil
	case refuse:
		code = rocketmq.ConsumerNotOnline
	}
	if c.IsOneway() {
		return nil
	}
	answer := rocketmq.Command{Code: int32(code), Opaque: c.Opaque, Flag: rocketmq.FlagResponse}
	_, err = nc.Write(answer.Append(nil, got.Serialize, nil))
	return err
}

// message is a message for the faulty server.
func (f *front) message(parent, id string, properties map[string]string, body []byte) *mqtt.Publish {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ids[id] {
		f.t.Errorf("two messages with ID %s", id)
	}
	f.ids[id] = true
	m := &mqtt.Publish{Topic: []byte(parent + properties["mqttSecondTopic"]), QoS: 1, Payload: body}
	f.shown = nil
	for _, key := range []string{"qoslevel", "cleansessionflag"} {
		if value, ok := properties[key]; ok {
			f.shown = append(f.shown, key+"="+value)
		}
	}
	if q := properties["qoslevel"]; q != "" {
		m.QoS = q[0] - '0'
	}
	return m
}

// Telemetry answers settings.
func (f *front) Telemetry(stream pb.MessagingService_TelemetryServer) error {
	for {
		c, err := stream.Recv()
		if err != nil {
			return err
		}
		if c.GetSettings().GetPublishing() == nil {
			f.t.Errorf("telemetry: %v", c)
		}
		if err := stream.Send(c); err != nil {
			return err
		}
	}
}

// SendMessage takes a message.
func (f *front) SendMessage(ctx context.Context, r *pb.SendMessageRequest) (*pb.SendMessageResponse, error) {
	f.look(ctx)
	m, system := r.Messages[0], r.Messages[0].SystemProperties
	if len(system.MessageId) != 34 || system.BodyDigest.Checksum != fmt.Sprintf("%X", crc32.ChecksumIEEE(m.Body)) {
		f.t.Errorf("system properties %v", system)
	}
	code := pb.Code_OK
	switch f.route(f.message(m.Topic.Name, system.MessageId, m.UserProperties, m.Body)) {
	case ignore:
		<-ctx.Done()
		return nil, ctx.Err()
	case refuse:
		code = pb.Code_NOT_FOUND
	}
	return &pb.SendMessageResponse{Status: &pb.Status{Code: code}}, nil
}

// NotifyClientTermination counts farewells.
func (f *front) NotifyClientTermination(context.Context, *pb.NotifyClientTerminationRequest) (*pb.NotifyClientTerminationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.goodbyes++
	return new(pb.NotifyClientTerminationResponse), nil
}

// look checks the metadata of a call.
func (f *front) look(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get("x-mq-client-id")) != 1 || len(md.Get("x-mq-date-time")) != 1 {
		f.t.Errorf("metadata %v", md)
	}
	signature := strings.Join(md.Get("authorization"), "")
	if (signature != "") != (f.secret != "") || signature != "" && !strings.HasPrefix(signature, "MQv2-HMAC-SHA1 Credential=AK, SignedHeaders=x-mq-date-time, Signature=") {
		f.t.Errorf("authorization %q", signature)
	}
}

var rocketVias = []Via{ViaRemoting, ViaGRPC}

func TestP2PVia(t *testing.T) {
	for _, via := range rocketVias {
		for qos := range byte(3) {
			t.Run(fmt.Sprintf("%s QoS %d", via, qos), func(t *testing.T) {
				s := newFaulty(t, perfect)
				b := newP2P(s)
				f, senders := newFront(s, via)
				b.QoS, b.Senders, b.Keep = qos, senders, qos == 2
				if qos == 1 {
					f.secret = "SK"
					b.Senders.AccessKey, b.Senders.Secret = "AK", "SK"
				}
				r, err := b.Run(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if r.Sent < 10 || r.Received != r.Sent || r.Lost+r.Duplicated+r.Unacknowledged+r.Foreign != 0 || r.Faults() != "" || r.Via != via {
					t.Errorf("report: %+v", r)
				}
				if (qos > 0) != (r.Ack.Count > 0) || r.Latency.Count == 0 {
					t.Errorf("%d acknowledgements and %d arrivals measured", r.Ack.Count, r.Latency.Count)
				}
				want := [...]string{"[qoslevel=0]", "[]", "[qoslevel=2 cleansessionflag=false]"}[qos]
				if got := fmt.Sprint(f.shown); got != want {
					t.Errorf("properties %s, want %s", got, want)
				}
				if via == ViaGRPC && f.goodbyes != b.Pairs {
					t.Errorf("%d farewells", f.goodbyes)
				}
			})
		}
	}
}

// With one message under way at a time, faults are counted as with MQTT.
func TestP2PViaCountsFaults(t *testing.T) {
	for via, refusal := range map[Via]string{ViaRemoting: "206 CONSUMER_NOT_ONLINE", ViaGRPC: "40400 NOT_FOUND"} {
		t.Run(string(via), func(t *testing.T) {
			s := newFaulty(t, func(h header) fault {
				return map[uint64]fault{3: drop, 5: duplicate, 7: delay, 11: refuse, 13: damage}[h.seq%20]
			})
			b := newP2P(s)
			_, b.Senders = newFront(s, via)
			b.Window, b.Patience = 1, 100*time.Millisecond
			r, err := b.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held := s.held()
			if s.count(damage) == 0 || r.Lost != s.count(drop)+s.count(damage)+held || r.Duplicated != s.count(duplicate) ||
				r.OutOfOrder != s.count(delay)-held || r.Refused[refusal] != s.count(refuse) || !strings.Contains(r.Faults(), "out of order") {
				t.Errorf("report %+v, the server did %v", r, s.counts)
			}
			r.Window = 2
			if got := strings.Contains(r.Faults(), "out of order"); got != (via == ViaRemoting) {
				t.Errorf("order of sends under way together: %s", r.Faults())
			}
		})
	}
}

func TestP2PViaEndsEarly(t *testing.T) {
	for _, via := range rocketVias {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { // speaks something else
			defer close(done)
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = nc.Write([]byte("220 mail.example.com ESMTP\r\n"))
				_ = nc.Close()
			}
		}()
		b := newP2P(newFaulty(t, perfect))
		b.Duration = time.Minute
		b.Senders = Senders{Via: via, Address: l.Addr().String()}
		if _, err := b.Run(t.Context()); err == nil {
			t.Errorf("%s to another server: no error", via)
		}
		l.Close()
		<-done
		if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "connect sender") {
			t.Errorf("%s to nobody: %v", via, err)
		}
	}
	var f *front
	s := newFaulty(t, func(h header) fault {
		if h.seq == 20 {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.conns[0].Close()
		}
		return none
	})
	b := newP2P(s)
	b.Duration = time.Minute
	f, b.Senders = newFront(s, ViaRemoting)
	if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "connection ended") {
		t.Errorf("run: %v", err)
	}
	b.Senders.Via = "smtp"
	if _, err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `"smtp"`) {
		t.Errorf("run: %v", err)
	}
}
