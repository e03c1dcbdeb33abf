package test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// A witness is a well-behaved sender and its receivers, who count everything
// while others misbehave: no message of QoS 1 or 2 is lost, each comes in the
// order sent, QoS 2 once, QoS 1 again only with DUP.
type witness struct {
	s         *server
	kind      witnessKind
	name      string        // of this round
	lifetime  time.Duration // of an offline session
	sent, got atomic.Int64  // messages; got: the last that came, or for a group how many
	finished  atomic.Bool   // nothing more is sent
	ready     sync.WaitGroup
	group     groupLedger
}

// witnessKind is what a witness uses of MQTT.
type witnessKind struct {
	name             string
	sender, receiver mqtt.Version
	transport        string // of the receiver
	filter           string // to subscribe to, with the name; "": P2P
	restless         bool   // the receiver goes and comes back
	members          int    // of a shared subscription
}

var witnessKinds = []witnessKind{
	{"p2p", mqtt.V5, mqtt.V5, "mqtt", "", false, 1},
	{"p2p-restless", mqtt.V311, mqtt.V5, "mqtt", "", true, 1},
	{"p2p-websocket", mqtt.V5, mqtt.V311, "ws", "", false, 1},
	{"topic", mqtt.V31, mqtt.V5, "mqtt", "witness/%s", false, 1},
	{"topic-restless", mqtt.V5, mqtt.V311, "mqtt", "+/%s/#", true, 1},
	{"group", mqtt.V5, mqtt.V5, "mqtts", "$share/%s/witness/%[1]s", false, 2},
}

// lead is how many messages a sender may be ahead: fewer than an inbox takes.
const lead = 200

func (w *witness) topic() string {
	if w.kind.filter == "" {
		return "witness/p2p/" + w.name
	}
	return "witness/" + w.name
}

// run sends until stop is closed, and returns when everything has arrived, or
// what is wrong.
func (w *witness) run(stop <-chan struct{}) error {
	problems := make(chan error, w.kind.members+1)
	var all sync.WaitGroup
	w.ready.Add(w.kind.members)
	for i := range w.kind.members {
		all.Go(func() { problems <- w.receive(i) })
	}
	all.Go(func() { problems <- w.send(stop) })
	all.Wait()
	var list []error
	for len(problems) > 0 {
		list = append(list, <-problems)
	}
	if err := errors.Join(list...); err != nil {
		return fmt.Errorf("witness %s (%d sent, %d received): %w", w.name, w.sent.Load(), w.got.Load(), err)
	}
	return nil
}

// wire is a connection of a witness. What comes is read at all times.
type wire struct {
	net.Conn
	version mqtt.Version
	in      chan any // closed at the end
	err     error    // then: why
	stop    chan struct{}
	present bool
}

func (w *witness) wire(transport string, v mqtt.Version, c *mqtt.Connect) (*wire, error) {
	conn, err := w.s.dial(transport)
	if err != nil {
		return nil, err
	}
	l := &wire{Conn: conn, version: v, in: make(chan any, lead), stop: make(chan struct{})}
	go l.read()
	err = l.send(c)
	var ack *mqtt.Connack
	if err == nil {
		ack, err = await[*mqtt.Connack](l)
	}
	switch {
	case err == nil && ack.Code != 0:
		err = fmt.Errorf("refused: %v", ack.Code)
		fallthrough
	case err != nil:
		l.close()
		return nil, fmt.Errorf("CONNECT: %w", err)
	}
	l.present = ack.SessionPresent
	return l, nil
}

func (l *wire) read() {
	defer close(l.in)
	r := bufio.NewReader(l)
	for {
		x, err := readPacket(r, l.version)
		if err != nil {
			l.err = err
			return
		}
		select {
		case l.in <- x:
		case <-l.stop:
			return
		}
	}
}

// close ends the connection, once.
func (l *wire) close() {
	if !isClosed(l.stop) {
		close(l.stop)
	}
	l.Close()
}

func (l *wire) send(list ...packet) error {
	var b []byte
	for _, p := range list {
		b = p.Append(b, l.version)
	}
	_ = l.SetWriteDeadline(time.Now().Add(patience))
	_, err := l.Write(b)
	return err
}

// next takes the next packet; nil if none comes in time.
func (l *wire) next(limit time.Duration) (any, error) {
	select {
	case x, ok := <-l.in:
		if !ok {
			return nil, l.err
		}
		return x, nil
	case <-time.After(limit):
		return nil, nil
	}
}

// await takes the next packet, which must be a T.
func await[T any](l *wire) (T, error) {
	var none T
	x, err := l.next(patience)
	switch y, ok := x.(T); {
	case err != nil:
		return none, err
	case x == nil:
		return none, fmt.Errorf("in vain waited for a %T", none)
	case !ok:
		return none, fmt.Errorf("%v came before a %T", show([]any{x}), none)
	default:
		return y, nil
	}
}

// send publishes until stop is closed.
func (w *witness) send(stop <-chan struct{}) error {
	defer w.finished.Store(true)
	w.ready.Wait()
	c := &mqtt.Connect{ClientID: []byte(w.name + "-sender")} // a session: P2P messages are kept
	expires(never)(c)
	l, err := w.wire("mqtt", w.kind.sender, c)
	if err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	defer l.close()
	for began := time.Now(); !isClosed(stop); dawdle(2*time.Millisecond, 10*time.Millisecond) {
		if w.sent.Load()-w.got.Load() > lead {
			if time.Since(began) > patience {
				return errors.New("the receiver gets nothing any more")
			}
			continue
		}
		began = time.Now()
		if err := w.batch(l, 1+rand.IntN(6)); err != nil {
			return fmt.Errorf("sender: %w", err)
		}
	}
	return l.send(&mqtt.Disconnect{})
}

// batch publishes n messages at once and waits for all acknowledgements.
func (w *witness) batch(l *wire, n int) error {
	var list []packet
	for i := range n {
		k := w.sent.Load() + int64(i) + 1
		list = append(list, &mqtt.Publish{Topic: []byte(w.topic()), Payload: fmt.Append(nil, k), QoS: byte(1 + k%2), PacketID: uint16(i + 1)})
	}
	w.sent.Add(int64(n))
	if err := l.send(list...); err != nil {
		return err
	}
	for open := n; open > 0; {
		a, err := await[*mqtt.Ack](l)
		switch {
		case err != nil:
			return err
		case a.Code != 0:
			return fmt.Errorf("%v", show([]any{a}))
		case a.Type == mqtt.PUBREC:
			if err := l.send(&mqtt.Ack{Type: mqtt.PUBREL, PacketID: a.PacketID}); err != nil {
				return err
			}
		default:
			open--
		}
	}
	return nil
}

// receiver is one receiving client.
type receiver struct {
	w       *witness
	id      string
	wire    *wire
	last    int64           // the highest number that came
	open    map[uint16]bool // QoS 2 without PUBREL: outlives connections
	left    time.Time       // when it went
	skipped bool            // its session may have been away for longer than its lifetime
}

func (w *witness) receive(member int) error {
	r := &receiver{w: w, id: w.name, open: make(map[uint16]bool)}
	if w.kind.members > 1 {
		r.id = fmt.Sprint(w.name, "-", member)
	}
	defer func() {
		if r.wire != nil {
			r.wire.close()
		}
	}()
	err := r.connect(true)
	if err == nil {
		err = r.subscribe()
	}
	w.ready.Done()
	if err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	if err := r.loop(); err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	return nil
}

func (r *receiver) connect(first bool) error {
	c := &mqtt.Connect{ClientID: []byte(r.id)}
	expires(never)(c)
	if first && r.w.kind.receiver == mqtt.V5 { // else the session would end with the connection
		c.CleanStart = true
	}
	l, err := r.w.wire(r.w.kind.transport, r.w.kind.receiver, c)
	if err != nil {
		return err
	}
	if r.wire != nil {
		r.wire.close() // taken over, unless it was closed before
	}
	r.wire = l
	if away := time.Since(r.left); !first && !l.present {
		if away < r.w.lifetime/2 {
			return fmt.Errorf("the session is gone after %v", away)
		}
		r.skipped = true // this machine is too slow
		clear(r.open)
		return r.subscribe()
	}
	return nil
}

func (r *receiver) subscribe() error {
	if r.w.kind.filter == "" {
		return nil
	}
	err := r.wire.send(&mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: fmt.Appendf(nil, r.w.kind.filter, r.w.name), QoS: 2}}})
	if err != nil {
		return err
	}
	for {
		x, err := r.wire.next(patience)
		if err != nil {
			return err
		}
		ack, ok := x.(*mqtt.Suback)
		switch {
		case ok && ack.Codes[0] == 2:
			return nil
		case ok:
			return fmt.Errorf("SUBACK: %v", ack.Codes)
		}
		if err := r.take(x); err != nil {
			return err
		}
	}
}

// loop receives until everything has come.
func (r *receiver) loop() error {
	w := r.w
	stay := r.stay()
	for progress, seen := time.Now(), int64(0); ; {
		if got := w.got.Load(); got != seen {
			progress, seen = time.Now(), got
		}
		if w.finished.Load() && w.got.Load() == w.sent.Load() && len(r.open) == 0 {
			return r.wire.send(&mqtt.Disconnect{})
		}
		if time.Since(progress) > patience {
			return errors.New("messages are missing")
		}
		if w.kind.restless && time.Now().After(stay) {
			if err := r.leave(); err != nil {
				return err
			}
			stay = r.stay()
		}
		x, err := r.wire.next(20 * time.Millisecond)
		switch {
		case err != nil:
			return err
		case x == nil:
			continue
		}
		if err := r.take(x); err != nil {
			return err
		}
	}
}

// stay is until when a restless client stays connected.
func (r *receiver) stay() time.Time {
	return time.Now().Add(time.Duration(50+rand.IntN(300)) * time.Millisecond)
}

// leave goes, or is taken over, and comes back.
func (r *receiver) leave() error {
	r.left = time.Now()
	switch rand.IntN(3) {
	case 0:
		if err := r.wire.send(&mqtt.Disconnect{}); err != nil {
			return err
		}
		r.wire.close()
	case 1:
		if tcp := tcpOf(r.wire.Conn); tcp != nil {
			_ = tcp.SetLinger(0)
		}
		r.wire.close()
	}
	dawdle(0, 60*time.Millisecond)
	return r.connect(false)
}

// take counts and acknowledges.
func (r *receiver) take(x any) error {
	switch x := x.(type) {
	case *mqtt.Publish:
		if err := r.count(x); err != nil {
			return err
		}
		if x.QoS == 2 {
			r.open[x.PacketID] = true
		}
		return r.wire.send(&mqtt.Ack{Type: mqtt.PUBACK + mqtt.PacketType(x.QoS-1), PacketID: x.PacketID})
	case *mqtt.Ack:
		if x.Type == mqtt.PUBREL {
			delete(r.open, x.PacketID)
			return r.wire.send(&mqtt.Ack{Type: mqtt.PUBCOMP, PacketID: x.PacketID})
		}
	}
	return fmt.Errorf("%v came", show([]any{x}))
}

func (r *receiver) count(m *mqtt.Publish) error {
	var k int64
	if _, err := fmt.Sscan(string(m.Payload), &k); err != nil || m.QoS == 0 || m.Retain || string(m.Topic) != r.w.topic() || m.QoS != byte(1+k%2) {
		return fmt.Errorf("not what was sent: %v", show([]any{m}))
	}
	switch {
	case m.QoS == 2 && r.open[m.PacketID]: // the same again
		return nil
	case k <= r.last && m.QoS == 1 && m.Dup && r.w.kind.restless:
		return nil
	case k <= r.last:
		return fmt.Errorf("%v comes after %d", show([]any{m}), r.last)
	}
	if r.w.kind.members > 1 {
		r.last = k
		n, fresh := r.w.group.add(k)
		if !fresh {
			return fmt.Errorf("%v comes to a second member", show([]any{m}))
		}
		r.w.got.Store(n)
		return nil
	}
	if k != r.last+1 && !r.skipped {
		return fmt.Errorf("%v comes after %d", show([]any{m}), r.last)
	}
	r.last, r.skipped = k, false
	r.w.got.Store(k)
	return nil
}

// groupLedger is what the members of a group have received.
type groupLedger struct {
	mu   sync.Mutex
	seen map[int64]bool
}

// add returns how many have come, and whether k is new.
func (g *groupLedger) add(k int64) (n int64, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		g.seen = make(map[int64]bool)
	}
	fresh = !g.seen[k]
	g.seen[k] = true
	return int64(len(g.seen)), fresh
}
