package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

func shared(qos mq.QoS) mq.Subscription {
	return mq.Subscription{Filter: "$share/g/t/#", QoS: qos}
}

// groupOf returns the lender of the group, or nil.
func (w *world) groupOf(filter string) *lender {
	s := w.b.lockedIfKnown([]byte(shareInbox(filter)))
	if s == nil {
		return nil
	}
	defer s.mu.Unlock()
	return s.lender()
}

// sharedWorld is a group with members that do as they like.
type sharedWorld struct {
	*world
	t       testing.TB
	r       *rand.Rand
	qos     mq.QoS // of all messages and subscriptions
	members []*peer
	joined  map[*peer]bool
	told    []*results // by life of the server
	next    int
}

// TestSharedModel runs random histories of members of a shared subscription: what the
// publisher was told is safe reaches a member at least once, with QoS 2 and
// persistent members exactly once, and with one member in order.
// [MQTT-4.8.2-3] [MQTT-4.8.2-4] [MQTT-4.8.2-6]
func TestSharedModel(t *testing.T) {
	watchdog(t, time.Duration(torture(60))*time.Second)
	for seed := range uint64(torture(8)) {
		for qos := mq.QoS(1); qos <= 2; qos++ {
			r := rng(seed)
			mode := []store.SyncMode{store.SyncOS, store.SyncAlways}[r.IntN(2)]
			opt := Options{StoreAfter: []time.Duration{0, time.Millisecond, 4 * time.Millisecond}[r.IntN(3)]}
			w := &sharedWorld{world: newWorld(t, opt, mode), t: t, r: r, qos: qos, joined: map[*peer]bool{}, told: []*results{{}}}
			name := fmt.Sprintf("seed %d qos %d", seed, qos)
			if w.run(1 + r.IntN(4)); !w.check(name) {
				return
			}
			w.stop()
		}
	}
}

// run does a random history. Member 0 is persistent, joins first and never
// leaves the group, but for its connection.
func (w *sharedWorld) run(count int) {
	for i := range count {
		m := &peer{id: fmt.Sprint("m", i), receiveMax: []int{1, 2, 5, 1000}[w.r.IntN(4)], expiry: NeverExpires}
		if i > 0 && w.qos == 1 && w.r.IntN(2) == 0 {
			m.expiry = 0
		}
		w.members = append(w.members, m)
	}
	w.online(w.members[0], true)
	w.members[0].subscribe(w.world, shared(w.qos))
	w.joined[w.members[0]] = true
	for range 20 + w.r.IntN(100) {
		w.step(w.members[w.r.IntN(count)])
	}
	for _, m := range w.members {
		w.online(m, false)
		m.room(w.world, -1)
	}
	w.b.Drain(5 * time.Second)
	for end := time.Now().Add(5 * time.Second); ; {
		w.drain(w.members...)
		l := w.groupOf(shared(0).Filter)
		l.s.mu.Lock()
		left := l.s.count + l.s.win.n
		l.s.mu.Unlock()
		if left == 0 || time.Now().After(end) {
			return // the rest is for check to find
		}
	}
}

func (w *sharedWorld) step(m *peer) {
	r := w.r
	switch n := r.IntN(24); {
	case n < 7:
		for range 1 + r.IntN(8) {
			w.next++
			w.send("t/"+fmt.Sprint(r.IntN(3)), fmt.Sprint(w.next), w.qos, false, w.told[len(w.told)-1], w.next)
		}
	case n < 12:
		m.ack(w.world, 1+r.IntN(6))
	case n < 14:
		m.room(w.world, r.IntN(5)-1)
	case n < 15:
		w.settle()
	case n < 18:
		m.receive()
		w.online(m, m.expiry == 0) // takes over
		if m.expiry == 0 {
			w.joined[m] = false
		}
	case n < 20:
		m.leave(w.world, abrupt)
		if m.expiry == 0 {
			w.joined[m] = false
		}
	case n < 21 && m.wire != nil:
		m.subscribe(w.world, shared(w.qos))
		w.joined[m] = true
	case n < 22 && m.wire != nil && m != w.members[0]:
		m.receive()
		m.unsubscribe(w.world, shared(0).Filter)
		w.joined[m] = false
	case n < 23 && r.IntN(3) == 0:
		for _, m := range w.members {
			m.leave(w.world, proper)
		}
		w.restart()
	case n < 24 && w.sync == store.SyncAlways:
		frozen := snapshot(w.told[len(w.told)-1])
		for _, m := range w.members {
			m.receive()
		}
		w.crash(r.IntN(101))
		w.told[len(w.told)-1] = frozen
		w.told = append(w.told, &results{})
		for _, m := range w.members {
			m.wire, m.owes = nil, nil
		}
	}
}

func (w *sharedWorld) check(name string) bool {
	seen := map[string]int{}
	for _, m := range w.members {
		for _, k := range m.got {
			seen[k.payload]++
		}
	}
	for n := 1; n <= w.next; n++ {
		if c := seen[fmt.Sprint(n)]; w.qos == 2 && c > 1 {
			w.t.Errorf("%s: message %d came %d times", name, n, c)
		}
	}
	for _, r := range w.told {
		for n, code := range snapshot(r).code {
			if code == mq.OK && seen[fmt.Sprint(n)] == 0 {
				w.t.Errorf("%s: message %d acknowledged and lost", name, n)
			} else if code != mq.OK {
				w.t.Errorf("%s: message %d: %v", name, n, code)
			}
		}
	}
	if len(w.members) == 1 && !firstsInOrder(w.members[0].got) {
		w.t.Errorf("%s: out of order: %v", name, payloads(w.members[0].got))
	}
	w.checkEmpty(name)
	return !w.t.Failed()
}

// checkEmpty: nothing is left anywhere, and the counts say so.
func (w *sharedWorld) checkEmpty(name string) {
	w.settle()
	l := w.groupOf(shared(0).Filter)
	if l == nil {
		w.t.Errorf("%s: no group", name)
		return
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if g := l.s; g.count != 0 || g.bytes != 0 || g.held != 0 || g.heldBytes != 0 || g.pendingBytes != 0 || g.win.n != 0 || g.tail.n != 0 || len(l.returned) > 0 {
		w.t.Errorf("%s: the group has count %d bytes %d held %d heldBytes %d pending %d window %d tail %d returned %v",
			name, g.count, g.bytes, g.held, g.heldBytes, g.pendingBytes, g.win.n, g.tail.n, l.returned)
	}
	for _, m := range l.members {
		if m.lent != 0 || !w.joined[w.members[slices.IndexFunc(w.members, func(p *peer) bool { return p.id == m.s.id })]] {
			w.t.Errorf("%s: member %s has %d", name, m.s.id, m.lent)
		}
	}
	if n := w.b.PendingBytes(); n != 0 {
		w.t.Errorf("%s: %d bytes pending", name, n)
	}
	if n := l.online.Load(); int(n) != len(l.members) {
		w.t.Errorf("%s: %d of %d online", name, n, len(l.members))
	}
}

// firstsInOrder reports whether the first arrivals of numbered messages ascend.
func firstsInOrder(list []packet) bool {
	last, seen := 0, map[string]bool{}
	for _, k := range list {
		if seen[k.payload] {
			continue
		}
		seen[k.payload] = true
		n, _ := strconv.Atoi(k.payload)
		if n < last {
			return false
		}
		last = n
	}
	return true
}

// TestSharedMove: a QoS 2 message is put into the member's inbox and taken out of
// the group's as one unit: no crash makes two of it.
func TestSharedMove(t *testing.T) {
	for range 5 {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
		a := w.online(&peer{id: "a", expiry: 1000}, true)
		b := w.online(&peer{id: "b", expiry: 1000}, true)
		a.subscribe(w, shared(2))
		b.subscribe(w, shared(2))
		for n := range 4 {
			w.send("t/x", fmt.Sprint(n), 2, false, &results{}, n)
		}
		for end := time.Now().Add(5 * time.Second); len(a.got)+len(b.got) < 4 && time.Now().Before(end); {
			a.receive()
			b.receive()
		}
		a.wire, b.wire, a.owes, b.owes = nil, nil, nil, nil
		w.crash(0)
		w.online(a, false)
		w.online(b, false)
		w.drain(a, b)
		all := append(payloads(a.got), payloads(b.got)...)
		if slices.Sort(all); !slices.Equal(all, []string{"0", "1", "2", "3"}) {
			t.Errorf("came: %v", all)
		}
		w.stop()
	}
}

// TestSharedTooLarge: a message that is too large for one member goes to another;
// if it is for all, it is dropped and holds nothing up. [MQTT-3.1.2-24] [MQTT-3.1.2-25]
func TestSharedTooLarge(t *testing.T) {
	for qos := mq.QoS(0); qos <= 2; qos++ {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
		small := w.online(&peer{id: "small", limit: 10, expiry: 100}, true)
		large := w.online(&peer{id: "any", expiry: 100}, true)
		small.subscribe(w, shared(2))
		large.subscribe(w, shared(2))
		big := strings.Repeat("big", 10)
		for n := range 6 {
			w.send("t/x", big, qos, false, &results{}, n)
		}
		w.drain(small, large)
		if len(small.got) != 0 || len(large.got) != 6 {
			t.Errorf("qos %d: %d and %d big messages came", qos, len(small.got), len(large.got))
		}
		large.unsubscribe(w, shared(2).Filter)
		w.send("t/x", big, qos, false, &results{}, 7)
		w.send("t/x", "small", qos, false, &results{}, 8)
		w.drain(small, large)
		if n := w.b.Stats.Dropped[mq.DropTooLarge].Load(); !slices.Equal(payloads(small.got), []string{"small"}) || n != 1 {
			t.Errorf("qos %d: after a big one came %v, %d dropped", qos, payloads(small.got), n)
		}
		w.stop()
	}
}

// TestSharedBalance: members that are equally quick get equally much.
func TestSharedBalance(t *testing.T) {
	for qos := mq.QoS(0); qos <= 2; qos++ {
		for _, withhold := range []bool{false, true} {
			if withhold && qos == 2 {
				continue // a persistent member answers for what was moved to it at once
			}
			w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
			var all []*peer
			for i := range 4 {
				p := w.online(&peer{id: fmt.Sprint("m", i), expiry: uint32(i % 2 * 1000)}, true)
				p.subscribe(w, shared(qos))
				all = append(all, p)
			}
			for n := range 80 {
				w.send("t/x", fmt.Sprint(n), qos, false, &results{}, n)
				if !withhold {
					w.drain(all...)
				}
			}
			w.settle()
			for _, p := range all {
				p.receive()
				if len(p.got) < 18 || len(p.got) > 22 {
					t.Errorf("qos %d, withheld %v: %s got %d of 80", qos, withhold, p.id, len(p.got))
				}
			}
			w.drain(all...)
			w.stop()
		}
	}
}

// TestSharedEnds: the group goes with its last member, and what waits in it.
func TestSharedEnds(t *testing.T) {
	ways := map[string]func(*world, *peer){
		"unsubscribe": func(w *world, p *peer) { p.unsubscribe(w, shared(0).Filter) },
		"clean start": func(w *world, p *peer) { w.online(p, true) },
		"end":         func(w *world, p *peer) { p.leave(w, Departure{Expiry: new(uint32)}) },
	}
	for name, end := range ways {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
		p := w.online(&peer{id: "p", expiry: 1000, receiveMax: 1}, true)
		p.subscribe(w, shared(2))
		for n := range 10 {
			w.send("t/x", fmt.Sprint(n), 2, false, &results{}, n)
		}
		w.settle()
		end(w, p)
		w.settle()
		if l := w.groupOf(shared(0).Filter); l != nil {
			t.Errorf("%s: the group is still there with %d members", name, len(l.members))
		}
		if n := w.b.Stats.Groups.Load(); n != 0 {
			t.Errorf("%s: %d groups counted", name, n)
		}
		if n := w.b.Stats.Connected.Load(); n > 1 || name == "end" && n != 0 {
			t.Errorf("%s: %d connected", name, n)
		}
		w.crash(100)
		w.online(p, true)
		p.subscribe(w, shared(2))
		p.got, p.held = nil, nil
		w.drain(p)
		if len(p.got) > 0 {
			t.Errorf("%s: a new group gets %v of the old one", name, payloads(p.got))
		}
		w.send("t/x", "new", 1, false, &results{}, 11)
		if w.drain(p); !slices.Equal(payloads(p.got), []string{"new"}) {
			t.Errorf("%s: a new group got %v", name, payloads(p.got))
		}
		w.stop()
	}
}

// TestSharedOffline: a group of which nobody is online keeps, and gives all to
// whom comes first. With QoS 2 what was moved to a member waits for it, also if
// others come [MQTT-4.8.2-4].
func TestSharedOffline(t *testing.T) {
	for qos := mq.QoS(1); qos <= 2; qos++ {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
		a := w.online(&peer{id: "a", expiry: 1000, receiveMax: 3}, true)
		b := w.online(&peer{id: "b", expiry: 1000}, true)
		a.subscribe(w, shared(2))
		b.subscribe(w, shared(2))
		b.leave(w, proper)
		var r results
		for n := range 10 {
			w.send("t/x", fmt.Sprint(n), qos, false, &r, n)
		}
		w.settle()
		a.leave(w, abrupt)
		if len(a.got) != 3 || w.groupOf(shared(0).Filter) == nil {
			t.Fatalf("a got %v", payloads(a.got))
		}
		for n := 10; n < 20; n++ {
			w.send("t/x", fmt.Sprint(n), qos, false, &r, n)
		}
		w.settle()
		w.crash(0)
		w.online(b, false)
		w.drain(b)
		if want := []int{0, 20, 17}[qos]; len(b.got) != want || !firstsInOrder(b.got) {
			t.Errorf("qos %d: b got %v, want %d", qos, payloads(b.got), want)
		}
		a.got = nil
		w.online(a, false)
		w.drain(a)
		if len(a.got) != 0 || len(a.held) != 0 {
			t.Errorf("qos %d: a got %v, holds %v", qos, payloads(a.got), a.held)
		}
		w.stop()
	}
}

// TestSharedConcurrent does everything at once: publishers of all kinds, members
// of two groups that come, go, take over, subscribe, unsubscribe and stall.
func TestSharedConcurrent(t *testing.T) {
	watchdog(t, time.Duration(torture(60))*time.Second)
	for seed := range uint64(torture(3)) {
		sharedConcurrent(t, seed)
	}
}

func sharedConcurrent(t *testing.T, seed uint64) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond, PendingSize: 16 << 10, PendingAll: 1 << 20}, store.SyncOS)
	defer w.stop()
	const members, publishers, each = 5, 4, 250
	all := make([]*peer, members)
	for i := range all {
		all[i] = w.online(&peer{id: fmt.Sprint("m", i), expiry: uint32(i%3) * 1000, receiveMax: 1 + i*i*3}, true)
		all[i].expiry = max(all[i].expiry, uint32(1-min(i, 1))*1000)
	}
	anchor := w.online(&peer{id: "anchor", expiry: 1000}, true)
	anchor.subscribe(w, mq.Subscription{Filter: "$share/g/t/#", QoS: 2}, mq.Subscription{Filter: "$share/h/t/+", QoS: 1})
	anchor.leave(w, proper)
	var res [publishers]results
	var pubs, recv sync.WaitGroup
	for i := range publishers {
		pubs.Go(func() { publishAtRandom(w, i, each, rng(seed*10+uint64(i)), &res[i]) })
	}
	stop := make(chan struct{})
	for i, p := range all {
		recv.Go(func() { memberAtRandom(w, p, rng(seed*100+uint64(i)), stop) })
	}
	pubs.Wait()
	close(stop)
	recv.Wait()
	all = append(all, anchor)
	for _, p := range all {
		w.online(p, false)
	}
	w.drain(all...)
	seen := map[string]bool{}
	for _, p := range all {
		for _, k := range p.got {
			seen[k.payload] = true
		}
	}
	for i := range res {
		for n, code := range snapshot(&res[i]).code {
			if code != mq.OK || !seen[fmt.Sprintf("%d-%d", i, n)] {
				t.Errorf("seed %d: message %d of %d: %v, received %v", seed, n, i, code, seen[fmt.Sprintf("%d-%d", i, n)])
			}
		}
	}
	if n := w.b.PendingBytes(); n != 0 {
		t.Errorf("seed %d: %d bytes pending", seed, n)
	}
}

// publishAtRandom publishes with all QoS, retained or not; publisher 0 as a
// persistent session with QoS 2 claims.
func publishAtRandom(w *world, i, each int, r *rand.Rand, res *results) {
	p := &peer{id: fmt.Sprint("pub", i), expiry: 1000}
	if i == 0 {
		_ = p.connect(w, true, nil)
	}
	for n := 1; n <= each; n++ {
		m := &mq.Message{Topic: fmt.Appendf(nil, "t/%d", r.IntN(3)), Payload: fmt.Appendf(nil, "%d-%d", i, n), QoS: mq.QoS(r.IntN(3)), Retain: r.IntN(8) == 0}
		p.batch.Begin()
		src := Source{Principal: &mq.Principal{}}
		if i == 0 {
			m.QoS = 2
			src.Session = p.wire.sess
			w.b.PublishQoS2(src, m, QoS2Publish{Conn: p.wire, PacketID: uint16(n), Room: 65535}, &p.batch)
		} else {
			w.b.Publish(src, m, res, uint64(n), &p.batch)
		}
		if r.IntN(3) > 0 {
			p.batch.Flush()
		}
		if r.IntN(10) == 0 {
			p.batch.Flush()
			dawdle(r, 2*time.Millisecond)
		}
		p.release(w, res)
	}
	p.batch.Flush()
	for w.settle(); i == 0 && len(p.wire.sess.openClaims()) > 0; w.settle() {
		p.release(w, res)
	}
}

// release sends PUBREL for every PUBREC, and notes what was said.
func (p *peer) release(w *world, res *results) {
	if p.wire == nil {
		return
	}
	_, acks := p.wire.take()
	for _, a := range acks {
		if a.kind == Pubrec {
			res.Complete(uint64(a.pid), a.code, nil)
			w.b.Pubrel(p.wire.sess, p.wire, a.pid, &p.batch)
		}
	}
	p.batch.Flush()
}

func (s *Session) openClaims() map[uint16]*claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	sd := s.sender.Load()
	if sd == nil {
		return nil
	}
	return maps.Clone(sd.claims)
}

func memberAtRandom(w *world, p *peer, r *rand.Rand, stop chan struct{}) {
	subs := []mq.Subscription{{Filter: "$share/g/t/#", QoS: 2}, {Filter: "$share/h/t/+", QoS: 1}, {Filter: "t/1", QoS: 2, ID: 7}, {Filter: "#", QoS: 1}}
	var gone sync.WaitGroup
	defer gone.Wait()
	for {
		select {
		case <-stop:
			return
		default:
		}
		switch n := r.IntN(40); {
		case n < 22:
			p.ack(w, 1+r.IntN(10))
		case n < 25:
			dawdle(r, 800*time.Microsecond)
		case n < 28 && p.wire != nil:
			p.subscribe(w, subs[r.IntN(len(subs))])
		case n < 31 && p.wire != nil:
			p.unsubscribe(w, subs[r.IntN(len(subs))].Filter)
		case n < 35:
			p.room(w, r.IntN(6)-1)
		case n < 38:
			old := p.wire
			var will *Will
			if r.IntN(2) == 0 {
				will = &Will{Delay: uint32(r.IntN(2)), Message: mq.Message{Topic: []byte("t/2"), Payload: []byte("will"), QoS: mq.QoS(r.IntN(3)), Retain: r.IntN(2) == 0}}
			}
			_ = p.connect(w, r.IntN(4) == 0, will)
			if old != nil { // what its gateway goroutine does
				gone.Go(func() {
					var b Batch
					b.Begin()
					w.b.Disconnect(old.sess, old, abrupt, &b)
					b.Flush()
				})
			}
		default:
			p.leave(w, abrupt)
			dawdle(r, time.Millisecond)
			_ = p.connect(w, false, nil)
		}
	}
}

// TestSharedAndOwn: a member of a shared subscription that also has one of its own
// gets a QoS 2 message by both; they are locked together with the group.
func TestSharedAndOwn(t *testing.T) {
	w := newWorld(t, Options{}, store.SyncOS)
	defer w.stop()
	d := &device{id: "dev", persistent: true, window: 100}
	w.connect(d, true)
	w.b.Subscribe(d.sess, &mq.Principal{}, []mq.Subscription{{Filter: "news", QoS: 2}, {Filter: "$share/g/news", QoS: 2}}, &w.batch)
	w.batch.Flush()
	s := &device{id: "sender", persistent: true, window: 10}
	w.connect(s, true)
	for n := 1; n <= 20; n++ {
		w.pub2(s, "news", n, uint16(n))
	}
	w.settle()
	w.drainAll(d)
	got := map[int]int{}
	for _, p := range d.got {
		got[p.n]++
	}
	for n := 1; n <= 20; n++ {
		if got[n] != 2 {
			t.Errorf("message %d came %d times, want 2", n, got[n])
		}
	}
}
