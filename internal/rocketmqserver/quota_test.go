package rocketmqserver

import (
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// What has arrived of a large request counts as memory of messages, and not any
// more once it is handled or its connection gone.
func TestUnfinishedRequestsCount(t *testing.T) {
	const size = 900 << 10
	r := newRig(t, rigOptions{server: func(o *Options) { o.BodySize, o.ReadBytes = 1<<20, 8<<20 }})
	d := r.device("dev1", false)
	whole := rocketmq.Command{Code: int32(rocketmq.SendMessageV2), Opaque: 1, Version: 399}
	for i, kv := 0, fields("parent", properties("mqttSecondTopic", "/p2p/dev1")); i < len(kv); i += 2 {
		whole.Ext = append(whole.Ext, rocketmq.Field{Key: []byte(kv[i]), Value: []byte(kv[i+1])})
	}
	for _, finish := range []bool{false, true} {
		c := r.dial()
		frame := whole.Append(nil, c.serial, make([]byte, size))
		if _, err := c.nc.Write(frame[:size/2]); err != nil {
			t.Fatal(err)
		}
		r.waitFor("what has arrived is counted", func() bool { return r.core.PendingBytes() >= size/2 })
		if n := r.core.PendingBytes(); n > 1<<20 {
			t.Errorf("%d bytes are counted", n)
		}
		arrived := 0
		if finish {
			if _, err := c.nc.Write(frame[size/2:]); err != nil {
				t.Fatal(err)
			}
			if a := c.answer(); a.code != rocketmq.Success {
				t.Errorf("%v %q", a.code, a.remark)
			}
			arrived = len(d.next().payload)
		} else {
			_ = c.nc.Close()
		}
		if want := map[bool]int{true: size}[finish]; arrived != want {
			t.Errorf("%d bytes arrived, want %d", arrived, want)
		}
		r.waitFor("nothing is counted", func() bool { return r.core.PendingBytes() == 0 })
	}
	p := r.producer()
	wants(t, p.send(calling(t), message("/p2p/dev1", strings.Repeat("x", 500<<10))).Status, pb.Code_OK, "")
	if n := len(d.next().payload); n != 500<<10 {
		t.Errorf("%d bytes arrived", n)
	}
	r.waitFor("nothing is counted", func() bool { return r.core.PendingBytes() == 0 })
}

// A full quota is told as other full things are.
func TestQuotaCodes(t *testing.T) {
	for _, code := range []mq.Code{mq.InboxesFull, mq.RetainedBytes, mq.DelayedBytes} {
		if o := outcomes[code]; o.remoting != rocketmq.FlowControl || o.grpc != pb.Code_TOO_MANY_REQUESTS || o.text == "" {
			t.Errorf("%s: %+v", code, o)
		}
	}
}
