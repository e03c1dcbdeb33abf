package broker

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// packet is a PUBLISH as a client sees it.
type packet struct {
	topic, payload string
	qos            mq.QoS
	pid            uint16
	dup, retain    bool
	ids            []uint32 // subscription identifiers, sorted
}

func (p packet) String() string {
	return fmt.Sprintf("%s=%s qos%d pid%d dup=%v retain=%v ids=%v", p.topic, p.payload, p.qos, p.pid, p.dup, p.retain, p.ids)
}

// wire is a connection that keeps whole packets until its client looks. It may
// be used by several goroutines.
type wire struct {
	mu      sync.Mutex
	in      []packet
	acks    []ackSent // PUBREL and, for the client as a sender, the others
	room    int       // PUBLISH packets it takes; negative: any number
	missed  bool      // SendFull was answered
	present bool
	closed  bool
	limit   int // bytes of payload; 0: none
	sess    *Session
	wake    chan struct{} // capacity 1; nil: nobody waits
	p       *mq.Principal // nil: never revoked
}

func (l *wire) SendConnack(s *Session, present bool, _ *Batch) { l.sess, l.present = s, present }

func (l *wire) SendPublish(m *mq.Message, h Header, b *Batch) SendResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return SendClosed
	case l.limit > 0 && len(m.Payload) > l.limit:
		return SendTooLarge
	case l.room == 0:
		l.missed = true
		return SendFull
	}
	l.room--
	p := packet{topic: string(m.Topic), payload: string(m.Payload), qos: h.QoS, pid: h.PacketID, dup: h.Dup, retain: h.Retain}
	p.ids = append(p.ids, h.SubscriptionIDs...)
	for rest := m.Props; m.Addressed && len(rest) > 0 && rest[0] == 0x0B; { // the messages of these tests have no other properties
		id, n := binary.Uvarint(rest[1:])
		p.ids = append(p.ids, uint32(id))
		rest = rest[1+n:]
	}
	slices.Sort(p.ids)
	l.in = append(l.in, p)
	b.Touch(l)
	return Sent
}

func (l *wire) SendAck(kind AckKind, pid uint16, code mq.Code, b *Batch) {
	l.mu.Lock()
	l.acks = append(l.acks, ackSent{kind, pid, code})
	l.mu.Unlock()
	b.Touch(l)
}

func (l *wire) Takes(m *mq.Message, _ Header) bool { return l.limit == 0 || len(m.Payload) <= l.limit }

func (l *wire) Flush(*Batch) {
	if l.wake != nil {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func (l *wire) Close(CloseReason) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Flush(nil)
}

func (l *wire) Settle() {}

func (l *wire) Revoked() bool { return l.p.Ended() }

func (l *wire) Quiesce() {}

func (l *wire) take() (in []packet, acks []ackSent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in, acks = l.in, l.acks
	l.in, l.acks = nil, nil
	return in, acks
}

// peer is a client that keeps to the rules of MQTT. One goroutine uses it.
type peer struct {
	id         string
	receiveMax int
	expiry     uint32
	limit      int // of its connections, see wire

	wire    *wire // nil: offline
	batch   Batch
	packets []packet        // PUBLISH as they came
	got     []packet        // without repetitions of QoS 2
	held    map[uint16]bool // QoS 2 between PUBLISH and PUBREL
	owes    []ackSent       // acknowledgements not sent yet
	sent    []ackSent       // to it as a sender
}

func (p *peer) connect(w *world, clean bool, will *Will) error {
	window := p.receiveMax
	if window == 0 {
		window = 65535
	}
	p.receive()
	l := &wire{room: -1, limit: p.limit}
	p.batch.Begin()
	s, err := w.b.Connect(ConnectRequest{ClientID: p.id, Conn: l, CleanStart: clean, Expiry: p.expiry, ReceiveMax: window, Will: will}, &p.batch)
	if err != nil {
		return err
	}
	if l.sess = s; !l.present {
		p.held = nil
	}
	p.wire, p.owes = l, nil
	p.batch.Flush()
	return nil
}

// online connects, or fails the test.
func (w *world) online(p *peer, clean bool) *peer {
	w.t.Helper()
	if err := p.connect(w, clean, nil); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// leave ends the connection: properly or not.
func (p *peer) leave(w *world, how Departure) {
	if p.wire == nil {
		return
	}
	p.receive()
	p.batch.Begin()
	w.b.Disconnect(p.wire.sess, p.wire, how, &p.batch)
	p.batch.Flush()
	p.wire, p.owes = nil, nil
}

var (
	proper = Departure{DiscardWill: true}
	abrupt = Departure{}
)

func (p *peer) subscribe(w *world, subs ...mq.Subscription) []SubscribeResult {
	p.batch.Begin()
	r := w.b.Subscribe(p.wire.sess, &mq.Principal{}, subs, &p.batch)
	p.batch.Flush()
	return r
}

func (p *peer) unsubscribe(w *world, filters ...string) []bool {
	p.batch.Begin()
	had, err := w.b.Unsubscribe(p.wire.sess, filters, &p.batch)
	if err != nil {
		w.t.Error(err)
	}
	p.batch.Flush()
	return had
}

// receive looks at what has come; acknowledgements are then owed.
func (p *peer) receive() {
	if p.wire == nil {
		return
	}
	in, acks := p.wire.take()
	for _, k := range in {
		p.packets = append(p.packets, k)
		if k.qos < 2 || !p.held[k.pid] {
			p.got = append(p.got, k)
		}
		switch k.qos {
		case 1:
			p.owes = append(p.owes, ackSent{kind: Puback, pid: k.pid})
		case 2:
			if p.held == nil {
				p.held = map[uint16]bool{}
			}
			p.held[k.pid] = true
			p.owes = append(p.owes, ackSent{kind: Pubrec, pid: k.pid})
		}
	}
	for _, a := range acks {
		if a.kind == Pubrel {
			delete(p.held, a.pid)
			p.owes = append(p.owes, ackSent{kind: Pubcomp, pid: a.pid})
		} else {
			p.sent = append(p.sent, a)
		}
	}
}

// ack sends up to n of the acknowledgements owed, in order.
func (p *peer) ack(w *world, n int) {
	p.receive()
	if p.wire == nil {
		return
	}
	p.batch.Begin()
	for ; n > 0 && len(p.owes) > 0; n-- {
		a := p.owes[0]
		p.owes = p.owes[1:]
		switch s := p.wire.sess; a.kind {
		case Puback:
			w.b.Puback(s, p.wire, a.pid, &p.batch)
		case Pubrec:
			w.b.Pubrec(s, p.wire, a.pid, false, &p.batch)
		case Pubcomp:
			w.b.Pubcomp(s, p.wire, a.pid, &p.batch)
		}
	}
	p.batch.Flush()
}

// room lets the connection take n more PUBLISH packets; negative: any number.
func (p *peer) room(w *world, n int) {
	if p.wire == nil {
		return
	}
	p.wire.mu.Lock()
	p.wire.room = n
	drained := p.wire.missed && n != 0
	p.wire.missed = p.wire.missed && !drained
	p.wire.mu.Unlock()
	if drained {
		p.batch.Begin()
		w.b.Drained(p.wire.sess, p.wire, &p.batch)
		p.batch.Flush()
	}
}

// drain acknowledges everything until the peers, who have room, get nothing more.
func (w *world) drain(peers ...*peer) {
	w.t.Helper()
	for end, quiet := time.Now().Add(60*time.Second), 0; quiet < 3; time.Sleep(300 * time.Microsecond) {
		if time.Now().After(end) {
			w.t.Fatal("the clients do not come to an end")
		}
		quiet++
		for _, p := range peers {
			if p.room(w, -1); p.wire == nil {
				continue
			}
			before := len(p.packets) + len(p.held)
			p.ack(w, 1<<30)
			if w.settle(); len(p.packets)+len(p.held) != before || len(p.owes) > 0 || w.searching() {
				quiet = 0
			}
			p.receive()
			if len(p.owes) > 0 {
				quiet = 0
			}
		}
	}
}

func payloads(list []packet) (out []string) {
	for _, p := range list {
		out = append(out, p.payload)
	}
	return out
}

// send publishes text without a session and waits for nothing.
func (w *world) send(topic, text string, qos mq.QoS, retain bool, r *results, n int) {
	var batch Batch // it may be called from a hook
	batch.Begin()
	m := &mq.Message{Topic: []byte(topic), Payload: []byte(text), QoS: qos, Retain: retain}
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, r, uint64(n), &batch)
	clear(m.Topic) // borrowed until Publish returns: show who keeps it
	clear(m.Payload)
	batch.Flush()
}

// restart is a graceful one; the clients must be gone.
func (w *world) restart() {
	w.b.Drain(10 * time.Second)
	w.stop()
	w.start()
}

// torture is how many times longer than by default a random test runs:
// HOMING_TORTURE set to anything makes it thirty.
func torture(n int) int {
	if os.Getenv("HOMING_TORTURE") != "" {
		return 30 * n
	}
	return n
}

// watchdog fails the process with all stacks if the test takes too long: what
// it does cannot be waited for.
func watchdog(t testing.TB, limit time.Duration) {
	timer := time.AfterFunc(limit, func() { panic(t.Name() + " does not come to an end") })
	t.Cleanup(func() { timer.Stop() })
}

// stuck reports whether the connection had no room for something.
func (p *peer) stuck() bool {
	p.wire.mu.Lock()
	defer p.wire.mu.Unlock()
	return p.wire.missed
}
