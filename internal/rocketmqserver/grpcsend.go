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
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// sending is the state of a SendMessage call: its messages are settled in any
// order, by any goroutine.
type sending struct {
	request [][]byte // the messages, in c.data
	message grpcMessage
	part    translation
	results []result // by message
	left    atomic.Int32
	settled chan struct{} // gets one value when left comes to 0
}

// result is what became of a message.
type result struct {
	id   string
	code mq.Code // written once, by whoever learns of it
	err  error   // it did not come to the core; nil: it did
}

// Complete implements broker.Completer.
func (s *sending) Complete(token uint64, code mq.Code, _ *broker.Batch) {
	s.results[token&^plainTopic].code = settled(token, code)
	s.done()
}

func (s *sending) done() {
	if s.left.Add(-1) == 0 {
		s.settled <- struct{}{}
	}
}

// forget lets go of a request, and of memory that an unusual one has taken.
func (s *sending) forget() {
	clear(s.request)
	clear(s.results)
	s.message.reset()
	clear(s.message.properties[:cap(s.message.properties)])
	if cap(s.part.props)+cap(s.part.topics)+s.message.memory() > maxScratch || cap(s.results) > maxScratch/64 {
		*s = sending{}
	}
	s.part.begin(nil, 0)
}

// maxScratch is how much memory a call keeps for the next one, bytes.
const maxScratch = 64 << 10

// sendMessage takes the messages of a producer and answers when all of them are
// settled. Each has an outcome of its own.
func sendMessage(c *call) (proto.Message, error) {
	who, err := c.takeSend()
	if err == nil {
		err = c.publishAll(who)
	}
	if err != nil {
		if !endsCall(err) {
			c.srv.refused(GRPC, err)
		}
		return nil, err
	}
	return c.sendAnswer(), nil
}

// takeSend reads the request of somebody who may send.
func (c *call) takeSend() (*mq.Principal, error) {
	if c.srv.closing.Load() {
		return nil, errClosing
	}
	who, err := c.authenticate()
	if err != nil {
		return nil, err
	}
	if err := c.request(c.srv.opt.BodySize + grpcHeadroom); err != nil {
		return nil, err
	}
	c.send.request, err = decodeSend(c.send.request[:0], c.data.ReadOnlyData())
	switch {
	case errors.Is(err, errWire):
		return nil, malformedCall(err)
	case err != nil:
		return nil, err
	case len(c.send.request) == 0:
		return nil, refuse(outcome{grpc: pb.Code_BAD_REQUEST, drop: mq.DropBadMessage}, "the request has no messages")
	}
	return who, nil
}

// publishAll hands the messages to the core and waits until all are settled. An
// error that ends the call says that its client does not wait any more, and what is
// under way keeps the call; another one refuses all messages.
func (c *call) publishAll(who *mq.Principal) error {
	s := &c.send
	if s.settled == nil {
		s.settled = make(chan struct{}, 1)
	}
	s.results = append(s.results[:0], make([]result, len(s.request))...)
	s.left.Store(int32(len(s.request)))
	c.srv.broker.Throttle()
	if err := c.publishInTurn(who); err != nil {
		return err
	}
	c.release()
	select {
	case <-s.settled:
		return nil
	case <-c.ctx.Done():
		return c.broken()
	}
}

// maxBodies bounds what the bodies of one request are decompressed to, in all: so
// many of the largest.
const maxBodies = 4

// publishInTurn is publish when bodies may be decompressed for the sender. It is
// asked for before the batch: others of the connection would wait, too.
func (c *call) publishInTurn(who *mq.Principal) error {
	if slices.ContainsFunc(c.send.request, compressed) {
		done, err := c.srv.inflatingFor(growerOf(who, c.conn.remote))
		if err != nil {
			return err
		}
		defer func() {
			c.send.message.inflated = nil // a call may wait for long after this
			done()
		}()
	}
	c.publish(who)
	return nil
}

// publish hands the messages to the core, in the batch of the connection.
func (c *call) publish(who *mq.Principal) {
	s, batch := &c.send, &c.conn.batch
	if batch.lock() {
		defer batch.flush() // after a panic, too: others may have joined
	}
	defer batch.mu.Unlock()
	bodies, limit := 0, maxBodies*c.srv.opt.BodySize
	for i, b := range s.request {
		s.part.begin(c.srv, c.srv.broker.Now(batch.open))
		s.part.room = max(limit-bodies, 0)
		err := s.part.takeGRPC(&s.message, b)
		if s.part.grown > 0 {
			c.srv.growth.charge(growerOf(who, c.conn.remote), len(s.message.body), s.part.grown, now())
		}
		if err == nil && len(s.part.messages) > 1 {
			err = s.part.permitted(who)
		}
		if err == nil {
			if bodies += s.part.size(); bodies > limit {
				err = errBodies(limit)
			}
		} else {
			bodies += s.part.grown // it has cost the same
		}
		s.results[i].id = string(s.message.id)
		if err != nil {
			c.srv.refused(GRPC, err, "message_id", string(clip(s.message.id)), "keys", string(clip(s.message.keys)), "topic", string(clip(s.message.topic)))
			s.results[i].err = err
			s.done()
			continue
		}
		s.part.publish(who, s, uint64(i), batch.open)
	}
}

// sharedBatch is a batch for all calls of a connection that can run: what they
// cause to be written to one device is written at once. A write of its own for
// each message would cost more than all else that is done with it.
type sharedBatch struct {
	mu    sync.Mutex    // guards the fields below, and open itself; taken before any lock of the core
	open  *broker.Batch // nil: no call has something to flush
	spare *broker.Batch // to be open next; nil: none
}

// lock begins or joins the batch. It reports whether it was begun: then flush
// must follow, after mu is unlocked.
func (b *sharedBatch) lock() (begun bool) {
	b.mu.Lock()
	if b.open == nil {
		begun = true
		if b.open, b.spare = b.spare, nil; b.open == nil {
			b.open = new(broker.Batch)
		}
	}
	b.open.Begin()
	return begun
}

// flush lets other calls join, and flushes the batch.
func (b *sharedBatch) flush() {
	runtime.Gosched()
	b.mu.Lock()
	full := b.open
	b.open = nil
	b.mu.Unlock()
	full.Flush()
	b.mu.Lock()
	b.spare = full
	b.mu.Unlock()
}

var statusSent = statusOf(outcomes[mq.OK])

// sendAnswer makes the answer. The status of the whole is that of every message
// if they are alike: some SDKs look at nothing else.
func (c *call) sendAnswer() *pb.SendMessageResponse {
	entries := make([]pb.SendResultEntry, len(c.send.results))
	answer := &pb.SendMessageResponse{Entries: make([]*pb.SendResultEntry, len(entries))}
	for i := range entries {
		e, r := &entries[i], &c.send.results[i]
		e.MessageId, e.Status = r.id, c.settle(r)
		if e.Status == statusSent {
			e.Offset = c.srv.offset.Add(1)
		}
		answer.Entries[i] = e
		switch {
		case i == 0:
			answer.Status = e.Status
		case answer.Status.Code != e.Status.Code:
			answer.Status = &pb.Status{Code: pb.Code_MULTIPLE_RESULTS, Message: "the messages have different results; see their entries"}
		}
	}
	return answer
}

// settle counts a message that came to the core, and returns what the sender is
// told of any.
func (c *call) settle(r *result) *pb.Status {
	switch {
	case r.err != nil:
		return statusOf(told(r.err))
	case r.code == mq.OK:
		c.srv.Stats.settle(GRPC, mq.OK, 1)
		return statusSent
	default:
		c.srv.Stats.settle(GRPC, r.code, 1)
		return statusOf(outcomes[r.code])
	}
}

// takeGRPC takes a message of the 5.x SDKs. m is for its use.
func (t *translation) takeGRPC(m *grpcMessage, b []byte) error {
	if err := m.decode(b); err != nil {
		return refuse(badMessage, "the message is %v", err)
	}
	if err := t.takeType(m); err != nil {
		return err
	}
	for _, p := range m.properties {
		if err := t.set(p.key, p.value); err != nil {
			return err
		}
	}
	t.id = m.id
	if len(m.keys) > 0 {
		t.keys = m.keys
	}
	body, err := t.takeBody(m)
	if err != nil {
		return err
	}
	topic := m.topic
	if len(m.namespace) > 0 { // as remoting has it
		topic = slices.Concat(m.namespace, []byte{'%'}, topic)
	}
	return t.finish(topic, body)
}

// takeType takes what the type of a message demands.
func (t *translation) takeType(m *grpcMessage) error {
	switch m.kind {
	case pb.MessageType_TRANSACTION:
		return errTransaction
	case pb.MessageType_LITE:
		return refuse(unsupported, "lite topics are not supported")
	case pb.MessageType_PRIORITY:
		return refuse(unsupported, "messages with a priority are not supported")
	case pb.MessageType_DELAY:
		if !m.timed {
			return refuse(badDelay, "a delayed message without delivery timestamp")
		}
	}
	if !m.timed {
		return nil
	}
	at := timestamppb.Timestamp{Seconds: m.seconds, Nanos: m.nanos}
	if !at.IsValid() {
		return refuse(badDelay, "the delivery timestamp is not a time")
	}
	return t.setDelay([]byte("TIMER_DELIVER_MS"), strconv.AppendInt(nil, at.AsTime().UnixMilli(), 10))
}

// takeBody is takeBody within what the request may be decompressed to in all.
func (t *translation) takeBody(m *grpcMessage) ([]byte, error) {
	limit := t.srv.opt.BodySize
	if m.encoding != pb.Encoding_GZIP {
		return takeBody(m, limit)
	}
	if t.room == 0 {
		return nil, errBodies(maxBodies * limit)
	}
	body, err := takeBody(m, min(limit, t.room))
	t.grown = len(body)
	if err != nil {
		t.grown = min(limit, t.room) // before that was noticed
		if t.room < limit && told(err).grpc == tooLarge.grpc {
			err = errBodies(maxBodies * limit)
		}
	}
	return body, err
}

func errBodies(limit int) error {
	return refuse(tooLarge, "the bodies of one request are larger than %d bytes in all; send them in several", limit)
}

// takeBody checks and inflates the body.
func takeBody(m *grpcMessage, limit int) ([]byte, error) {
	if len(m.body) > limit {
		return nil, errBodySize(limit)
	}
	if err := checkDigest(m.body, m.digest, m.checksum); err != nil {
		return nil, err
	}
	switch m.encoding {
	case pb.Encoding_ENCODING_UNSPECIFIED, pb.Encoding_IDENTITY:
		return m.body, nil
	case pb.Encoding_GZIP:
		return m.inflate(limit)
	default:
		return nil, refuse(badBody, "body encoding %d is not known", m.encoding)
	}
}

func errBodySize(limit int) error {
	return refuse(tooLarge, "the body is larger than %d bytes (limits.packet-size)", limit)
}

// checkDigest compares the body as it has travelled with its digest. A digest
// of a kind that is not known says nothing.
func checkDigest(body []byte, kind pb.DigestType, checksum []byte) error {
	var sum []byte
	switch kind {
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
	if !bytes.EqualFold(bytes.TrimLeft(checksum, "0"), bytes.TrimLeft(sum, "0")) {
		return refuse(badBody, "the body does not match its %s digest: it was damaged on the way", kind)
	}
	return nil
}

// inflate undoes Encoding_GZIP, in memory of the message. The C++ SDK sends Zlib
// by that name (its UtilAll::compress), and consumers of all SDKs tell the two by
// the first bytes.
func (m *grpcMessage) inflate(limit int) ([]byte, error) {
	var out []byte
	var err error
	if bytes.HasPrefix(m.body, []byte{0x1f, 0x8b}) {
		out, err = gunzip(m.inflated, m.body, limit)
	} else {
		out, err = rocketmq.Inflate(m.inflated, m.body, rocketmq.SysCompressed, limit)
	}
	switch {
	case errors.Is(err, rocketmq.ErrTooLarge):
		return nil, errBodySize(limit)
	case err != nil:
		return nil, refuse(badBody, "the body cannot be decompressed: %v", err)
	}
	m.inflated = out
	return out, nil
}

// gzips are decompressors that can be used again.
var gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// gunzip undoes Gzip, into dst[:0]. What would be more than limit bytes is
// rocketmq.ErrTooLarge.
func gunzip(dst, body []byte, limit int) ([]byte, error) {
	z := gzips.Get().(*gzip.Reader)
	defer gzips.Put(z)
	src := bytes.NewReader(body)
	defer src.Reset(nil) // z has it still
	if err := z.Reset(src); err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(dst[:0])
	switch n, err := out.ReadFrom(io.LimitReader(z, int64(limit)+1)); {
	case err != nil:
		return nil, err
	case n > int64(limit):
		return nil, rocketmq.ErrTooLarge
	}
	return out.Bytes(), nil
}
