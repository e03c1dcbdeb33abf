package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// TestLoginEnds: a connection whose login has ended is closed by the change that
// ended it, and only that one; gateways with other connections are told.
func TestLoginEnds(t *testing.T) {
	w := newRightsWorld(t)
	told := 0
	w.b.OnRevoked(func() { told++ })
	bob, eve := w.client("bob", "bob", NeverExpires), w.client("eve", "eve", 0)
	for range 3 { // more than once: those that are closed already do no harm
		w.k.change(func() { bob.p.Standing.End() })
	}
	if !bob.wire.closed || eve.wire.closed {
		t.Errorf("bob is closed: %v, eve: %v", bob.wire.closed, eve.wire.closed)
	}
	if told != 3 {
		t.Errorf("told %d times, want 3", told)
	}
	// Without a change of rights, too: a password is none.
	again := w.client("bob", "bob", NeverExpires)
	again.p.Standing.End()
	w.b.reviewRights()
	if !again.wire.closed {
		t.Error("not closed")
	}
}

// TestLoginEndsWhileConnecting: a login that ends between its check and the
// connection is noticed by the connection itself: nobody else has seen it.
func TestLoginEndsWhileConnecting(t *testing.T) {
	w := newRightsWorld(t)
	p := &mq.Principal{Kind: mq.KindUser, ClientID: "bob", User: "bob", Standing: new(mq.Standing)}
	p.Standing.End()
	w.b.reviewRights()
	l := &wire{room: -1, p: p}
	var batch Batch
	batch.Begin()
	s, err := w.b.Connect(ConnectRequest{ClientID: "bob", Principal: p, Conn: l, ReceiveMax: 1}, &batch)
	if err != nil {
		t.Fatal(err)
	}
	batch.Flush()
	if !l.closed {
		t.Error("the connection stays")
	}
	w.b.Disconnect(s, l, abrupt, &batch)
}

// TestWillOfRevoked: a will is published by who may publish it then; the password
// of its connection does not matter, its user does. What is dropped is counted.
func TestWillOfRevoked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*book, *mq.Principal)
		want   int
	}{
		{"password changed", func(_ *book, p *mq.Principal) { p.Standing.End() }, 1},
		{"user deleted", func(k *book, p *mq.Principal) { p.Standing.End(); k.gone["bob"] = true }, 0},
		{"rule gone", func(k *book, _ *mq.Principal) { k.allow["pub bob"] = nil }, 0},
	} {
		for _, delay := range []uint32{0, 1} {
			t.Run(fmt.Sprint(tt.name, " delay ", delay), func(t *testing.T) {
				w := newRightsWorld(t)
				w.k.allow["pub bob"] = []string{"#"}
				eve := w.client("eve", "eve", 0)
				w.sub(eve, "a/#")
				bob := &who{peer: peer{id: "bob", expiry: 3600}, user: "bob"}
				bob.p = &mq.Principal{Kind: mq.KindUser, ClientID: "bob", User: "bob", Standing: new(mq.Standing)}
				l := &wire{room: -1, p: bob.p}
				bob.batch.Begin()
				s, err := w.b.Connect(ConnectRequest{ClientID: "bob", Principal: bob.p, Conn: l, Expiry: 3600, ReceiveMax: 1, Will: &Will{
					Message: mq.Message{Topic: []byte("a/will"), Payload: []byte("gone"), QoS: 1}, Principal: *bob.p, Delay: delay,
				}}, &bob.batch)
				if err != nil {
					t.Fatal(err)
				}
				bob.batch.Flush()
				w.k.change(func() { tt.change(w.k, bob.p) })
				w.b.Disconnect(s, l, abrupt, &bob.batch)
				bob.batch.Flush()
				w.eventually("the will is published or dropped", func() bool {
					eve.receive()
					return len(eve.got)+int(w.b.Stats.Dropped[mq.DropNotAuthorized].Load()) == 1
				})
				w.drain(&eve.peer)
				if len(eve.got) != tt.want {
					t.Errorf("%d wills published, want %d", len(eve.got), tt.want)
				}
			})
		}
	}
}

// TestDelayedOfRevoked: a delayed message is published by who may publish it when
// its time has come, also after a restart. One from before senders were kept is
// published.
func TestDelayedOfRevoked(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*book)
		want   int
	}{
		{"nothing", func(*book) {}, 6},
		{"user deleted", func(k *book) { k.gone["ann"] = true }, 3},
		{"rule gone", func(k *book) { k.allow["pub ann"] = []string{"b/#"} }, 3},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " restart ", restart), func(t *testing.T) {
				dw := newDelayWorld(t, Options{StoreAfter: 10 * time.Millisecond}, store.SyncOS)
				k := newBook()
				k.allow["pub ann"], k.allow["pub zoe"], k.allow["sub eve"] = []string{"#"}, []string{"#"}, []string{"a/#"}
				dw.auth = k
				dw.stop()
				dw.start()
				defer dw.stop()
				w := &rightsWorld{world: dw.world, k: k}
				for n, user := range []string{"ann", "zoe", "ann", "zoe", "ann", "zoe"} {
					dw.batch.Begin()
					m := message("a/x", 1, n, mq.QoS(n/2), false)
					if code := dw.b.PublishLater(Source{Principal: &mq.Principal{User: user}}, m, dw.clock.Load()+10, &w.r, uint64(n), &dw.batch); code != mq.OK {
						t.Fatal(code)
					}
					dw.batch.Flush()
				}
				dw.settle()
				k.change(func() { tt.change(k) })
				if restart {
					dw.stop()
					k.changed = nil
					dw.start()
				}
				eve := w.client("eve", "eve", 0)
				w.sub(eve, "a/#")
				dw.elapse(10)
				dw.drain(&eve.peer)
				if len(eve.got) != tt.want {
					t.Errorf("%d published, want %d", len(eve.got), tt.want)
				}
				if n := int(dw.b.Stats.Dropped[mq.DropNotAuthorized].Load()); n != 6-tt.want {
					t.Errorf("%d counted, want %d", n, 6-tt.want)
				}
				if n := dw.b.Stats.Delayed.Load(); n != 0 {
					t.Errorf("%d wait still", n)
				}
			})
		}
	}
}

// TestSenderForm: what is read back is what was written; nothing panics.
func TestSenderForm(t *testing.T) {
	p := &mq.Principal{ClientID: "c", User: "user", AccessKey: "key"}
	b := mq.AppendRecord(appendSender(nil, p), message("a", 1, 1, 1, false))
	if len(b) > senderSize(p)+mq.RecordSize(message("a", 1, 1, 1, false)) {
		t.Error("senderSize is too small")
	}
	sender, record, ok := cutSender(b)
	var m mq.Message
	if !ok || mq.DecodeRecord(&m, record) != nil || string(m.Topic) != "a" {
		t.Fatal("not read back")
	}
	var last behalf
	if got := last.of(sender); *got != *p || last.of(sender) != got {
		t.Errorf("%+v", got)
	}
	for n := range b { // cut short
		if sender, _, ok := cutSender(b[:n]); ok && len(sender) > 0 {
			last.of(sender)
		}
	}
	if sender, record, ok := cutSender(record); sender != nil || !ok || mq.DecodeRecord(&m, record) != nil {
		t.Error("a record without sender is not taken")
	}
}

// TestOtherOwner: who resumes a session gets what it has by that client's rights:
// its subscriptions and what waits are asked about again.
func TestOtherOwner(t *testing.T) {
	w := newRightsWorld(t)
	w.stop()
	w.opt.SessionOwner, w.k.changed = OwnerAny, nil
	w.start()
	w.k.allow["sub low"] = []string{"a/open/#"}
	bob := w.client("dev", "bob", NeverExpires)
	w.sub(bob, "a/#", "$share/g/a/secret/#", "a/open/#")
	bob.leave(w.world, proper)
	w.ann("a/secret/x", "waits", 1, false)
	w.ann("a/open/x", "open", 1, false)
	w.settle()
	low := &who{peer: peer{id: "dev", expiry: NeverExpires}, user: "low"}
	w.join(low)
	w.ann("a/secret/x", "not", 1, false)
	w.ann("a/open/x", "open2", 1, false)
	w.wants("low", low, "open", "open2")
	low.leave(w.world, proper)
	bob.held = nil
	w.join(bob)
	w.ann("a/secret/x", "again", 1, false)
	w.drain(&bob.peer)
	n := 0
	for _, p := range payloads(bob.got) {
		if p == "again" {
			n++
		}
	}
	if n != 2 { // one by each subscription, alone and shared
		t.Errorf("bob gets %v, want again twice", payloads(bob.got))
	}
}

// TestAskedOnlyWhenInDoubt: what is granted wholly is not asked about again for
// each message.
func TestAskedOnlyWhenInDoubt(t *testing.T) {
	w := newRightsWorld(t)
	bob := w.client("bob", "bob", NeverExpires)
	w.sub(bob, "a/#")
	publish := func(n int) int64 {
		before := w.k.asked.Load()
		for range n {
			w.ann("a/secret/x", "x", 1, false)
			w.drain(&bob.peer)
		}
		return w.k.asked.Load() - before
	}
	if n := publish(10); n != 0 {
		t.Errorf("asked %d times, want 0", n)
	}
	w.k.change(func() { w.k.deny["sub bob"] = []string{"a/secret/#"} })
	if n := publish(10); n != 10 {
		t.Errorf("asked %d times without the right, want 10", n)
	}
	w.k.change(func() { w.k.deny["sub bob"] = nil })
	if n := publish(10); n != 0 {
		t.Errorf("asked %d times after it was given back, want 0", n)
	}
	if len(bob.got) != 20 {
		t.Errorf("%d messages came, want 20", len(bob.got))
	}
}
