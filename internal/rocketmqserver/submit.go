package rocketmqserver

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
)

// permitted asks for all messages of a send before any is published: SDKs send
// again what is refused, all of it.
func (t *translation) permitted(who *mq.Principal) error {
	for i := range t.messages {
		if code := t.srv.broker.Permits(broker.Source{Principal: who}, &t.messages[i]); code != mq.OK {
			o := outcomes[code]
			return refuse(o, "%s: %s", clip(t.messages[i].Topic), o.text)
		}
	}
	return nil
}

// publish hands the messages to the core. done is told the outcome of them all,
// once, with token, whose bit plainTopic must be clear; it may be during the
// call.
func (t *translation) publish(who *mq.Principal, done broker.Completer, token uint64, b *broker.Batch) {
	if t.srv.log.Enabled(context.Background(), slog.LevelDebug) {
		done, token = t.traced(who, done, token), 0
	}
	if len(t.messages) > 1 {
		g := &gathering{to: done, token: token}
		g.left.Store(int32(len(t.messages)))
		done, token = g, 0
	}
	src := broker.Source{Principal: who}
	for i := range t.messages {
		m, token := &t.messages[i], token
		if kind, _ := mq.ParseTopic(m.Topic); kind != mq.TopicP2P {
			token |= plainTopic
		}
		switch {
		case t.at > 0:
			t.srv.broker.PublishLater(src, m, t.at, done, token, b)
		case t.delay > 0:
			t.srv.broker.PublishAfter(src, m, t.delay, done, token, b)
		case m.QoS == mq.AtMostOnce: // the core tells nobody
			done.Complete(token, t.srv.broker.Publish(src, m, nil, 0, b), b)
		default:
			t.srv.broker.Publish(src, m, done, token, b)
		}
	}
}

// gathering answers when several messages are settled: with the first failure,
// if there is one.
type gathering struct {
	to    broker.Completer
	token uint64
	left  atomic.Int32
	worst atomic.Uint32 // an mq.Code
}

// Complete implements broker.Completer.
func (g *gathering) Complete(token uint64, code mq.Code, b *broker.Batch) {
	if code = settled(token, code); code != mq.OK {
		g.worst.CompareAndSwap(uint32(mq.OK), uint32(code))
	}
	if g.left.Add(-1) == 0 {
		g.to.Complete(g.token, mq.Code(g.worst.Load()), b)
	}
}

// trace writes a line to the log when a message is settled: with log.level debug
// every message can be followed by its ID and keys.
type trace struct {
	log   *slog.Logger
	to    broker.Completer
	token uint64
}

func (t *translation) traced(who *mq.Principal, done broker.Completer, token uint64) *trace {
	at := t.at
	if t.delay > 0 {
		at = t.srv.broker.Wall() + t.delay
	}
	log := t.srv.log.With("message_id", string(t.id), "keys", string(t.keys), "access_key", who.AccessKey, "deliver_at", at)
	if len(t.messages) > 0 {
		log = log.With("topic", string(t.messages[0].Topic))
	}
	return &trace{log: log, to: done, token: token}
}

// Complete implements broker.Completer.
func (t *trace) Complete(token uint64, code mq.Code, b *broker.Batch) {
	code = settled(token, code)
	t.log.Debug("RocketMQ message settled", "outcome", code.String())
	t.to.Complete(t.token, code, b)
}
