package bench

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"fmt"
	"hash/crc32"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/homing-mq/homing/internal/mqtt"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// grpcSender is a sender that is a RocketMQ producer of the gRPC protocol. It
// sends what the Java SDK sends for each message. Each call has a goroutine of
// its own: calls that are under way at the same time may overtake each other.
type grpcSender struct {
	conn    *grpc.ClientConn
	service pb.MessagingServiceClient
	options *Senders
	client  string // ID
	errand  errand
	ctx     context.Context // of all calls
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu   sync.Mutex // guards the fields below
	id   messageID
	free []*grpcSend
	err  error // why nothing can be sent any more
}

// grpcSend is one call's request, to be used again.
type grpcSend struct {
	request pb.SendMessageRequest
	message *pb.Message
}

// callTime is how long a call may take; its server is told.
const callTime = 10 * time.Second

// dialGRPC connects a producer that sends messages like m.
func dialGRPC(ctx context.Context, o *Senders, clientID string, m *mqtt.Publish, keep bool) (sender, error) {
	conn, err := grpc.NewClient("passthrough:///"+o.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	s := &grpcSender{
		conn: conn, service: pb.NewMessagingServiceClient(conn), options: o, client: clientID, errand: newErrand(m, keep), id: newMessageID("01", 34),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	ready := make(chan error, 1)
	s.wg.Go(func() { s.fail(s.telemetry(ready)) })
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// telemetry tells the server what this client is and waits for its settings, as
// the SDKs do before they send; ready gets the outcome. Then it waits for the end
// of the stream.
func (s *grpcSender) telemetry(ready chan<- error) error {
	stream, err := s.service.Telemetry(s.signed(s.ctx, 0))
	if err == nil {
		kind := pb.ClientType_PRODUCER
		err = stream.Send(&pb.TelemetryCommand{Command: &pb.TelemetryCommand_Settings{Settings: &pb.Settings{
			ClientType: &kind, PubSub: &pb.Settings_Publishing{Publishing: &pb.Publishing{Topics: []*pb.Resource{{Name: s.errand.parent}}}},
		}}})
	}
	if err == nil {
		var answer *pb.TelemetryCommand
		if answer, err = stream.Recv(); err == nil && answer.GetSettings() == nil {
			err = fmt.Errorf("no settings: %s", refusalOf(answer.GetStatus()))
		}
	}
	ready <- err
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

// signed returns a context with the metadata of the n-th call.
func (s *grpcSender) signed(ctx context.Context, n uint32) context.Context {
	date := time.Now().UTC().Format("20060102T150405Z")
	pairs := []string{
		"x-mq-client-id", s.client, "x-mq-language", "JAVA", "x-mq-protocol", "v2", "x-mq-client-version", "5.0.7",
		"x-mq-request-id", fmt.Sprintf("%s-%08x", s.client, n), "x-mq-date-time", date,
	}
	if s.options.AccessKey != "" {
		mac := hmac.New(sha1.New, []byte(s.options.Secret))
		mac.Write([]byte(date))
		pairs = append(pairs, "authorization", fmt.Sprintf("MQv2-HMAC-SHA1 Credential=%s, SignedHeaders=x-mq-date-time, Signature=%X", s.options.AccessKey, mac.Sum(nil)))
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

func (s *grpcSender) enqueue(m *mqtt.Publish, t *token) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	c := s.newSend()
	system := c.message.SystemProperties
	system.MessageId = string(s.id.next())
	system.BodyDigest.Checksum = fmt.Sprintf("%X", crc32.ChecksumIEEE(m.Payload))
	c.message.Body = append(c.message.Body[:0], m.Payload...)
	ctx, cancel := context.WithTimeout(s.signed(s.ctx, s.id.n), callTime)
	s.wg.Go(func() {
		defer cancel()
		s.send(ctx, c, t)
	})
	return nil
}

// newSend returns a request to fill in. mu is held.
func (s *grpcSender) newSend() *grpcSend {
	if n := len(s.free); n > 0 {
		c := s.free[n-1]
		s.free = s.free[:n-1]
		return c
	}
	tag := "bench"
	c := &grpcSend{message: &pb.Message{
		Topic: &pb.Resource{Name: s.errand.parent}, UserProperties: make(map[string]string),
		SystemProperties: &pb.SystemProperties{
			Tag: &tag, BodyDigest: &pb.Digest{Type: pb.DigestType_CRC32}, BodyEncoding: pb.Encoding_IDENTITY, MessageType: pb.MessageType_NORMAL,
		},
	}}
	for _, p := range s.errand.properties {
		c.message.UserProperties[p[0]] = p[1]
	}
	// born_timestamp and born_host, which no server of ours looks at.
	born := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(time.Now().Unix()))
	system := protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), born)
	system = protowire.AppendString(protowire.AppendTag(system, 8, protowire.BytesType), "backend-1")
	c.message.SystemProperties.ProtoReflect().SetUnknown(system)
	c.request.Messages = []*pb.Message{c.message}
	return c
}

// send calls the server.
func (s *grpcSender) send(ctx context.Context, c *grpcSend, t *token) {
	answer, err := s.service.SendMessage(ctx, &c.request)
	s.mu.Lock()
	s.free = append(s.free, c)
	s.mu.Unlock()
	if err != nil {
		s.fail(err)
		return
	}
	if t != nil {
		t.acknowledged(outcomeOf(answer))
	}
}

// outcomeOf returns why a message was refused; "": it was not.
func outcomeOf(answer *pb.SendMessageResponse) string {
	if refusal := refusalOf(answer.GetStatus()); refusal != "" || len(answer.GetEntries()) == 0 {
		return refusal
	}
	return refusalOf(answer.Entries[0].GetStatus())
}

func refusalOf(status *pb.Status) string {
	if status.GetCode() == pb.Code_OK {
		return ""
	}
	return fmt.Sprintf("%d %v", status.GetCode(), status.GetCode())
}

// Flush does nothing: calls leave by themselves.
func (*grpcSender) Flush() {}

// fail notes the first error.
func (s *grpcSender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *grpcSender) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *grpcSender) leave(ctx context.Context) {
	_, _ = s.service.NotifyClientTermination(s.signed(ctx, 0), new(pb.NotifyClientTerminationRequest)) // it may be gone already
	s.end()
}

// end ends the connection.
func (s *grpcSender) end() {
	s.fail(net.ErrClosed)
	s.cancel()
	_ = s.conn.Close()
	s.wg.Wait()
}
