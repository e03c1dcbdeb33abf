package rocketmqserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/rocketmq"
)

// TestDispatchSize: a body counts once for each topic of INNER_MULTI_DISPATCH. 64
// topics made 64 copies of one of the largest size.
func TestDispatchSize(t *testing.T) {
	r := newRig(t, rigOptions{})
	l, d := r.dial(), r.device("dev", false)
	d.subscribe("news/#")
	arrived := 0
	topics := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("%%LMQ%%news%%%d", i)
		}
		return strings.Join(list, ",")
	}
	body := strings.Repeat("x", r.opt.BodySize/2)
	for n, want := range map[int]rocketmq.ResponseCode{
		1: rocketmq.Success, 2 * maxBodies: rocketmq.Success, 2*maxBodies + 1: rocketmq.MessageIllegal, maxDispatch: rocketmq.MessageIllegal,
	} {
		if a := l.send("orders", body, keyMultiDispatch, topics(n)); a.code != want {
			t.Errorf("%d topics: %v %s, want %v", n, a.code, a.remark, want)
		}
		for range n {
			if want == rocketmq.Success {
				d.next()
				arrived++
			}
		}
	}
	if a := l.send("orders", "small", keyMultiDispatch, topics(maxDispatch)); a.code != rocketmq.Success {
		t.Errorf("a small body to %d topics: %v %s", maxDispatch, a.code, a.remark)
	}
	for range maxDispatch {
		d.next()
		arrived++
	}
	if want := 1 + 2*maxBodies + maxDispatch; arrived != want {
		t.Errorf("%d messages arrived, want %d", arrived, want)
	}
	// The messages of a batch count together.
	for n, want := range map[int]rocketmq.ResponseCode{4: rocketmq.Success, 5: rocketmq.MessageIllegal} {
		var batch []byte
		for range n {
			batch = rocketmq.AppendBatchMessage(batch, rocketmq.BatchMessage{
				Body: []byte(body[:r.opt.BodySize/maxDispatch]), Properties: []byte(properties(keyMultiDispatch, topics(maxDispatch))),
			})
		}
		if a := l.do(rocketmq.SendBatchMessage, batch, fields("orders", "")...); a.code != want {
			t.Errorf("a batch of %d messages to %d topics: %v %s, want %v", n, maxDispatch, a.code, a.remark, want)
		}
	}
}
