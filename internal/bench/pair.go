package bench

import (
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqttclient"
)

// pair is a sender and the receiver it sends to. The sender's messages are sent
// in the sender's and the receiver's reader, and by the pacer.
type pair struct {
	source
	run      *run
	receiver *mqttclient.Client

	forgiven uint64 // QoS 0: all before this count as arrived, so that losses do not stop the pair; mu guards it

	arrived atomic.Uint64 // duplicates not counted
	reached atomic.Uint64 // tracker.next
	dirty   bool          // the receiver's reader's: the sender has something to flush

	tracker tracker // the receiver's reader's, and when that is gone anybody's
	foreign int64   // as tracker: arrivals that are none of ours
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

// receive is the receiver's handler.
func (p *pair) receive(m *mqttclient.Message) {
	r := p.run
	h, ok := p.recognize(m.Payload)
	if !ok {
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
		p.client.Flush()
	}
}

// forgive lets a pair that got stuck because messages were lost go on.
func (p *pair) forgive() {
	p.mu.Lock()
	p.forgiven = p.sent.Load()
	p.mu.Unlock()
	p.fill(p.run.now())
	p.client.Flush()
}

// settled reports whether nothing more is to come.
func (p *pair) settled() bool {
	sent := p.sent.Load()
	if p.run.options.QoS > 0 && p.acked.Load() < sent {
		return false
	}
	return p.arrived.Load()+p.refused.Load() >= sent
}
