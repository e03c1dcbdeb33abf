package rocketmqserver

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
)

// sendFrame is a send as the Java SDK makes it, of a message to "ear" with QoS 0:
// the core keeps nothing of it.
func sendFrame(t *testing.T, s rocketmq.Serialize) rocketmq.Frame {
	t.Helper()
	cmd := rocketmq.Command{Code: int32(rocketmq.SendMessageV2), Version: 479, Opaque: 77}
	ext := fields("parent", properties("mqttSecondTopic", "/p2p/ear", "qoslevel", "0", "TAGS", "tag", "KEYS", "k1", "color", "red", "WAIT", "true", "UNIQ_KEY", "7F0000010000000000000000000000AB"))
	for i := 0; i < len(ext); i += 2 {
		cmd.Ext = append(cmd.Ext, rocketmq.Field{Key: []byte(ext[i]), Value: []byte(ext[i+1])})
	}
	frame := cmd.Append(nil, s, []byte("hello"))
	f, _, _, err := rocketmq.Split(frame, len(frame))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sink is a connection that is only there to be written to.
type sink struct{ net.Conn }

// handleOnce returns what the reader of a connection does with one send, and what
// the writer does with the answer but for the writing.
func handleOnce(t *testing.T, r *rig, s rocketmq.Serialize) func() {
	f := sendFrame(t, s)
	c := newConn(r.Server, sink{}, netip.AddrPort{})
	c.local = netip.MustParseAddrPort("192.168.10.20:9876")
	return func() {
		c.batch.Begin()
		if err := c.handle(f, false); err != nil {
			t.Fatal(err)
		}
		c.batch.Flush()
		c.out = c.out[:0]
	}
}

// ear is a client of the core that counts what it gets and allocates nothing.
type ear struct{ came int }

func (e *ear) SendPublish(*mq.Message, broker.Header, *broker.Batch) broker.SendResult {
	e.came++
	return broker.Sent
}

func (*ear) SendConnack(*broker.Session, bool, *broker.Batch)       {}
func (*ear) Settle()                                                {}
func (*ear) Revoked() bool                                          { return false }
func (*ear) SendAck(broker.AckKind, uint16, mq.Code, *broker.Batch) {}
func (*ear) Takes(*mq.Message, broker.Header) bool                  { return true }
func (*ear) Flush(*broker.Batch)                                    {}
func (*ear) Close(broker.CloseReason)                               {}
func (*ear) Quiesce()                                               {}

func quiet(o *Options) { o.Log = slog.New(slog.DiscardHandler) }

// The gateway makes no garbage of a send and its answer.
func TestSendAllocatesNothing(t *testing.T) {
	r := newRig(t, rigOptions{server: quiet})
	var e ear
	var batch broker.Batch
	batch.Begin()
	if _, err := r.core.Connect(broker.ConnectRequest{ClientID: "ear", Conn: &e, CleanStart: true, ReceiveMax: 100}, &batch); err != nil {
		t.Fatal(err)
	}
	batch.Flush()
	for _, s := range []rocketmq.Serialize{rocketmq.JSON, rocketmq.Binary} {
		once := handleOnce(t, r, s)
		once()
		if n := testing.AllocsPerRun(100, once); n > 0 {
			t.Errorf("serialization %d: %.1f allocations", s, n)
		}
	}
	if n := r.Stats.Accepts[Remoting].Load(); n != 204 {
		t.Errorf("%d messages accepted, want 204", n)
	}
	if e.came != 204 {
		t.Errorf("%d messages came, want 204", e.came)
	}
}
