package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// sends publishes text with QoS 2 from the peer.
func (p *peer) sends(w *world, topic, text string, pid uint16, dup bool) ClaimResult {
	p.batch.Begin()
	defer p.batch.Flush()
	m := &mq.Message{Topic: []byte(topic), Payload: []byte(text), QoS: 2}
	in := QoS2Publish{Conn: p.wire, PacketID: pid, Dup: dup, Room: 65535}
	return w.b.PublishQoS2(Source{Principal: &mq.Principal{}, Session: p.wire.sess}, m, in, &p.batch)
}

func (p *peer) releases(w *world, pid uint16) AckResult {
	p.batch.Begin()
	defer p.batch.Flush()
	return w.b.Pubrel(p.wire.sess, p.wire, pid, &p.batch)
}

// answers returns what has come for the peer as a sender since the last call.
func (p *peer) answers() (list []string) {
	_, acks := p.wire.take()
	for _, a := range acks {
		list = append(list, fmt.Sprintf("%s %d %v", [...]string{"PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "PUBCOMP unknown"}[a.kind], a.pid, a.code))
	}
	return list
}

func sameList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// heldFor returns what waits for a client that comes for it.
func (w *world) heldFor(id string) []string {
	d := w.online(&peer{id: id, expiry: NeverExpires}, false)
	w.drain(d)
	d.leave(w, proper)
	return payloads(d.got)
}

// TestPipelinedQoS2: a client that waits for nothing gets one PUBREC for each
// PUBLISH and one PUBCOMP for each PUBREL, in that order, and the message is
// delivered once.
func TestPipelinedQoS2(t *testing.T) {
	for _, expiry := range []uint32{0, NeverExpires} {
		w, g := gated(t, Options{Keep: KeepAlways})
		p := w.online(&peer{id: "sender", expiry: expiry}, true)
		g.shut()
		for range 3 {
			p.sends(w, "a/p2p/dev", "one", 9, false)
		}
		p.releases(w, 9)
		p.releases(w, 9)
		sameList(t, "before it is safe", p.answers())
		g.open()
		w.settle()
		sameList(t, "then", p.answers(), "PUBREC 9 ok", "PUBREC 9 ok", "PUBREC 9 ok", "PUBCOMP 9 ok", "PUBCOMP 9 ok")
		if r := p.releases(w, 9); r != AckUnknown {
			t.Errorf("the identifier is not free: %v", r)
		}
		sameList(t, "the device gets", w.heldFor("dev"), "one")
		w.stop()
	}
}

// TestPipelinedRefused: a refusal frees the identifier, and the PUBREL that came
// with the message is told so.
func TestPipelinedRefused(t *testing.T) {
	a := &answers{}
	w := newWorld(t, Options{Keep: KeepAlways}, store.SyncAlways)
	w.wrap = func(st mq.Store) mq.Store { a.Store = st; return a }
	w.stop()
	w.start()
	defer w.stop()
	p := w.online(&peer{id: "sender", expiry: NeverExpires}, true)
	p.sends(w, "a/p2p/dev", "one", 9, false)
	p.sends(w, "a/p2p/dev", "one", 9, true)
	p.releases(w, 9)
	var b Batch
	w.b.Committed(a.held, &mq.Error{Code: mq.StoreFull}, &b)
	sameList(t, "answers", p.answers(), "PUBREC 9 store full", "PUBREC 9 store full", "PUBCOMP unknown 9 ok")
	if open, unsafe := p.wire.sess.Claims(); open != 0 || unsafe != 0 {
		t.Errorf("%d are open, %d without PUBREC, want 0", open, unsafe)
	}
	if r := p.sends(w, "a/p2p/dev", "two", 9, false); r != ClaimNew {
		t.Errorf("the identifier is not free: %v", r)
	}
}

// TestClaimsCountAnew: identifiers of a connection before count on a new one
// when they are used there, and not before (MQTT 5, section 4.9).
func TestClaimsCountAnew(t *testing.T) {
	w := newWorld(t, Options{Keep: KeepAlways}, store.SyncAlways)
	defer func() { w.stop() }()
	p := w.online(&peer{id: "sender", expiry: NeverExpires}, true)
	for pid := range uint16(1000) {
		p.sends(w, "a/p2p/dev", "old", pid+1, false)
	}
	w.settle()
	count := func(when string, want int) {
		t.Helper()
		if open, _ := p.wire.sess.Claims(); open != want {
			t.Errorf("%s: %d identifiers count, want %d", when, open, want)
		}
	}
	count("on the first connection", 1000)
	for _, restart := range []bool{false, true} {
		if p.leave(w, proper); restart {
			w.restart()
		}
		w.online(p, false)
		count("on a new one", 0)
		p.releases(w, 1)
		w.settle()
		count("after PUBCOMP of an old one", 0)
		p.sends(w, "a/p2p/dev", "old", 2, true)
		count("after an old one was sent again", 1)
		p.releases(w, 2)
		w.settle()
		count("and released", 0)
		p.answers()
		if !restart { // for the second time
			p.sends(w, "a/p2p/dev", "old", 1, false)
			p.sends(w, "a/p2p/dev", "old", 2, false)
			w.settle()
		}
	}
	d := w.online(&peer{id: "dev"}, true)
	if w.drain(d); len(d.got) != 1002 {
		t.Errorf("%d messages came, want 1000 and the two of released identifiers", len(d.got))
	}
}

// TestReusedIdentifier: a client that uses an identifier for another message
// before it has released it gets both delivered, however it came to that. A
// message that is only sent again is delivered once.
func TestReusedIdentifier(t *testing.T) {
	const a, b = "first", "second"
	for _, c := range []struct {
		name   string
		before string // between the two: "", "reconnect", "restart", "crash"
		text   string
		dup    bool
		want   []string
		result ClaimResult
	}{
		{"same connection, again", "", a, true, []string{a}, ClaimRepeated},
		{"same connection, again without DUP", "", a, false, []string{a}, ClaimRepeated},
		{"same connection, another", "", b, false, []string{a, b}, ClaimReused},
		{"next connection, again", "reconnect", a, true, []string{a}, ClaimRepeated},
		{"next connection, again without DUP", "reconnect", a, false, []string{a}, ClaimRepeated},
		{"next connection, another", "reconnect", b, false, []string{a, b}, ClaimReplaced},
		{"next connection, another that was sent before", "reconnect", b, true, []string{a, b}, ClaimReplaced},
		{"after a restart, again", "restart", a, true, []string{a}, ClaimRepeated},
		{"after a restart, another", "restart", b, false, []string{a, b}, ClaimReplaced},
		{"after a crash, again", "crash", a, true, []string{a}, ClaimRepeated},
		{"after a crash, another", "crash", b, false, []string{a, b}, ClaimReplaced},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Options{Keep: KeepAlways}, store.SyncAlways)
			defer func() { w.stop() }()
			p := w.online(&peer{id: "sender", expiry: NeverExpires}, true)
			p.sends(w, "a/p2p/dev", a, 1, false)
			w.settle()
			sameList(t, "first", p.answers(), "PUBREC 1 ok")
			switch c.before {
			case "reconnect":
				w.online(p, false)
			case "restart":
				p.leave(w, proper)
				w.restart()
				w.online(p, false)
			case "crash":
				w.crash(0)
				w.online(p, false)
			}
			if r := p.sends(w, "a/p2p/dev", c.text, 1, c.dup); r != c.result {
				t.Errorf("it is taken for %v, want %v", r, c.result)
			}
			w.settle()
			sameList(t, "second", p.answers(), "PUBREC 1 ok")
			// The claim is that of the second message, also after a crash.
			w.crash(0)
			w.online(p, false)
			if r := p.sends(w, "a/p2p/dev", c.text, 1, true); r != ClaimRepeated {
				t.Errorf("sent again after a crash it is taken for %v", r)
			}
			p.releases(w, 1)
			w.settle()
			sameList(t, "third", p.answers(), "PUBREC 1 ok", "PUBCOMP 1 ok")
			w.crash(0)
			w.online(p, false)
			if r := p.releases(w, 1); r != AckUnknown {
				t.Errorf("the identifier is not free after a crash: %v", r)
			}
			sameList(t, "the device gets", w.heldFor("dev"), c.want...)
		})
	}
}

// TestReusedBeforeSafe: the same, while the store has not answered for the first
// message: every PUBLISH and PUBREL is answered, honestly.
func TestReusedBeforeSafe(t *testing.T) {
	w, g := gated(t, Options{Keep: KeepAlways})
	defer w.stop()
	w.b.auth = denies{}
	p := w.online(&peer{id: "sender", expiry: NeverExpires}, true)
	g.shut()
	p.sends(w, "a/p2p/dev", "one", 1, false)
	p.releases(w, 1)
	if r := p.sends(w, "a/p2p/dev", "one", 1, false); r != ClaimNew { // it was released
		t.Errorf("after PUBREL it is taken for %v", r)
	}
	if r := p.sends(w, "a/p2p/dev", "two", 1, false); r != ClaimReused {
		t.Errorf("another one is taken for %v", r)
	}
	if open, unsafe := p.wire.sess.Claims(); open != 3 || unsafe != 3 {
		t.Errorf("%d are open, %d without PUBREC, want 3", open, unsafe)
	}
	p.releases(w, 1)
	sameList(t, "before", p.answers())
	g.open()
	w.settle()
	sameList(t, "after", p.answers(), "PUBREC 1 ok", "PUBCOMP 1 ok", "PUBREC 1 ok", "PUBREC 1 ok", "PUBCOMP 1 ok")
	if open, unsafe := p.wire.sess.Claims(); open != 0 || unsafe != 0 {
		t.Errorf("%d are open, %d without PUBREC, want 0", open, unsafe)
	}
	sameList(t, "the device gets", w.heldFor("dev"), "one", "one", "two")
}

// TestReusedAndRefused: when the message that takes the place of another is
// refused, the identifier is free, also after a crash: the next message with it
// is no duplicate.
func TestReusedAndRefused(t *testing.T) {
	w, g := gated(t, Options{Keep: KeepAlways})
	defer func() { w.stop() }()
	w.b.auth = denies{}
	p := w.online(&peer{id: "sender", expiry: NeverExpires}, true)
	p.sends(w, "a/p2p/dev", "one", 1, false)
	w.settle()
	sameList(t, "first", p.answers(), "PUBREC 1 ok")
	g.shut()
	p.sends(w, "denied/x", "two", 1, false)
	p.releases(w, 1)
	sameList(t, "before the store has forgotten the first", p.answers())
	g.open()
	w.settle()
	sameList(t, "second", p.answers(), "PUBREC 1 not authorized", "PUBCOMP unknown 1 ok")
	w.crash(0)
	w.online(p, false)
	if r := p.sends(w, "a/p2p/dev", "three", 1, true); r != ClaimNew {
		t.Errorf("after a crash the next message is taken for %v", r)
	}
	w.settle()
	sameList(t, "third", p.answers(), "PUBREC 1 ok")
	sameList(t, "the device gets", w.heldFor("dev"), "one", "three")
}
