package rocketmqserver

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// sending is the state of a SendMessage call: its messages are settled in any
// order, by any goroutine.
type sending struct {
	batch   broker.Batch
	part    translation
	codes   []mq.Code // by message; each written once
	left    atomic.Int32
	settled chan struct{} // gets one value when left comes to 0
}

// Complete implements broker.Completer.
func (s *sending) Complete(token uint64, code mq.Code, _ *broker.Batch) {
	s.codes[token&^plainTopic] = settled(token, code)
	s.done()
}

func (s *sending) done() {
	if s.left.Add(-1) == 0 {
		s.settled <- struct{}{}
	}
}

// sendMessage takes the messages of a producer and answers when all of them are
// settled. Each has an outcome of its own.
func sendMessage(c *call) (proto.Message, error) {
	request, who, err := c.takeSend()
	if err != nil {
		c.srv.refused(GRPC, err)
		return nil, err
	}
	errs, err := c.publishAll(request.Messages, who)
	if err != nil {
		return nil, err
	}
	return c.sendAnswer(request.Messages, errs), nil
}

// takeSend reads the request of somebody who may send.
func (c *call) takeSend() (*pb.SendMessageRequest, *mq.Principal, error) {
	if c.srv.closing.Load() {
		return nil, nil, errClosing
	}
	who, err := c.authenticate()
	if err != nil {
		return nil, nil, err
	}
	if err := c.request(c.srv.opt.BodySize + grpcHeadroom); err != nil {
		return nil, nil, err
	}
	request := new(pb.SendMessageRequest)
	if err := c.unmarshal(request); err != nil {
		return nil, nil, err
	}
	if len(request.Messages) == 0 {
		return nil, nil, refuse(outcome{grpc: pb.Code_BAD_REQUEST}, "the request has no messages")
	}
	return request, who, nil
}

// publishAll hands the messages to the core and waits until all are settled. The
// result has the errors of those that were refused before, by message; nil if
// there are none. An error ends the call: its client does not wait any more.
// Then what is under way keeps the call.
func (c *call) publishAll(messages []*pb.Message, who *mq.Principal) (errs []error, err error) {
	s := &c.send
	if s.settled == nil {
		s.settled = make(chan struct{}, 1)
	}
	s.codes = append(s.codes[:0], make([]mq.Code, len(messages))...)
	s.left.Store(int32(len(messages)))
	c.srv.broker.Throttle()
	s.batch.Begin()
	for i, m := range messages {
		s.part.begin(c.srv, s.batch.Now())
		if err := s.part.takeGRPC(m); err != nil {
			if errs == nil {
				errs = make([]error, len(messages))
			}
			errs[i] = err
			s.done()
			continue
		}
		s.part.publish(who, s, uint64(i), &s.batch)
	}
	s.batch.Flush()
	c.release()
	select {
	case <-s.settled:
		return errs, nil
	case <-c.ctx.Done():
		return nil, status.FromContextError(c.ctx.Err()).Err()
	}
}

// sendAnswer makes the answer. The status of the whole is that of every message
// if they are alike: some SDKs look at nothing else.
func (c *call) sendAnswer(messages []*pb.Message, errs []error) *pb.SendMessageResponse {
	answer := &pb.SendMessageResponse{Entries: make([]*pb.SendResultEntry, len(messages))}
	for i, m := range messages {
		code, o := c.send.codes[i], outcomes[c.send.codes[i]]
		switch {
		case errs != nil && errs[i] != nil:
			c.srv.refused(GRPC, errs[i])
			o = told(errs[i])
		default:
			c.srv.Stats.settle(GRPC, code, 1)
		}
		e := &pb.SendResultEntry{Status: statusOf(o), MessageId: m.GetSystemProperties().GetMessageId()}
		if o.grpc == pb.Code_OK {
			e.Offset = c.srv.offset.Add(1)
		}
		answer.Entries[i] = e
		switch {
		case i == 0:
			answer.Status = e.Status
		case answer.Status.Code != o.grpc:
			answer.Status = &pb.Status{Code: pb.Code_MULTIPLE_RESULTS, Message: "the messages have different results; see their entries"}
		}
	}
	return answer
}

// takeGRPC takes a message of the 5.x SDKs.
func (t *translation) takeGRPC(m *pb.Message) error {
	system := m.GetSystemProperties()
	if err := t.takeType(system); err != nil {
		return err
	}
	for key, value := range m.UserProperties {
		if err := t.set([]byte(key), []byte(value)); err != nil {
			return err
		}
	}
	t.id = []byte(system.GetMessageId())
	if keys := system.GetKeys(); len(keys) > 0 {
		t.keys = []byte(strings.Join(keys, " ")) // as remoting has them
	}
	body, err := t.takeBody(m.Body, system)
	if err != nil {
		return err
	}
	return t.finish(t.srv.topicOf(m.Topic), body)
}

// takeType takes what the type of a message demands.
func (t *translation) takeType(system *pb.SystemProperties) error {
	at := system.GetDeliveryTimestamp()
	switch system.GetMessageType() {
	case pb.MessageType_TRANSACTION:
		return errTransaction
	case pb.MessageType_LITE:
		return refuse(unsupported, "lite topics are not supported")
	case pb.MessageType_PRIORITY:
		return refuse(unsupported, "messages with a priority are not supported")
	case pb.MessageType_DELAY:
		if at == nil {
			return refuse(badDelay, "a delayed message without delivery timestamp")
		}
	}
	if at == nil {
		return nil
	}
	if !at.IsValid() {
		return refuse(badDelay, "the delivery timestamp is not a time")
	}
	return t.setDelay([]byte("TIMER_DELIVER_MS"), strconv.AppendInt(nil, at.AsTime().UnixMilli(), 10))
}

// topicOf is a topic as remoting names it: with its namespace in front.
func (s *Server) topicOf(r *pb.Resource) []byte {
	if ns := r.GetResourceNamespace(); ns != "" {
		return []byte(ns + "%" + r.GetName())
	}
	return []byte(r.GetName())
}

// takeBody checks and inflates the body.
func (t *translation) takeBody(body []byte, system *pb.SystemProperties) ([]byte, error) {
	limit := t.srv.opt.BodySize
	if len(body) > limit {
		return nil, errBodySize(limit)
	}
	if err := checkDigest(body, system.GetBodyDigest()); err != nil {
		return nil, err
	}
	switch e := system.GetBodyEncoding(); e {
	case pb.Encoding_ENCODING_UNSPECIFIED, pb.Encoding_IDENTITY:
		return body, nil
	case pb.Encoding_GZIP:
		return inflate(body, limit)
	default:
		return nil, refuse(badBody, "body encoding %d is not known", e)
	}
}

func errBodySize(limit int) error {
	return refuse(tooLarge, "the body is larger than %d bytes (limits.packet-size)", limit)
}

// checkDigest compares the body as it has travelled with its digest. A digest
// of a kind that is not known says nothing.
func checkDigest(body []byte, d *pb.Digest) error {
	var sum []byte
	switch d.GetType() {
	case pb.DigestType_CRC32:
		sum = fmt.Appendf(nil, "%08x", crc32.ChecksumIEEE(body))
	case pb.DigestType_MD5:
		sum = fmt.Appendf(nil, "%x", md5.Sum(body))
	case pb.DigestType_SHA1:
		sum = fmt.Appendf(nil, "%x", sha1.Sum(body))
	default:
		return nil
	}
	// A client may leave zeros in front of a number away.
	told := strings.TrimLeft(d.GetChecksum(), "0")
	if !strings.EqualFold(told, string(bytes.TrimLeft(sum, "0"))) {
		return refuse(badBody, "the body does not match its %s digest: it was damaged on the way", d.GetType())
	}
	return nil
}

// inflate undoes Encoding_GZIP. The C++ SDK sends Zlib by that name (its
// UtilAll::compress), and consumers of all SDKs tell the two by the first bytes.
func inflate(body []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		out, err := rocketmq.Inflate(nil, body, rocketmq.SysCompressed, limit)
		if errors.Is(err, rocketmq.ErrTooLarge) {
			return nil, errBodySize(limit)
		}
		if err != nil {
			return nil, refuse(badBody, "the body cannot be decompressed: %v", err)
		}
		return out, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, refuse(badBody, "the body cannot be decompressed: %v", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	switch {
	case err != nil:
		return nil, refuse(badBody, "the body cannot be decompressed: %v", err)
	case len(out) > limit:
		return nil, errBodySize(limit)
	}
	return out, nil
}
