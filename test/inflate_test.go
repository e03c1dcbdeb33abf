package test

import (
	"bytes"
	"compress/gzip"
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/homing-mq/homing/internal/mqtt"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// TestInflateRate: who is over rocketmq.inflate-rate is told so, the message is
// counted, and what is not compressed goes on.
func TestInflateRate(t *testing.T) {
	t.Parallel()
	s := newServer(t, "rocketmq.inflate-rate=1")
	s.addr["rocketmq-grpc"] = "127.0.0.1:0"
	s.start()
	dev := s.connect(mqtt.V5, "dev", clean)
	conn, err := grpc.NewClient("passthrough:///"+s.addr["rocketmq-grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(body []byte, encoding pb.Encoding) pb.Code {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		m := &pb.Message{
			Topic: &pb.Resource{Name: "devices"}, Body: body, UserProperties: map[string]string{"mqttSecondTopic": "/p2p/dev"},
			SystemProperties: &pb.SystemProperties{BodyEncoding: encoding},
		}
		answer, err := pb.NewMessagingServiceClient(conn).SendMessage(metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", "producer"), &pb.SendMessageRequest{Messages: []*pb.Message{m}})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetStatus().GetCode()
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	before := s.dropped("too_large")
	if code := send(zipped.Bytes(), pb.Encoding_GZIP); code != pb.Code_OK {
		t.Errorf("the first body: %v", code)
	}
	if m := dev.message(); len(m.Payload) != 1<<20 {
		t.Errorf("%d bytes arrive", len(m.Payload))
	}
	if code := send(zipped.Bytes(), pb.Encoding_GZIP); code != pb.Code_TOO_MANY_REQUESTS {
		t.Errorf("the second body: %v", code)
	}
	if code := send([]byte("plain"), pb.Encoding_IDENTITY); code != pb.Code_OK {
		t.Errorf("a plain body: %v", code)
	}
	dev.wants("devices/p2p/dev", "plain", 1)
	if n := s.dropped("too_large") - before; n != 1 {
		t.Errorf("%d messages counted as too_large", n)
	}
	if n := s.metric("homing_rocketmq_inflated_bytes_total"); n != 1<<20 {
		t.Errorf("the metric says %v bytes", n)
	}
	if n := s.metric("homing_rocketmq_inflate_waits_total"); n == 0 {
		t.Error("no wait is counted")
	}
	if n := s.metric(`homing_rocketmq_refused_total{protocol="grpc",reason="resets"}`); n != 0 {
		t.Errorf("%v connections closed for resets", n)
	}
}
