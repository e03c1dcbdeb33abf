package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// pass lets time go by for sessions and wills, also in the store, and does the
// housekeeping.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	ms := d.Milliseconds()
	for i := range w.b.registry.shards {
		for _, s := range w.b.registry.shards[i].snapshot() {
			w.b.age(s.id, ms)
		}
	}
	for _, q := range []*timeQueue{&w.b.expiries, &w.b.wills} {
		q.mu.Lock()
		for i := range q.heap {
			q.heap[i].at -= ms
		}
		q.mu.Unlock()
	}
	w.housekeep()
}

func (b *Broker) age(id string, ms int64) {
	s := b.acquire(id)
	if !s.exists || s.conn != nil {
		s.unlock()
		return
	}
	if s.deadline > 0 {
		s.deadline -= ms
	}
	if s.will != nil && s.will.due > 0 {
		s.will.due -= ms
	}
	s.occupy()
	s.mu.Unlock()
	s.keepMeta()
	s.mu.Lock()
	s.vacate()
	s.unlock()
}

// housekeep does what is due and waits for it.
func (w *world) housekeep() {
	w.t.Helper()
	var batch Batch
	for range 2 {
		batch.Begin()
		w.b.endSessions(&batch)
		w.b.fireWills(w.b.Now(&batch))
		batch.Flush()
		time.Sleep(time.Millisecond) // the broker's own may have begun something
		if !poll(10*time.Second, func() bool { return len(w.b.slots) == 0 }) {
			w.t.Fatal("housekeeping does not come to an end")
		}
		w.settle()
	}
}

// willCase is a history of one client with a will.
type willCase struct {
	expiry, delay uint32
	ending        string // of the connection with the will
	then          string // what befalls the server after
	back          string // how the client comes back, before anything is due
	qos           mq.QoS
	retain        bool
}

func (c willCase) String() string {
	return fmt.Sprintf("expiry %d delay %d, %s, then %q, back %q, qos %d retain %v", c.expiry, c.delay, c.ending, c.then, c.back, c.qos, c.retain)
}

func willCases() (all []willCase) {
	n := 0
	add := func(ending, then, back string) {
		for _, expiry := range []uint32{0, 10, NeverExpires} {
			for _, delay := range []uint32{0, 5, 20} {
				n++
				c := willCase{expiry, delay, ending, then, back, mq.ExactlyOnce, n%5 == 0}
				if n%2 == 0 && then == "" && ending != "crash" { // else a repetition could be of the watcher's doing
					c.qos = mq.AtLeastOnce
				}
				all = append(all, c)
			}
		}
	}
	for _, ending := range []string{"proper", "end at once", "taken over clean", "taken over"} {
		add(ending, "", "")
	}
	add("proper", "crash", "")
	for _, back := range []string{"", "clean", "resume"} {
		for _, then := range []string{"", "crash", "restart"} {
			add("abrupt", then, back)
		}
		add("crash", "", back)
	}
	return all
}

// never is a time that does not come in these tests, seconds.
const never = 1 << 30

// due is when the will must be published, seconds after the end of the
// connection.
func (c willCase) due() uint32 {
	at := min(c.delay, c.expiry)
	switch {
	case c.ending == "proper": // [MQTT-3.1.2-10] [MQTT-3.14.4-3]
		return never
	case c.ending == "end at once", c.ending == "taken over clean": // [MQTT-3.1.2-8]
		return 0
	case at == 0, c.back == "clean":
		return 0
	case c.ending == "taken over", c.back == "resume": // [MQTT-3.1.3-9]
		return never
	}
	return at
}

// TestWills: every way in which a connection ends, and the will is published
// when it must be, once.
// [MQTT-3.1.2-7] [MQTT-3.1.2-8] [MQTT-3.1.2-10] [MQTT-3.1.3-9] [MQTT-3.14.4-3] [MQTT3-3.1.2-8] [MQTT3-3.1.2-10] [MQTT3-3.14.4-3]
func TestWills(t *testing.T) {
	together := map[[2]bool][]willCase{} // those in one world: by what befalls the server
	for _, c := range willCases() {
		k := [2]bool{c.ending == "crash" || c.then == "crash", c.ending == "crash" || c.then == "restart"}
		together[k] = append(together[k], c)
	}
	for _, list := range together {
		runWills(t, list)
	}
}

func runWills(t *testing.T, list []willCase) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	defer func() { w.stop() }()
	watcher := w.online(&peer{id: "watcher", expiry: NeverExpires}, true)
	watcher.subscribe(w, mq.Subscription{Filter: "w/+", QoS: 2})
	peers := []*peer{watcher}
	for i, c := range list {
		p := &peer{id: fmt.Sprint("p", i), expiry: c.expiry}
		peers = append(peers, p)
		will := &Will{Delay: c.delay, Message: mq.Message{Topic: fmt.Append(nil, "w/", i), Payload: []byte("will"), QoS: c.qos, Retain: c.retain}}
		if err := p.connect(w, true, will); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range list {
		c.end(w, peers[i+1])
	}
	switch {
	case list[0].ending == "crash" || list[0].then == "crash":
		w.crashUnder(peers...)
	case list[0].then == "restart":
		w.drain(watcher)
		watcher.leave(w, proper)
		w.restart()
	}
	w.drain(watcher)
	w.online(watcher, false)
	for i, c := range list {
		if c.back != "" {
			w.online(peers[i+1], c.back == "clean")
		}
	}
	elapsed := uint32(0)
	for _, step := range []uint32{0, 3, 3, 6, 18} { // 0, 3, 6, 12, 30 s
		elapsed += step
		w.pass(time.Duration(step) * time.Second)
		w.drain(watcher)
		checkWills(t, list, watcher, elapsed)
	}
	for i, c := range list { // 30 s are over
		want := peers[i+1].wire != nil || c.expiry == NeverExpires && c.ending != "end at once"
		for end := time.Now().Add(3 * time.Second); ; w.housekeep() {
			there := w.b.registry.find([]byte(peers[i+1].id)) != nil
			if there == want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%v: the session is there: %v, want %v", c, there, want)
			}
		}
	}
	w.crashUnder(peers...)
	w.online(watcher, false)
	w.pass(30 * time.Second)
	w.drain(watcher)
	seen := map[string]bool{}
	watcher.got = slices.DeleteFunc(watcher.got, func(k packet) bool { // QoS 1 may come again after a crash
		again := seen[k.topic] && k.qos == 1
		seen[k.topic] = true
		return again
	})
	checkWills(t, list, watcher, elapsed)
	retained := 0
	for _, c := range list {
		if c.retain && c.due() != never {
			retained++
		}
	}
	if n := w.b.Stats.Retained.Load(); int(n) != retained {
		t.Errorf("%d wills retained, want %d", n, retained)
	}
}

func checkWills(t *testing.T, list []willCase, watcher *peer, elapsed uint32) {
	t.Helper()
	came := map[string]int{}
	for _, k := range watcher.got {
		came[k.topic]++
	}
	for i, c := range list {
		want := 0
		if c.due() <= elapsed {
			want = 1
		}
		if n := came[fmt.Sprint("w/", i)]; n != want {
			t.Errorf("%v: after %d s the will came %d times, want %d", c, elapsed, n, want)
		}
	}
}

func (c willCase) end(w *world, p *peer) {
	switch c.ending {
	case "proper":
		p.leave(w, proper)
	case "abrupt":
		p.leave(w, abrupt)
	case "end at once":
		p.leave(w, Departure{Expiry: new(uint32)})
	case "taken over clean":
		w.online(p, true)
	case "taken over":
		w.online(p, false)
	} // or the crash is the end
}

// crashUnder is a crash that peers see as the end of their connections.
func (w *world) crashUnder(peers ...*peer) {
	w.drain(peers...)
	for _, p := range peers {
		p.receive()
		p.wire, p.owes = nil, nil
	}
	w.crash(int(time.Now().UnixNano() % 101))
}

// TestWillReplaced: a new connection's will takes the place of the old one, and
// each is published or not for itself.
func TestWillReplaced(t *testing.T) {
	will := func(text string, delay uint32) *Will {
		return &Will{Delay: delay, Message: mq.Message{Topic: []byte("w"), Payload: []byte(text), QoS: 1}}
	}
	for _, crash := range []bool{false, true} {
		w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
		watcher := w.online(&peer{id: "watcher", expiry: NeverExpires}, true)
		watcher.subscribe(w, mq.Subscription{Filter: "w", QoS: 2})
		p := &peer{id: "p", expiry: 100}
		for i, step := range []struct {
			will  *Will
			clean bool
		}{{will("1", 50), true}, {will("2", 0), false}, {will("3", 60), false}, {will("4", 60), true}, {nil, false}, {will("5", 10), false}} {
			if err := p.connect(w, step.clean, step.will); err != nil {
				t.Fatal(i, err)
			}
			if i == 1 && crash {
				w.crashUnder(p, watcher)
				w.online(watcher, false)
			}
		}
		p.leave(w, abrupt)
		w.pass(20 * time.Second)
		w.drain(watcher)
		// 1 and 4 had a delay in which the client came back; 2 had none; 3 ended with its session.
		if got := payloads(watcher.got); !slices.Equal(got, []string{"2", "3", "5"}) {
			t.Errorf("crash %v: wills %v", crash, got)
		}
		w.stop()
	}
}

// rules allows what is in a set of user and topic.
type rules struct {
	mu      sync.Mutex
	allowed map[string]bool
}

func (r *rules) Allow(p *mq.Principal, a mq.Action, topic []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return a == mq.Subscribe || r.allowed[p.User+" "+string(topic)]
}

func (*rules) Grant(*mq.Principal, []byte) mq.Grant { return mq.GrantAll }
func (*rules) Version() uint64                      { return 0 }
func (*rules) Changed(func())                       {}

// TestWillRights: the rules of who had the connection hold when the will is
// published, also after a crash; and its message expiry begins then.
func TestWillRights(t *testing.T) {
	w := newWorld(t, Options{StoreAfter: time.Millisecond}, store.SyncAlways)
	w.stop()
	w.auth = &rules{allowed: map[string]bool{"ann w": true, "bob x": true}}
	w.start()
	defer func() { w.stop() }()
	watcher := w.online(&peer{id: "watcher", expiry: NeverExpires}, true)
	watcher.subscribe(w, mq.Subscription{Filter: "#", QoS: 2})
	for _, crash := range []bool{false, true} {
		for _, user := range []string{"ann", "bob"} {
			p := &peer{id: strings.ToUpper(user), expiry: 0}
			will := &Will{
				Principal: mq.Principal{User: user, ClientID: p.id}, Expires: true, Expiry: 100,
				Message: mq.Message{Topic: []byte("w"), Payload: []byte(user), QoS: 2},
			}
			if err := p.connect(w, true, will); err != nil {
				t.Fatal(err)
			}
			if crash {
				w.crashUnder(p, watcher)
				w.online(watcher, false)
				w.housekeep()
			} else {
				p.leave(w, abrupt)
			}
		}
	}
	w.drain(watcher)
	if got := payloads(watcher.got); !slices.Equal(got, []string{"ann", "ann"}) {
		t.Errorf("wills of %v", got)
	}
}

// TestWillForm: what was stored comes back, and nothing else is taken for a will.
func TestWillForm(t *testing.T) {
	will := &Will{
		Delay: 7, Expires: true, Expiry: 9, Principal: mq.Principal{User: "ü", AccessKey: "k"},
		Message: mq.Message{Topic: []byte("a/b"), Payload: []byte("p"), Props: []byte{1, 1}, QoS: 2, Retain: true, Keep: true},
	}
	b := will.encode()
	got, err := decodeWill(b, "id")
	if err != nil {
		t.Fatal(err)
	}
	m := got.Message
	if got.Delay != 7 || !got.Expires || got.Expiry != 9 || got.Principal.User != "ü" || got.Principal.AccessKey != "k" || got.Principal.ClientID != "id" ||
		string(m.Topic) != "a/b" || string(m.Payload) != "p" || string(m.Props) != "\x01\x01" || m.QoS != 2 || !m.Retain || !m.Keep {
		t.Errorf("%+v", got)
	}
	for n := range 13 {
		if _, err := decodeWill(b[:n], "id"); err == nil {
			t.Errorf("%d of %d bytes are taken for a will", n, len(b))
		}
	}
	if _, err := decodeWill(append([]byte{9}, b[1:]...), "id"); err == nil {
		t.Error("another form is taken for a will")
	}
}
