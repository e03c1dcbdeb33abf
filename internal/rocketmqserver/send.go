package rocketmqserver

import (
	"errors"
	"slices"
	"strconv"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// The token of a send says how to answer it:
//
//	bits 0-31   opaque
//	bits 32-47  queue ID
//	bit 48      serialization
//	bit 49      oneway: not at all
//	bit 63      plainTopic
const (
	tokenQueue  = 32
	tokenSerial = 48
	tokenOneway = 1 << 49
)

func (c *conn) token(s rocketmq.Serialize) uint64 {
	t := uint64(uint32(c.cmd.Opaque)) | uint64(uint16(c.send.QueueID))<<tokenQueue | uint64(s)<<tokenSerial
	if c.cmd.IsOneway() {
		t |= tokenOneway
	}
	return t
}

// handleSend takes one message, or a batch.
func (c *conn) handleSend(code rocketmq.RequestCode, f rocketmq.Frame) {
	parts, err := c.translate(code, f)
	defer c.settle()
	if err != nil {
		id, _ := rocketmq.Property(c.send.Properties, "UNIQ_KEY")
		keys, _ := rocketmq.Property(c.send.Properties, "KEYS")
		c.srv.refused(Remoting, err, "message_id", string(clip(id)), "keys", string(clip(keys)), "topic", string(clip(c.send.Topic)))
		c.refuse(f.Serialize, err)
		return
	}
	c.mu.Lock()
	c.sends++
	c.mu.Unlock()
	token := c.token(f.Serialize)
	if !c.send.Batch {
		parts[0].publish(c.who, c, token, &c.batch)
		return
	}
	s := &batchSend{c: c, token: token, count: len(parts)}
	s.left.Store(int32(len(parts)))
	s.to = s
	for _, t := range parts {
		t.publish(c.who, &s.gathering, 0, &c.batch)
	}
}

// translate finds out who sends what. On success c.who is the sender.
func (c *conn) translate(code rocketmq.RequestCode, f rocketmq.Frame) ([]*translation, error) {
	c.send = rocketmq.SendHeader{}
	if c.srv.closing.Load() {
		return nil, errClosing
	}
	if err := c.authenticate(f.Body); err != nil {
		return nil, err
	}
	h := &c.send
	if err := h.Decode(code, c.cmd.Ext); err != nil {
		return nil, refuse(badMessage, "%v", err)
	}
	if h.SysFlag&rocketmq.SysTransaction != 0 {
		return nil, errTransaction
	}
	body, err := f.Body, error(nil)
	if h.SysFlag&rocketmq.SysCompressed != 0 {
		body, err = c.inflateBody(f.Body)
	}
	switch {
	case err != nil:
		return nil, err
	case len(body) > c.srv.opt.BodySize:
		return nil, errBodySize(c.srv.opt.BodySize)
	}
	if !h.Batch {
		t := c.part(0)
		if err := t.translate(h.Properties); err != nil {
			return nil, err
		}
		err := t.finish(h.Topic, body)
		if err == nil && len(t.messages) > 1 {
			err = t.permitted(c.who)
		}
		return c.parts[:1], err
	}
	return c.translateBatch(body)
}

// inflateBody decompresses the body of the send at hand, when its sender may have
// that done.
func (c *conn) inflateBody(came []byte) ([]byte, error) {
	limit := c.srv.opt.BodySize
	if len(came) > limit {
		return nil, errBodySize(limit)
	}
	by := growerOf(c.who, c.remote.Addr())
	c.batch.Flush() // it may block
	done, err := c.srv.inflatingFor(by)
	c.batch.Begin()
	if err != nil {
		return nil, err
	}
	c.inflated = done
	body, err := rocketmq.Inflate(c.body, came, c.send.SysFlag, limit)
	became := len(body)
	if err != nil {
		became = limit // before that was noticed
	}
	c.srv.growth.charge(by, len(came), became, now())
	switch {
	case errors.Is(err, rocketmq.ErrTooLarge):
		return nil, errBodySize(limit)
	case err != nil:
		return nil, refuse(badBody, "the body cannot be decompressed: %v", err)
	}
	if cap(body) <= 4*readBuf {
		c.body = body[:0] // for the next one
	}
	return body, nil
}

// maxBatch bounds the messages of a batch.
const maxBatch = 10_000

func (c *conn) translateBatch(body []byte) ([]*translation, error) {
	n, bodies, limit := 0, 0, maxBodies*c.srv.opt.BodySize
	for m, err := range rocketmq.Batch(body) {
		if err != nil {
			return nil, refuse(badMessage, "%v", err)
		}
		if n == maxBatch {
			return nil, errBatch
		}
		t := c.part(n)
		n++
		err := t.translate(m.Properties)
		if err == nil {
			err = t.finish(c.send.Topic, m.Body)
		}
		if err == nil {
			err = t.permitted(c.who)
		}
		if err == nil {
			if bodies += t.size(); bodies > limit {
				err = errBodies(limit)
			}
		}
		if err != nil {
			o := told(err)
			return nil, refuse(o, "message %d of the batch: %s", n, o.text)
		}
	}
	if n == 0 {
		return nil, refuse(badMessage, "the batch is empty")
	}
	return c.parts[:n], nil
}

// keptParts is how many translations a connection keeps for the next send.
const keptParts = 64

// settle lets go of what a send has needed, but for memory to use again.
func (c *conn) settle() {
	if c.inflated != nil {
		c.inflated()
		c.inflated = nil
	}
	if len(c.parts) > keptParts {
		c.parts = slices.Clone(c.parts[:keptParts])
	}
	for _, t := range c.parts {
		t.forget()
	}
}

// part returns the translation for the i-th message of a send, begun.
func (c *conn) part(i int) *translation {
	if i == len(c.parts) {
		c.parts = append(c.parts, new(translation))
	}
	c.parts[i].begin(c.srv, c.srv.broker.Now(&c.batch))
	return c.parts[i]
}

// translate takes the properties of a remoting message.
func (t *translation) translate(properties []byte) error {
	if err := rocketmq.CheckProperties(properties); err != nil {
		return refuse(badMessage, "%v", err)
	}
	for key, value := range rocketmq.Properties(properties) {
		if err := t.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// authenticate sets c.who to the sender of the request at hand.
func (c *conn) authenticate(body []byte) error {
	c.check = signedCommand{c.cmd.Ext, body}
	who, err := c.srv.opt.Auth.AuthenticateRequest(&c.check, c.who, c.remote.Addr())
	c.who = who // nil if there is an error
	if err != nil {
		c.srv.Stats.AuthFailed[Remoting].Add(1)
		if !c.noted {
			c.noted = true
			c.srv.noteRefusal(c.remote.Addr(), &c.check, err)
		}
	}
	c.check = signedCommand{}
	if who != nil && c.sender.Load() != who {
		if c.sender.Store(who); who.Ended() { // closeRevoked has not seen it
			c.finish()
		}
	}
	return err
}

// Complete implements broker.Completer: it answers a send.
func (c *conn) Complete(token uint64, code mq.Code, b *broker.Batch) {
	c.answer(token, settled(token, code), 1, b)
}

// answer answers a send of so many messages.
func (c *conn) answer(token uint64, code mq.Code, messages int, b *broker.Batch) {
	c.srv.Stats.settle(Remoting, code, messages)
	out := c.append()
	if out == nil {
		c.mu.Lock()
		c.sends--
		c.mu.Unlock()
		return
	}
	c.sends--
	if c.over() || c.sends+1 >= c.srv.opt.Unanswered {
		c.room.Signal()
	}
	if token&tokenOneway == 0 {
		o := &outcomes[code]
		opaque, serialize := int32(uint32(token)), rocketmq.Serialize(token>>tokenSerial&1)
		if code != mq.OK {
			out = appendReply(out, o.remoting, opaque, o.text, nil, nil, serialize)
		} else {
			out = c.appendSent(out, opaque, int(uint16(token>>tokenQueue)), messages, serialize)
		}
	}
	c.done(out, b)
}

// sentFields are the fields of the answer to a send that is safe, in memory of
// their own.
type sentFields struct {
	prefix             string // of message IDs; "": not made yet
	ids, offset, queue []byte
	ext                [5]rocketmq.Field
}

// keptIDs is how much memory for message IDs a connection keeps, bytes: enough
// for a batch of 30.
const keptIDs = 1024

// appendSent appends the answer to a send that is safe. Message tracing of the
// SDKs is off: it would send messages about messages. mu is held.
func (c *conn) appendSent(out []byte, opaque int32, queue, messages int, s rocketmq.Serialize) []byte {
	f := &c.sent
	if cap(f.ids) > keptIDs {
		f.ids = nil
	}
	first := c.srv.offset.Add(int64(messages)) - int64(messages-1)
	f.ids = f.ids[:0]
	for i := range messages {
		if i > 0 {
			f.ids = append(f.ids, ',')
		}
		f.ids = c.appendMessageID(f.ids, first+int64(i))
	}
	f.offset = strconv.AppendInt(f.offset[:0], first, 10)
	f.queue = strconv.AppendInt(f.queue[:0], int64(queue), 10)
	f.ext = [...]rocketmq.Field{{Key: keyMsgID, Value: f.ids}, {Key: keyQueueID, Value: f.queue}, {Key: keyQueueOffset, Value: f.offset}, {Key: keyRegion, Value: region}, {Key: keyTrace, Value: off}}
	return appendReply(out, rocketmq.Success, opaque, "", f.ext[:], nil, s)
}

// appendMessageID appends rocketmq.OffsetMessageID of the connection's address,
// whose end is the offset. mu is held.
func (c *conn) appendMessageID(dst []byte, offset int64) []byte {
	const digits = "0123456789ABCDEF"
	if c.sent.prefix == "" {
		zero := rocketmq.OffsetMessageID(c.local.Addr(), c.local.Port(), 0)
		c.sent.prefix = zero[:len(zero)-16]
	}
	dst = append(dst, c.sent.prefix...)
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[offset>>shift&15])
	}
	return dst
}

var (
	keyMsgID, keyQueueID, keyQueueOffset = []byte("msgId"), []byte("queueId"), []byte("queueOffset")
	keyRegion, region                    = []byte("MSG_REGION"), []byte("DefaultRegion")
	keyTrace, off                        = []byte("TRACE_ON"), []byte("false")
)

// batchSend answers a batch when all of its messages are settled.
type batchSend struct {
	gathering
	c     *conn
	token uint64
	count int
}

// Complete implements broker.Completer: gathering calls it once.
func (s *batchSend) Complete(_ uint64, code mq.Code, b *broker.Batch) {
	s.c.answer(s.token, code, s.count, b)
}
