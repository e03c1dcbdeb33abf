package bench

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// pair is a sender and the receiver it sends to.
type pair struct {
	run      *run
	index    uint32
	sender   *mqttclient.Client
	receiver *mqttclient.Client

	// mu guards the sending: it is done in the sender's and the receiver's
	// reader, and by the pacer.
	mu       sync.Mutex
	message  mqtt.Publish // reused
	tokens   []*token     // not in use
	err      error        // why nothing can be sent any more
	accepted bitset       // acknowledged with success
	forgiven uint64       // QoS 0: all before this count as arrived, so that losses do not stop the pair

	sent    atomic.Uint64 // also the next sequence number
	acked   atomic.Uint64 // acknowledged, whatever the code
	refused atomic.Uint64 // those of them with a code that is not success
	arrived atomic.Uint64 // duplicates not counted
	reached atomic.Uint64 // tracker.next
	dirty   bool          // the receiver's reader's: the sender has something to flush

	tracker tracker // the receiver's reader's, and when that is gone anybody's
	foreign int64   // as tracker: arrivals that are none of ours
}

// token is a message that waits for its acknowledgement.
type token struct {
	pair *pair
	seq  uint64
	time int64 // ns since the start of the run
	done func(mqttclient.Result)
}

func (p *pair) newToken() *token {
	if n := len(p.tokens); n > 0 {
		t := p.tokens[n-1]
		p.tokens = p.tokens[:n-1]
		return t
	}
	t := &token{pair: p}
	t.done = t.acknowledged
	return t
}

// send enqueues one message that was meant to be sent at intended (ns since the
// start of the run). It reports whether that was possible. mu is held.
func (p *pair) send(intended int64) bool {
	if p.err != nil {
		return false
	}
	seq := p.sent.Load()
	header{p.run.id, p.index, seq, intended}.put(p.message.Payload)
	var t *token
	var done func(mqttclient.Result)
	if p.message.QoS > 0 {
		t = p.newToken()
		t.seq, t.time = seq, intended
		done = t.done
	}
	// Counted first: the receiver believes no sequence number from here on.
	p.sent.Store(seq + 1)
	err := p.sender.Enqueue(&p.message, done)
	if err == nil {
		return true
	}
	p.sent.Store(seq)
	if t != nil {
		p.tokens = append(p.tokens, t)
	}
	if !errors.Is(err, mqttclient.ErrWindow) {
		p.err = err
	}
	return false
}

// fill sends what is due at now: in the closed loop as much as the window
// allows, otherwise what the clock says. It does not flush.
func (p *pair) fill(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.run
	if r.options.Rate > 0 {
		for {
			due := r.due(p.index, p.sent.Load())
			if due > now || due >= r.stopAt.Load() || !p.send(due) {
				return
			}
		}
	}
	for now < r.stopAt.Load() && p.outstanding() < uint64(r.options.Window) {
		if !p.send(now) {
			return
		}
	}
}

// outstanding is how many messages fill the window. mu is held.
func (p *pair) outstanding() uint64 {
	if p.run.options.QoS > 0 {
		return p.sent.Load() - p.acked.Load()
	}
	return p.sent.Load() - max(p.reached.Load(), p.forgiven)
}

// acknowledged is called by the sender's reader, which flushes later.
func (t *token) acknowledged(res mqttclient.Result) {
	p := t.pair
	r := p.run
	if res.Err != nil {
		return // the connection has ended
	}
	now := r.now()
	if r.measures(t.time) {
		r.acks.record(p.index, time.Duration(now-t.time))
	}
	p.mu.Lock()
	if res.Code == mqtt.CodeSuccess {
		p.accepted.add(t.seq)
	} else {
		p.refused.Add(1)
		r.refuse(res.Code)
	}
	p.tokens = append(p.tokens, t)
	p.acked.Add(1)
	p.mu.Unlock()
	p.fill(now)
}

// receive is the receiver's handler.
func (p *pair) receive(m *mqttclient.Message) {
	h, ok := readHeader(m.Payload)
	r := p.run
	if !ok || h.run != r.id || h.pair != p.index || h.seq >= p.sent.Load() || len(m.Payload) != r.options.Payload {
		p.foreign++
		return
	}
	now := r.now()
	if r.measures(h.time) {
		r.latency.record(p.index, time.Duration(now-h.time))
	}
	if p.tracker.receive(h.seq) {
		p.arrived.Add(1)
	}
	p.reached.Store(p.tracker.next)
	if r.options.QoS == 0 && r.options.Rate == 0 {
		p.fill(now)
		p.dirty = true
	}
}

// batchEnd is called when the receiver has handled what it had read.
func (p *pair) batchEnd() {
	if p.dirty {
		p.dirty = false
		p.sender.Flush()
	}
}

// forgive lets a pair that got stuck because messages were lost go on.
func (p *pair) forgive() {
	p.mu.Lock()
	p.forgiven = p.sent.Load()
	p.mu.Unlock()
	p.fill(p.run.now())
	p.sender.Flush()
}

// settled reports whether nothing more is to come.
func (p *pair) settled() bool {
	sent := p.sent.Load()
	if p.run.options.QoS > 0 && p.acked.Load() < sent {
		return false
	}
	return p.arrived.Load()+p.refused.Load() >= sent
}
