package rocketmqserver

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

type flushes int

func (f *flushes) Flush(*broker.Batch) { *f++ }

// Calls that can run while one is about to flush are flushed with it.
func TestSharedBatch(t *testing.T) {
	var passed, last atomic.Int64 // ms, and the batch's time
	r := newRig(t, rigOptions{core: func(o *broker.Options) { o.Clock = clock.New(clock.Options{Elapsed: passed.Load}) }})
	var b sharedBatch
	for range 2 {
		var first, second flushes
		for i, f := range []*flushes{&first, &second} {
			if begun := b.lock(); begun != (i == 0) {
				t.Fatalf("call %d begins a batch: %v", i, begun)
			}
			passed.Add(1000)
			if now := r.core.Now(b.open); now < last.Swap(now)+500 {
				t.Errorf("call %d does not begin the batch anew: it has the time %d", i, now)
			}
			b.open.Touch(f)
			b.mu.Unlock()
		}
		if b.flush(); first != 1 || second != 1 {
			t.Errorf("flushed %d and %d times", first, second)
		}
	}
}

// bomb panics when it is asked about the topic "bomb".
type bomb struct{ rules }

func (bomb) Allow(_ *mq.Principal, _ mq.Action, topic []byte) bool {
	if string(topic) == "bomb" {
		panic("as asked for")
	}
	return true
}

// A panic in the core does not leave a batch that nobody flushes.
func TestGRPCPanicInBatch(t *testing.T) {
	v := newRig(t, rigOptions{core: func(o *broker.Options) { o.Auth, o.StoreAfter = bomb{}, time.Hour }})
	v.device("online", false)
	p := v.producer()
	m := message("", "x")
	m.Topic.Name = "bomb"
	for range 3 {
		wants(t, p.send(calling(t), m).Status, pb.Code_INTERNAL_SERVER_ERROR, "a bug")
		wants(t, p.send(calling(t), message("/p2p/online", "x")).Status, pb.Code_OK, "")
	}
}
