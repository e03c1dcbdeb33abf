package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// kept is what a topic may have: the last value the publisher was told is safe,
// or any published after that. Text "": none.
type kept struct {
	text string
	qos  mq.QoS
	n    int // of the publish
}

// retainedWorld compares retained messages with a map.
type retainedWorld struct {
	*world
	t      *testing.T
	r      *rand.Rand
	told   *results
	topics map[string][]kept
	next   int
	sender *peer // persistent
}

// TestRetainedModel runs random histories of retained messages: subscribers get
// what was retained last, also after a power loss.
// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT3-3.3.1-5] [MQTT3-3.3.1-6] [MQTT3-3.3.1-7] [MQTT3-3.3.1-8]
// [MQTT3-3.3.1-10] [MQTT3-3.3.1-11]
func TestRetainedModel(t *testing.T) {
	for seed := range uint64(torture(3)) {
		w := &retainedWorld{
			world: newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways), t: t,
			r: rng(seed), told: &results{}, topics: map[string][]kept{}, sender: &peer{id: "sender", expiry: NeverExpires},
		}
		w.online(w.sender, true)
		for range 120 {
			w.step()
		}
		w.stop()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func (w *retainedWorld) step() {
	switch n := w.r.IntN(20); {
	case n < 12:
		w.put()
	case n < 15:
		w.look(randomFilter(w.r))
	case n < 16:
		w.settle()
	case n < 17:
		w.expiring()
	case n < 18:
		w.sender.leave(w.world, proper)
		w.restart()
		w.online(w.sender, false)
		w.look("#")
	case n < 20 && w.r.IntN(2) == 0:
		w.lose()
	}
}

// put sets or removes the message of a topic.
func (w *retainedWorld) put() {
	topic := randomTopic(w.r)
	if kind, _ := mq.ParseTopic([]byte(topic)); kind != mq.TopicPlain && kind != mq.TopicSystem {
		return
	}
	w.next++
	k := kept{text: fmt.Sprint(w.next), qos: mq.QoS(w.r.IntN(3)), n: w.next}
	if w.r.IntN(3) == 0 {
		k.text = ""
	}
	w.topics[topic] = append(w.topics[topic], k)
	if k.qos < 2 {
		w.send(topic, k.text, k.qos, true, w.told, k.n)
		return
	}
	p := w.sender
	p.batch.Begin()
	m := &mq.Message{Topic: []byte(topic), Payload: []byte(k.text), QoS: 2, Retain: true}
	w.b.PublishQoS2(Source{Principal: &mq.Principal{}, Session: p.wire.sess}, m, QoS2Publish{Conn: p.wire, PacketID: uint16(k.n), Room: 65535}, &p.batch)
	p.batch.Flush()
}

// known reports whether the publisher was told that the publish is safe.
func (w *retainedWorld) known(k kept) bool {
	if k.qos == 2 {
		w.sender.receive()
		return slices.ContainsFunc(w.sender.sent, func(a ackSent) bool { return a.kind == Pubrec && int(a.pid) == k.n })
	}
	_, ok := w.told.get(k.n)
	return ok
}

// look subscribes somebody new. Without a crash the last value holds.
func (w *retainedWorld) look(filter string) {
	if kind, _ := mq.ParseFilter([]byte(filter)); kind != mq.TopicPlain && kind != mq.TopicSystem {
		return
	}
	want := map[string]kept{}
	for topic, list := range w.topics {
		if last := list[len(list)-1]; last.text != "" && mq.MatchFilter([]byte(filter), []byte(topic)) {
			want[topic] = last
		}
	}
	sub := mq.Subscription{Filter: filter, QoS: mq.QoS(w.r.IntN(3)), ID: uint32(w.r.IntN(2) * 9)}
	got := w.seen(sub)
	for topic, k := range want {
		if g, ok := got[topic]; !ok || g.payload != k.text || g.qos != min(k.qos, sub.QoS) || !g.retain || g.dup || len(g.ids) != min(1, int(sub.ID)) {
			w.t.Errorf("filter %q: %s should have %+v, came: %v %v", filter, topic, k, ok, g)
		}
		delete(got, topic)
	}
	if len(got) > 0 {
		w.t.Errorf("filter %q: too many: %v", filter, got)
	}
}

// seen is what a new subscriber gets, by topic.
func (w *retainedWorld) seen(sub mq.Subscription) map[string]packet {
	p := w.online(&peer{id: "p", receiveMax: 1 + w.r.IntN(3), expiry: uint32(w.r.IntN(2)) * 100}, true)
	p.subscribe(w.world, sub)
	w.drain(p)
	got := map[string]packet{}
	for _, k := range p.got {
		if _, twice := got[k.topic]; twice {
			w.t.Errorf("%s came twice: %v", k.topic, p.got)
		}
		got[k.topic] = k
	}
	p.leave(w.world, Departure{Expiry: new(uint32)})
	return got
}

// expiring sets a message that nobody gets any more.
func (w *retainedWorld) expiring() {
	topic := randomTopic(w.r, "e")
	if kind, _ := mq.ParseTopic([]byte(topic)); kind != mq.TopicPlain && kind != mq.TopicSystem {
		return
	}
	w.batch.Begin()
	m := &mq.Message{Topic: []byte(topic), Payload: []byte("x"), QoS: 1, Retain: true, Expiry: w.b.Now(&w.batch) + 3}
	w.next++
	w.b.Publish(Source{Principal: &mq.Principal{}}, m, w.told, uint64(w.next), &w.batch)
	w.batch.Flush()
	w.topics[topic] = append(w.topics[topic], kept{n: w.next, qos: 1})
	poll(time.Second, func() bool { return time.Now().UnixMilli() > m.Expiry })
}

// lose loses power. What there is then must be something that it may be.
func (w *retainedWorld) lose() {
	safe := map[string]int{} // index of the last that is known to be safe
	for topic, list := range w.topics {
		safe[topic] = -1
		for i, k := range list {
			if w.known(k) {
				safe[topic] = i
			}
		}
	}
	w.sender.receive()
	w.sender.wire = nil
	w.crash(w.r.IntN(101))
	w.told = &results{}
	w.sender.sent = nil
	w.online(w.sender, true)
	got := w.seen(mq.Subscription{Filter: "#", QoS: 2})
	for topic, p := range w.seen(mq.Subscription{Filter: "$x/#", QoS: 2}) {
		got[topic] = p
	}
	for topic, list := range w.topics {
		may := list[max(safe[topic], 0):]
		if safe[topic] < 0 {
			may = append([]kept{{}}, list...)
		}
		text := got[topic].payload
		i := slices.IndexFunc(may, func(k kept) bool { return k.text == text })
		if i < 0 {
			w.t.Errorf("after a crash %s has %q, may have %+v", topic, text, may)
			i = 0
		}
		w.topics[topic] = []kept{{text: text, qos: may[i].qos, n: may[i].n}}
	}
}

// TestRetainedOwed: a client with a small window and a socket that is full now
// and then, that comes and goes, gets every retained message, and nothing older
// after something newer; also over a crash.
// [MQTT-3.3.4-9]
func TestRetainedOwed(t *testing.T) {
	for seed := range uint64(torture(2)) {
		r := rng(seed)
		for _, persistent := range []bool{false, true} {
			if owedHistory(t, r, persistent); t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func owedHistory(t *testing.T, r *rand.Rand, persistent bool) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	defer func() { w.stop() }()
	const topics = 150
	now := make([]int, topics) // number of the last message
	next := 0
	put := func(i int) {
		next++
		now[i] = next
		w.send(fmt.Sprint("r/", i), fmt.Sprint(next), mq.QoS(1+r.IntN(2)), true, &results{}, next)
	}
	for i := range topics {
		put(i)
	}
	w.settle()
	p := &peer{id: "p", receiveMax: 1 + r.IntN(5)}
	if persistent {
		p.expiry = NeverExpires
	}
	w.online(p, true)
	p.subscribe(w, mq.Subscription{Filter: "r/+", QoS: mq.QoS(1 + r.IntN(2))})
	begin := 0 // of the packets of this connection
	for range 60 {
		switch n := r.IntN(20); {
		case n < 9:
			p.ack(w, r.IntN(12))
		case n < 13:
			put(r.IntN(topics))
		case n < 15:
			p.room(w, r.IntN(8)-1)
		case n < 16:
			w.settle()
		case persistent:
			p.receive()
			ascending(t, p.got[begin:])
			switch r.IntN(4) {
			case 0:
				p.leave(w, proper)
				w.restart()
			case 1:
				w.settle()
				p.receive()
				p.wire, p.owes = nil, nil
				w.crash(r.IntN(101))
			case 2:
				p.leave(w, abrupt)
			}
			begin = len(p.got)
			w.online(p, false)
		}
	}
	w.drain(p)
	ascending(t, p.got[begin:])
	last := map[string]string{}
	for _, k := range p.got {
		last[k.topic] = k.payload
	}
	for i, n := range now {
		if got := last[fmt.Sprint("r/", i)]; got != fmt.Sprint(n) {
			t.Errorf("persistent %v: r/%d: %q came last, want %d", persistent, i, got, n)
		}
	}
}

// ascending: of each topic nothing older comes after something newer.
func ascending(t *testing.T, list []packet) {
	t.Helper()
	last := map[string]int{}
	for _, k := range list {
		n, _ := strconv.Atoi(k.payload)
		if n < last[k.topic] {
			t.Errorf("%v comes after %d", k, last[k.topic])
		}
		last[k.topic] = n
	}
}

// TestRetainedLive: while retained messages are looked up and sent, others
// replace them; the client ends with the newest of each.
func TestRetainedLive(t *testing.T) {
	watchdog(t, time.Duration(torture(60))*time.Second)
	for seed := range uint64(torture(2)) {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
		const topics, writers, each = 40, 3, 300
		var wg sync.WaitGroup
		var used [topics * writers]bool
		for i := range writers {
			wg.Go(func() { // each has topics of its own: their order is known
				r := rng(seed*10 + uint64(i))
				var b Batch
				for n := 1; n <= each; n++ {
					b.Begin()
					k := r.IntN(topics)*writers + i
					used[k] = true
					m := &mq.Message{Topic: fmt.Append(nil, "r/", k), Payload: []byte(fmt.Sprint(n)), QoS: mq.QoS(1 + r.IntN(2)), Retain: true}
					w.b.Publish(Source{Principal: &mq.Principal{}}, m, nil, 0, &b)
					b.Flush()
				}
			})
		}
		r := rng(seed)
		p := w.online(&peer{id: "p", receiveMax: 4, expiry: uint32(seed % 2 * 1000)}, true)
		for range 60 {
			p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: mq.QoS(1 + r.IntN(2))})
			for range r.IntN(30) {
				p.ack(w, 1+r.IntN(20))
			}
		}
		wg.Wait()
		w.drain(p)
		ascending(t, p.got)
		final := w.online(&peer{id: "final"}, true)
		final.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 1})
		w.drain(final)
		last := map[string]string{}
		for _, k := range p.got {
			last[k.topic] = k.payload
		}
		for _, k := range final.got {
			if last[k.topic] != k.payload {
				t.Errorf("seed %d: %v is retained, %s came last", seed, k, last[k.topic])
			}
		}
		want := 0
		for _, is := range used {
			if is {
				want++
			}
		}
		if len(last) != want || len(final.got) != want {
			t.Errorf("seed %d: messages of %d topics came, then %d retained ones; %d topics were published to", seed, len(last), len(final.got), want)
		}
		w.stop()
	}
}

// TestRetainedMany: very many retained messages for a client that takes three at
// a time.
func TestRetainedMany(t *testing.T) {
	many := min(torture(4000), 100_000)
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncOS)
	defer w.stop()
	var r results
	for i := range many {
		w.send(fmt.Sprint("r/", i), fmt.Sprint(i), mq.QoS(i%3), true, &r, i)
		if i%1000 == 0 {
			w.b.Throttle()
		}
	}
	w.settle()
	for _, expiry := range []uint32{0, 1000} {
		start := time.Now()
		p := w.online(&peer{id: fmt.Sprint("p", expiry), receiveMax: 3, expiry: expiry}, true)
		p.subscribe(w, mq.Subscription{Filter: "r/#", QoS: 2})
		for i, end := 0, time.Now().Add(300*time.Second); len(p.got) < many || len(p.owes) > 0; i++ {
			if time.Now().After(end) {
				t.Fatalf("%d of %d came", len(p.got), many)
			}
			p.ack(w, 1<<30)
			p.receive()
			if i%50 == 0 {
				p.room(w, i%7)
			} else if p.stuck() {
				p.room(w, -1)
			}
		}
		got := map[string]bool{}
		for _, k := range p.got {
			got[k.topic] = true
		}
		if len(got) != many || len(p.got) != many {
			t.Errorf("expiry %d: %d topics in %d messages, want %d", expiry, len(got), len(p.got), many)
		}
		t.Logf("expiry %d: %d messages took %v", expiry, many, time.Since(start))
	}
}
