package bench

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttclient"
)

// load is what the messages of a run have in common.
type load struct {
	clock
	id      uint64
	latency *latencies
	acks    *latencies

	mu      sync.Mutex
	refused map[string]int64 // by what the acknowledgement says
}

func (l *load) init() {
	l.id = rand.Uint64()
	l.latency, l.acks, l.refused = newLatencies(), newLatencies(), make(map[string]int64)
}

func (l *load) refuse(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[why]++
}

// source sends numbered messages, and counts what becomes of them.
type source struct {
	load   *load
	index  uint32 // the pair in the header
	client sender
	more   func(now int64) // called after an acknowledgement: sends what can be sent now

	mu       sync.Mutex   // guards the sending
	message  mqtt.Publish // reused
	tokens   []*token     // not in use
	err      error        // why nothing can be sent any more
	accepted bitset       // acknowledged with success

	sent    atomic.Uint64 // also the next sequence number
	acked   atomic.Uint64 // acknowledged, whatever the code
	refused atomic.Uint64 // those of them with a code that is not success
}

// token is a message that waits for its acknowledgement.
type token struct {
	source *source
	seq    uint64
	time   int64                   // ns since the start of the run
	done   func(mqttclient.Result) // for mqttSender
}

func (s *source) newToken() *token {
	if n := len(s.tokens); n > 0 {
		t := s.tokens[n-1]
		s.tokens = s.tokens[:n-1]
		return t
	}
	t := &token{source: s}
	t.done = t.puback
	return t
}

// send enqueues one message that was meant to be sent at intended (ns since the
// start of the run). It reports whether that was possible. mu is held.
func (s *source) send(intended int64) bool {
	if s.err != nil {
		return false
	}
	seq := s.sent.Load()
	header{s.load.id, s.index, seq, intended}.put(s.message.Payload)
	var t *token
	if s.message.QoS > 0 {
		t = s.newToken()
		t.seq, t.time = seq, intended
	}
	// Counted first: the receiver believes no sequence number from here on.
	s.sent.Store(seq + 1)
	err := s.client.enqueue(&s.message, t)
	if err == nil {
		return true
	}
	s.sent.Store(seq)
	if t != nil {
		s.tokens = append(s.tokens, t)
	}
	if !errors.Is(err, mqttclient.ErrWindow) {
		s.err = err
	}
	return false
}

// acknowledged takes what the server has answered to the message; refusal is ""
// if that was success. The caller flushes the sender later.
func (t *token) acknowledged(refusal string) {
	s := t.source
	now := s.load.now()
	if s.load.measures(t.time) {
		s.load.acks.record(s.index, time.Duration(now-t.time))
	}
	s.mu.Lock()
	if refusal == "" {
		s.accepted.add(t.seq)
	} else {
		s.refused.Add(1)
		s.load.refuse(refusal)
	}
	s.tokens = append(s.tokens, t)
	s.acked.Add(1)
	s.mu.Unlock()
	s.more(now)
}

// recognize returns the header of a payload, and whether it is one of this
// source's messages, undamaged.
func (s *source) recognize(payload []byte) (header, bool) {
	h, ok := readHeader(payload)
	return h, ok && h.run == s.load.id && h.pair == s.index && h.seq < s.sent.Load() && len(payload) == len(s.message.Payload)
}
