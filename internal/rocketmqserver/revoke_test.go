package rocketmqserver

import (
	"errors"
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

// TestKeyDeleted: the connections of a key that is deleted, or has another secret,
// are closed; those of others stay, and nothing that it signs is taken.
func TestKeyDeleted(t *testing.T) {
	two := []auth.AccessKey{{Key: "AK", Secret: "SK"}, {Key: "OTHER", Secret: "SK2"}}
	const date = "20260102T030405Z"
	for name, after := range map[string][]auth.AccessKey{
		"deleted":        two[1:],
		"another secret": {{Key: "AK", Secret: "new"}, two[1]},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{auth: auth.Options{AccessKeys: two}})
			d := r.device("dev1", false)

			c, stranger := r.dial(), r.dial()
			c.secret = "SK"
			if a := c.send("parent", "before", "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.Success {
				t.Fatalf("before: %v %q", a.code, a.remark)
			}
			p, other := r.producer(), r.producer()
			wants(t, p.send(calling(t, sign("AK", "SK", date, false)...), message("/p2p/dev1", "before")).Status, pb.Code_OK, "")
			wants(t, other.send(calling(t, sign("OTHER", "SK2", date, false)...), message("/p2p/dev1", "before")).Status, pb.Code_OK, "")
			mine, theirs := p.telemetry(), other.telemetry()
			settle(t, mine)
			settle(t, theirs)
			if a := stranger.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent"); a.code != rocketmq.Success {
				t.Fatal(a.code)
			}

			if err := r.opt.Auth.(*auth.Auth).Apply(auth.Options{AccessKeys: after}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.read(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the remoting connection is not closed: %v", err)
			}
			if _, err := mine.Recv(); status.Code(err) != codes.Unavailable {
				t.Errorf("the Telemetry stream is not ended: %v", err)
			}
			wants(t, other.send(calling(t, sign("OTHER", "SK2", date, false)...), message("/p2p/dev1", "after")).Status, pb.Code_OK, "")
			settle(t, theirs)
			if a := stranger.do(rocketmq.GetRouteInfoByTopic, nil, "topic", "parent"); a.code != rocketmq.Success {
				t.Errorf("a connection without requests of the key: %v", a.code)
			}
			// It connects again, in vain.
			again := r.dial()
			again.secret = "SK"
			if a := again.send("parent", "no", "mqttSecondTopic", "/p2p/dev1"); a.code != rocketmq.NoPermission {
				t.Errorf("remoting: %v %q", a.code, a.remark)
			}
			wants(t, p.send(calling(t, sign("AK", "SK", date, false)...), message("/p2p/dev1", "no")).Status, pb.Code_UNAUTHORIZED, "")
			wants(t, other.send(calling(t, sign("OTHER", "SK2", date, false)...), message("/p2p/dev1", "end")).Status, pb.Code_OK, "")
			for i, want := range []string{"before", "before", "before", "after", "end"} {
				if g := d.next(); g.payload != want {
					t.Errorf("message %d is %q, want %q", i, g.payload, want)
				}
			}
		})
	}
}
