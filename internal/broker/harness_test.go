package broker

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// world is a broker on a store in memory, with devices and senders that keep
// to the MQTT rules and remember what happened to them.
type world struct {
	t     testing.TB
	fs    *vfs.MemFS
	sync  store.SyncMode
	opt   Options
	st    *store.Store
	b     *Broker
	batch Batch
	wrap  func(mq.Store) mq.Store
	auth  mq.Authorizer
	clock func() *clock.Clock // makes that of a process; nil: the default
	disk  func(vfs.FS) vfs.FS // nil, or what the store sees instead of fs

	inboxes, names mq.Limit // of the store
}

type allowAll struct{}

func (allowAll) Allow(*mq.Principal, mq.Action, []byte) bool { return true }
func (allowAll) Grant(*mq.Principal, []byte) mq.Grant        { return mq.GrantAll }
func (allowAll) Version() uint64                             { return 0 }
func (allowAll) Changed(func())                              {}

func newWorld(t testing.TB, opt Options, sync store.SyncMode) *world {
	return newWorldWith(t, opt, sync, nil)
}

// newWorldWith is newWorld with clocks that the test sets.
func newWorldWith(t testing.TB, opt Options, sync store.SyncMode, clock func() *clock.Clock) *world {
	w := &world{t: t, fs: vfs.NewCrashableMem(), opt: opt, sync: sync, clock: clock}
	w.start()
	return w
}

func (w *world) start() {
	var b *Broker
	var batch Batch
	ready := make(chan struct{})
	fs := vfs.FS(w.fs)
	if w.disk != nil {
		fs = w.disk(fs)
	}
	opt := w.opt
	if w.clock != nil {
		opt.Clock = w.clock()
	}
	st, err := store.Open(store.Options{
		Dir: "data", FS: fs, Sync: w.sync, SyncInterval: 50 * time.Millisecond, SegmentSize: 1 << 20, Retention: time.Hour, Clock: opt.Clock,
		Inboxes: w.inboxes, InboxNames: w.names,
		Done: func(ops []mq.Op, err error) {
			<-ready
			b.Committed(ops, err, &batch)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	opt.Store, opt.Auth, opt.Log = st, allowAll{}, slog.New(slog.DiscardHandler)
	if opt.PendingSize == 0 {
		opt.PendingSize, opt.PendingAll = 1<<20, 64<<20
	}
	if w.wrap != nil {
		opt.Store = w.wrap(st)
	}
	if w.auth != nil {
		opt.Auth = w.auth
	}
	b, err = New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	close(ready)
	w.st, w.b = st, b
}

func (w *world) stop() {
	w.b.Close()
	if err := w.st.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// crash loses power: what was not synced is gone, wholly or in part. The old
// server goes on with a file system that nobody sees any more.
func (w *world) crash(unsynced int) {
	fs := w.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng(uint64(time.Now().UnixNano()))})
	b, st := w.b, w.st
	w.fs = fs
	w.start()
	b.Close()
	_ = st.Close()
}

// sent is a PUBLISH that a connection got.
type sent struct {
	sender, n int
	qos       mq.QoS
	pid       uint16
	dup       bool
}

// link is a connection as the core sees it.
type link struct {
	mu     sync.Mutex
	in     []sent // PUBLISH not handled by the device yet
	rel    []uint16
	acks   []ackSent // for the client as a sender
	full   bool
	fulls  int
	closed bool
	sess   *Session
}

type ackSent struct {
	kind AckKind
	pid  uint16
	code mq.Code
}

func (l *link) SendConnack(s *Session, _ bool, _ *Batch) { l.sess = s }

func (l *link) SendPublish(m *mq.Message, h Header, _ *Batch) SendResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full {
		l.fulls++
		return SendFull
	}
	p := m.Payload
	l.in = append(l.in, sent{int(binary.BigEndian.Uint32(p)), int(binary.BigEndian.Uint32(p[4:])), h.QoS, h.PacketID, h.Dup})
	return Sent
}

func (l *link) SendAck(kind AckKind, pid uint16, code mq.Code, _ *Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind == Pubrel {
		l.rel = append(l.rel, pid)
		return
	}
	l.acks = append(l.acks, ackSent{kind, pid, code})
}

func (l *link) Flush(*Batch) {}

func (l *link) Close(CloseReason) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
}

func (l *link) take() (in []sent, rel []uint16, acks []ackSent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in, rel, acks = l.in, l.rel, l.acks
	l.in, l.rel, l.acks = nil, nil, nil
	return in, rel, acks
}

// device receives. It acknowledges in order, when told to.
type device struct {
	id         string
	persistent bool
	link       *link
	sess       *Session
	window     int
	got        []sent          // first arrivals and repetitions, QoS 2 deduplicated
	held       map[uint16]bool // QoS 2 identifiers between PUBLISH and PUBREL
	unacked    []sent
}

func (w *world) connect(d *device, clean bool) {
	w.batch.Begin()
	l := &link{}
	expiry := uint32(0)
	if d.persistent {
		expiry = NeverExpires
	}
	if clean {
		d.held = nil
	}
	s, err := w.b.Connect(ConnectRequest{ClientID: d.id, Conn: l, CleanStart: clean, Expiry: expiry, ReceiveMax: d.window}, &w.batch)
	if err != nil {
		w.t.Fatal(err)
	}
	d.link, d.sess, d.unacked = l, s, nil
	w.batch.Flush()
}

func (w *world) disconnect(d *device) {
	if d.link == nil {
		return
	}
	w.batch.Begin()
	w.b.Disconnect(d.sess, d.link, Departure{}, &w.batch)
	w.batch.Flush()
	d.link, d.sess = nil, nil
}

// receive lets the device see what has come, without acknowledging.
func (d *device) receive() {
	if d.link == nil {
		return
	}
	in, rel, _ := d.link.take()
	for _, p := range in {
		switch {
		case p.qos < 2:
			d.got = append(d.got, p)
		case !d.held[p.pid]:
			if d.held == nil {
				d.held = map[uint16]bool{}
			}
			d.held[p.pid] = true
			d.got = append(d.got, p)
		}
		if p.qos > 0 {
			d.unacked = append(d.unacked, p)
		}
	}
	for _, pid := range rel {
		delete(d.held, pid)
		d.unacked = append(d.unacked, sent{pid: pid, qos: 3}) // PUBCOMP is owed
	}
}

// ack acknowledges up to n packets.
func (w *world) ack(d *device, n int) {
	d.receive()
	if d.link == nil {
		return
	}
	w.batch.Begin()
	for ; n > 0 && len(d.unacked) > 0; n-- {
		p := d.unacked[0]
		d.unacked = d.unacked[1:]
		switch p.qos {
		case 1:
			w.b.Puback(d.sess, d.link, p.pid, &w.batch)
		case 2:
			w.b.Pubrec(d.sess, d.link, p.pid, false, &w.batch)
		case 3:
			w.b.Pubcomp(d.sess, d.link, p.pid, &w.batch)
		}
	}
	w.batch.Flush()
}

// results collects what senders are told, by message number.
type results struct {
	mu   sync.Mutex
	code map[int]mq.Code
}

func (r *results) Complete(token uint64, code mq.Code, _ *Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.code == nil {
		r.code = map[int]mq.Code{}
	}
	if _, twice := r.code[int(token)]; twice {
		panic(fmt.Sprintf("message %d completed twice", token))
	}
	r.code[int(token)] = code
}

func (r *results) get(n int) (mq.Code, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.code[n]
	return c, ok
}

func message(topic string, sender, n int, qos mq.QoS, keep bool) *mq.Message {
	p := binary.BigEndian.AppendUint32(nil, uint32(sender))
	p = binary.BigEndian.AppendUint32(p, uint32(n))
	return &mq.Message{Topic: []byte(topic), Payload: p, QoS: qos, Keep: keep}
}

// publish sends message n of a sender without a session.
func (w *world) publish(topic string, sender, n int, qos mq.QoS, keep bool, r *results) {
	w.batch.Begin()
	m := message(topic, sender, n, qos, keep)
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, r, uint64(n), &w.batch)
	clear(m.Topic) // borrowed until Publish returns: show who keeps it
	clear(m.Payload)
	w.batch.Flush()
}

// settle waits until the store has answered everything.
func (w *world) settle() {
	w.t.Helper()
	if !poll(10*time.Second, func() bool { return w.b.unanswered.Load() == 0 && !w.b.wheel.busy() }) {
		w.t.Fatalf("does not settle: %d unanswered", w.b.unanswered.Load())
	}
}

// searching reports whether a session is about to send retained messages.
func (w *world) searching() bool {
	for i := range w.b.registry.shards {
		for _, s := range w.b.registry.shards[i].snapshot() {
			s.mu.Lock()
			busy := s.owing || s.pumping
			s.mu.Unlock()
			if busy {
				return true
			}
		}
	}
	return false
}

func (w *wheel) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n > 0
}

// drainAll acknowledges until the device gets nothing more.
func (w *world) drainAll(d *device) {
	w.t.Helper()
	quiet := 0
	for i := 0; quiet < 3; i++ {
		if i > 100_000 {
			w.t.Fatal("device does not come to an end")
		}
		before := len(d.got)
		w.ack(d, 1<<30)
		w.settle()
		d.receive()
		if len(d.got) == before && len(d.unacked) == 0 {
			quiet++
		} else {
			quiet = 0
		}
	}
}

func (l *link) Settle() {}

func (l *link) Revoked() bool { return false }

func (l *link) Quiesce() {}

func (l *link) Takes(*mq.Message, Header) bool { return true }
