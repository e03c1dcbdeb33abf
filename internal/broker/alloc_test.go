package broker

import (
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// sink is a connection that takes everything and allocates nothing.
type sink struct {
	sess *Session
	pid  uint16
	came int // PUBLISH packets
}

func (l *sink) SendConnack(s *Session, _ bool, _ *Batch) { l.sess = s }
func (l *sink) SendPublish(_ *mq.Message, h Header, _ *Batch) SendResult {
	l.pid = h.PacketID
	l.came++
	return Sent
}
func (l *sink) SendAck(AckKind, uint16, mq.Code, *Batch)  {}
func (l *sink) Flush(*Batch)                              {}
func (l *sink) Close(CloseReason)                         {}
func (l *sink) Complete(_ uint64, code mq.Code, _ *Batch) { l.pid += uint16(code) }

// direct sends one message to an online target that acknowledges at once.
func direct(w *world, target, sender *sink, m *mq.Message) func() {
	src := Source{Principal: &mq.Principal{}}
	return func() {
		w.batch.Begin()
		w.b.Publish(src, m, sender, 1, &w.batch)
		if m.QoS > 0 {
			w.b.Puback(target.sess, target, target.pid, &w.batch)
		}
		w.batch.Flush()
	}
}

func directWorld(t testing.TB) (*world, *sink) {
	w := newWorld(t, Options{StoreAfter: time.Hour}, store.SyncOS)
	target := &sink{}
	if _, err := w.b.Connect(ConnectRequest{ClientID: "dev", Conn: target, CleanStart: true, ReceiveMax: 100}, &w.batch); err != nil {
		t.Fatal(err)
	}
	w.batch.Flush()
	return w, target
}

// TestAllocations: nothing per QoS 0 message, the one copy per QoS 1 message.
func TestAllocations(t *testing.T) {
	for qos, want := range []float64{0, 1} {
		w, target := directWorld(t)
		m := message("a/p2p/dev", 1, 1, mq.QoS(qos), false)
		if got := testing.AllocsPerRun(1000, direct(w, target, &sink{}, m)); got > want {
			t.Errorf("QoS %d: %v allocations, want %v", qos, got, want)
		}
		if target.came != 1001 { // AllocsPerRun runs it once more
			t.Errorf("QoS %d: %d messages came, want 1001", qos, target.came)
		}
		w.stop()
	}
}

func BenchmarkDirect(b *testing.B) {
	for qos := range 2 {
		b.Run([]string{"qos0", "qos1"}[qos], func(b *testing.B) {
			w, target := directWorld(b)
			defer w.stop()
			m := message("a/p2p/dev", 1, 1, mq.QoS(qos), false)
			m.Payload = append(m.Payload, make([]byte, 56)...)
			send := direct(w, target, &sink{}, m)
			b.ReportAllocs()
			for b.Loop() {
				send()
			}
		})
	}
}

// BenchmarkPublishQoS2 is the sender's part of QoS 2 messages, 16 under way at a
// time: nobody is there to have them.
func BenchmarkPublishQoS2(b *testing.B) {
	w, _ := directWorld(b)
	defer w.stop()
	sender := &sink{}
	if _, err := w.b.Connect(ConnectRequest{ClientID: "sender", Conn: sender, CleanStart: true, ReceiveMax: 100}, &w.batch); err != nil {
		b.Fatal(err)
	}
	w.batch.Flush()
	m := message("a/p2p/nobody", 1, 1, 2, false)
	m.Payload = append(m.Payload, make([]byte, 56)...)
	src := Source{Principal: &mq.Principal{}, Session: sender.sess}
	b.ReportAllocs()
	first := uint16(1)
	for b.Loop() {
		w.batch.Begin()
		for i := range uint16(16) {
			publishQoS2(w, src, m, sender, first+i)
		}
		for i := range uint16(16) {
			w.b.Pubrel(sender.sess, sender, first+i, &w.batch)
		}
		w.batch.Flush()
		if first += 16; first > 60000 {
			first = 1
		}
	}
}

func publishQoS2(w *world, src Source, m *mq.Message, sender *sink, pid uint16) {
	w.b.PublishQoS2(src, m, QoS2Publish{Conn: sender, PacketID: pid, Room: 100}, &w.batch)
}

func (l *sink) Settle()       {}
func (l *sink) Revoked() bool { return false }

func (l *sink) Quiesce() {}

func (l *sink) Takes(*mq.Message, Header) bool { return true }
