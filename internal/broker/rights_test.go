package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// book is a set of rules that a test changes. A user may do what a filter of its
// covers, but for what it is denied; "" is everybody.
type book struct {
	mu      sync.RWMutex
	version uint64
	allow   map[string][]string // "pub user" or "sub user": filters
	deny    map[string][]string
	gone    map[string]bool // users that are deleted
	changed []func()
	asked   atomic.Int64 // calls of Allow for a subscriber
}

func newBook() *book {
	return &book{allow: map[string][]string{}, deny: map[string][]string{}, gone: map[string]bool{}}
}

// change is what Apply is for auth.Auth.
func (k *book) change(f func()) {
	k.mu.Lock()
	f()
	k.version++
	k.mu.Unlock()
	for _, f := range k.changed {
		f()
	}
}

func (k *book) Version() uint64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.version
}

func (k *book) Changed(f func()) { k.changed = append(k.changed, f) }

func (k *book) Allow(p *mq.Principal, a mq.Action, topic []byte) bool {
	if a == mq.Subscribe {
		k.asked.Add(1)
	}
	return k.decide(p, a, string(topic)) == mq.GrantAll
}

func (k *book) Grant(p *mq.Principal, filter []byte) mq.Grant {
	_, topic, shared := cutShare("$share/" + strings.TrimPrefix(string(filter), "$share/"))
	if !shared || !strings.HasPrefix(string(filter), "$share/") {
		topic = string(filter)
	}
	return k.decide(p, mq.Subscribe, topic)
}

// decide knows filters that end with # only, which is enough here.
func (k *book) decide(p *mq.Principal, a mq.Action, filter string) mq.Grant {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.gone[p.User] {
		return mq.GrantNone
	}
	what := [...]string{mq.Publish: "pub ", mq.Subscribe: "sub "}[a]
	below := func(x, y string) bool { // whether all that x matches is matched by y, x/# or #
		y = strings.TrimSuffix(y, "#")
		return strings.HasPrefix(x, y) || x+"/" == y
	}
	grant := mq.GrantNone
	for _, f := range slices.Concat(k.allow[what], k.allow[what+p.User]) {
		if below(filter, f) {
			grant = mq.GrantAll
		}
	}
	for _, f := range slices.Concat(k.deny[what], k.deny[what+p.User]) {
		switch {
		case below(filter, f):
			return mq.GrantNone
		case grant == mq.GrantAll && strings.HasSuffix(filter, "#") && below(f, filter):
			grant = mq.GrantPart
		}
	}
	return grant
}

// rightsWorld has a book, in which ann may publish everything, and bob may
// subscribe to what is below a.
type rightsWorld struct {
	*world
	k *book
	r results
	n int
}

func newRightsWorld(t testing.TB) *rightsWorld {
	k := newBook()
	k.allow["pub ann"], k.allow["sub bob"], k.allow["sub eve"] = []string{"#"}, []string{"a/#"}, []string{"a/#"}
	w := &rightsWorld{world: newWorld(t, Options{StoreAfter: 10 * time.Millisecond}, store.SyncOS), k: k}
	w.auth = k
	w.stop()
	w.start()
	t.Cleanup(w.stop)
	return w
}

// ann publishes, and waits until it is settled.
func (w *rightsWorld) ann(topic, text string, qos mq.QoS, retain bool) mq.Code {
	w.n++
	return w.annAt(topic, text, qos, retain, w.n)
}

func (w *rightsWorld) annAt(topic, text string, qos mq.QoS, retain bool, n int) mq.Code {
	var batch Batch
	batch.Begin()
	m := &mq.Message{Topic: []byte(topic), Payload: []byte(text), QoS: qos, Retain: retain}
	code := w.b.Publish(Source{Principal: &mq.Principal{User: "ann"}}, m, &w.r, uint64(n), &batch)
	batch.Flush()
	return code
}

// revoked is how many messages were not delivered because a right has gone.
func (w *rightsWorld) revoked() uint64 { return w.b.Stats.Dropped[mq.DropRevoked].Load() }

// who is a client that acts for a user.
type who struct {
	peer
	user string
	p    *mq.Principal
}

func (w *rightsWorld) client(id, user string, expiry uint32) *who {
	c := &who{peer: peer{id: id, expiry: expiry}, user: user}
	w.join(c)
	return c
}

// join connects, with a new login.
func (w *rightsWorld) join(c *who) {
	w.t.Helper()
	c.receive()
	c.p = &mq.Principal{Kind: mq.KindUser, ClientID: c.id, User: c.user, Standing: new(mq.Standing)}
	l := &wire{room: -1, p: c.p}
	c.batch.Begin()
	s, err := w.b.Connect(ConnectRequest{ClientID: c.id, Principal: c.p, Conn: l, Expiry: c.expiry, ReceiveMax: 65535}, &c.batch)
	if err != nil {
		w.t.Fatal(err)
	}
	l.sess, c.wire, c.owes = s, l, nil
	c.batch.Flush()
}

func (w *rightsWorld) sub(c *who, filters ...string) {
	w.t.Helper()
	for _, f := range filters {
		c.batch.Begin()
		r := w.b.Subscribe(c.wire.sess, c.p, []mq.Subscription{{Filter: f, QoS: 1}}, &c.batch)
		c.batch.Flush()
		if r[0] != Granted {
			w.t.Fatalf("%s is not granted: %v", f, r[0])
		}
	}
}

// wants lets everything arrive, and compares it with what the client is to have
// got in all.
func (w *rightsWorld) wants(what string, c *who, payload ...string) {
	w.t.Helper()
	w.drain(&c.peer)
	if got := payloads(c.got); !slices.Equal(got, payload) {
		w.t.Errorf("%s: %s got %d messages, %v, want %d, %v", what, c.id, len(got), got, len(payload), payload)
	}
}

// TestRightGone: nothing comes on a topic whose right was taken away, by whatever
// kind of subscription, and all comes again when it is given back.
func TestRightGone(t *testing.T) {
	takeAway := map[string]func(*book){
		"rule gone":    func(k *book) { k.allow["sub bob"] = []string{"a/open/#"} },
		"deny added":   func(k *book) { k.deny["sub bob"] = []string{"a/secret/#"} },
		"user deleted": func(k *book) { k.gone["bob"] = true },
	}
	giveBack := func(k *book) {
		k.allow["sub bob"], k.deny["sub bob"], k.gone["bob"] = []string{"a/#"}, nil, false
	}
	for name, take := range takeAway {
		open := name != "user deleted" // whether a/open is still allowed
		kept := func(text string) []string {
			if open {
				return []string{text}
			}
			return nil
		}
		t.Run(name+"/live", func(t *testing.T) {
			w := newRightsWorld(t)
			bob := w.client("bob", "bob", 0)
			w.sub(bob, "a/secret/#", "a/#")
			for qos := range mq.QoS(3) {
				w.ann("a/secret/x", fmt.Sprint("before", qos), qos, false)
			}
			w.k.change(func() { take(w.k) })
			for qos := range mq.QoS(3) {
				w.ann("a/secret/x", "not", qos, false)
			}
			if n := w.revoked(); n != 3 {
				t.Errorf("%d counted, want 3", n)
			}
			w.ann("a/open/x", "open", 1, false)
			w.k.change(func() { giveBack(w.k) })
			w.ann("a/secret/x", "again", 1, false)
			w.wants(name, bob, slices.Concat([]string{"before0", "before1", "before2"}, kept("open"), []string{"again"})...)
		})
		t.Run(name+"/stored", func(t *testing.T) {
			w := newRightsWorld(t)
			bob := w.client("bob", "bob", NeverExpires)
			w.sub(bob, "a/#")
			bob.leave(w.world, proper)
			w.ann("a/secret/x", "waits", 1, false) // and is not to be sent
			w.ann("a/p2p/bob", "to bob", 1, false) // P2P needs no right of the target
			w.settle()
			w.k.change(func() { take(w.k) })
			w.ann("a/secret/x", "not", 1, false)
			w.ann("a/open/x", "open", 1, false)
			want := uint64(1)
			if !open {
				want++
			}
			if n := w.revoked(); n != want {
				t.Errorf("%d counted while it is offline, want %d", n, want)
			}
			if open { // else it cannot log in
				w.join(bob)
				w.wants("resumed", bob, "to bob", "open")
				if n := w.revoked(); n != 2 {
					t.Errorf("%d counted when it has come back, want 2", n)
				}
			}
			w.k.change(func() { giveBack(w.k) })
			if !open {
				w.ann("a/secret/x", "again", 1, false)
				w.join(bob)
				w.wants("resumed", bob, "waits", "to bob", "again")
				return
			}
			w.ann("a/secret/x", "again", 1, false)
			w.wants("given back", bob, "to bob", "open", "again")
		})
		t.Run(name+"/restart", func(t *testing.T) {
			w := newRightsWorld(t)
			bob := w.client("bob", "bob", NeverExpires)
			w.sub(bob, "a/#")
			bob.leave(w.world, proper)
			w.ann("a/secret/x", "waits", 1, false)
			w.settle()
			w.stop()
			w.k.changed = nil
			take(w.k) // while the server is down
			w.start()
			w.ann("a/secret/x", "not", 1, false)
			w.ann("a/open/x", "open", 1, false)
			want := uint64(1)
			if !open {
				want++
			}
			if n := w.revoked(); n != want {
				t.Errorf("%d counted while it is offline, want %d", n, want)
			}
			if !open {
				return
			}
			w.join(bob)
			w.wants("resumed", bob, "open")
			if n := w.revoked(); n != 2 {
				t.Errorf("%d counted when it has come back, want 2", n)
			}
		})
		t.Run(name+"/shared", func(t *testing.T) {
			w := newRightsWorld(t)
			bob, eve := w.client("bob", "bob", 0), w.client("eve", "eve", 0)
			w.sub(bob, "$share/g/a/secret/#")
			w.sub(eve, "$share/g/a/secret/#")
			w.k.change(func() { take(w.k) })
			for i := range 10 {
				w.ann("a/secret/x", fmt.Sprint(i), 1, false)
			}
			w.wants("shared", bob)
			w.wants("shared", eve, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
			eve.leave(w.world, proper)
			if n := w.revoked(); n != 0 {
				t.Errorf("%d counted though somebody got each", n)
			}
			// Alone in the group: what comes is for nobody.
			w.ann("a/secret/x", "not", 1, false)
			if n := w.revoked(); n != 1 {
				t.Errorf("%d counted, want 1", n)
			}
			w.k.change(func() { giveBack(w.k) })
			w.ann("a/secret/x", "again", 1, false)
			w.wants("given back", bob, "again")
		})
		t.Run(name+"/retained", func(t *testing.T) {
			w := newRightsWorld(t)
			w.ann("a/secret/x", "secret", 1, true)
			w.ann("a/secret/y", "secret", 1, true)
			w.ann("a/open/x", "open", 1, true)
			bob := w.client("bob", "bob", NeverExpires)
			bob.wire.room = 0 // they are owed
			w.sub(bob, "a/#")
			w.k.change(func() { take(w.k) })
			w.wants("owed", bob, kept("open")...)
			want := uint64(2)
			if !open {
				want++
			}
			if n := w.revoked(); n != want {
				t.Errorf("%d counted, want %d", n, want)
			}
		})
		t.Run(name+"/queued", func(t *testing.T) { // in memory, for a client that takes nothing
			w := newRightsWorld(t)
			bob := w.client("bob", "bob", 0)
			w.sub(bob, "a/#")
			bob.wire.room = 0
			for _, qos := range []mq.QoS{1, 0, 2} { // with QoS 0 first it would be dropped
				w.ann("a/secret/x", "not", qos, false)
				w.ann("a/open/x", fmt.Sprint("open", qos), qos, false)
			}
			w.k.change(func() { take(w.k) })
			w.wants("queued", bob, slices.Concat(kept("open1"), kept("open0"), kept("open2"))...)
			want := uint64(3)
			if !open {
				want *= 2
			}
			if n := w.revoked(); n != want {
				t.Errorf("%d counted, want %d", n, want)
			}
		})
	}
}
