package broker

import (
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// Completer is told how a publish with QoS 1 or 2 ended: exactly once, from
// any goroutine, without locks held. It must not block. It may append to an
// outbox and note it in the batch.
type Completer interface {
	Complete(token uint64, code mq.Code, b *Batch)
}

// A Batch belongs to one goroutine and collects what must happen after locks
// are released: senders to acknowledge, sessions to pump, connections to
// flush. A gateway makes one per goroutine, sets the time with Begin for every
// batch of input, and calls Flush at its end.
type Batch struct {
	now     int64 // see Broker.Now; 0: nobody has asked since Begin
	mono    int64 // microseconds on a clock that never jumps
	conns   []Flusher
	done    []completion
	pumps   []*Session
	lost    []Conn     // connections whose session the store has failed
	ended   []Conn     // connections whose login has ended
	regroup []*Session // groups whose members are to be asked about
	// refused is why the last message published with it was refused at once.
	refused mq.Code
	// patient: its goroutine serves one session only, and may look for retained
	// messages for long.
	patient bool

	// scratch of pump and route
	entries []mq.Entry
	buf     []byte
	msg     mq.Message
	matches []match
	group   []mq.Op
	found   []found
	props   []byte
}

type completion struct {
	to    Completer
	token uint64
	code  mq.Code
}

var epoch = time.Now()

// Begin lets time pass: the operations up to the next Begin see the same.
func (b *Batch) Begin() {
	b.mono = monotonic()
	b.now = 0
}

// Now returns the server's time in Unix milliseconds, see internal/clock: the same
// from the first call after the batch's Begin until the next Begin. All deadlines
// and expiries are in it; the wall clock may jump.
func (b *Broker) Now(batch *Batch) int64 {
	if batch.now == 0 {
		batch.now = b.clock.Now()
	}
	return batch.now
}

// Refusal returns why the message that was published last with this batch, of
// any QoS, was refused before the call returned, and forgets it; OK if it was
// not. Its Completer is told the same, during Flush. A gateway whose protocol has
// no code for a refusal stops there: of what its sender has sent behind the
// message nothing may be published, because the sender sends both again.
func (b *Batch) Refusal() mq.Code {
	code := b.refused
	b.refused = mq.OK
	return code
}

// Flusher has output that others cause: a connection.
type Flusher interface {
	// Flush writes what can be written without blocking.
	Flush(b *Batch)
}

// Touch notes that c has output to flush. A connection calls it when its outbox
// gets its first bytes since the last flush.
func (b *Batch) Touch(c Flusher) { b.conns = append(b.conns, c) }

func (b *Batch) complete(to Completer, token uint64, code mq.Code) {
	if to != nil {
		b.done = append(b.done, completion{to, token, code})
	}
}

func (b *Batch) pump(s *Session) {
	if n := len(b.pumps); n == 0 || b.pumps[n-1] != s {
		b.pumps = append(b.pumps, s)
	}
}

// lose notes a connection to close because the store fails its session.
func (b *Batch) lose(c Conn) { b.lost = append(b.lost, c) }

// revoke notes a connection to close because its login has ended.
func (b *Batch) revoke(c Conn) { b.ended = append(b.ended, c) }

// Flush does all that was noted, and what that entails. No lock may be held.
func (b *Batch) Flush() {
	b.rejoinAll()
	for len(b.done)+len(b.pumps)+len(b.conns) > 0 {
		for i := 0; i < len(b.done); i++ {
			d := b.done[i]
			d.to.Complete(d.token, d.code, b)
		}
		clear(b.done)
		b.done = b.done[:0]
		for i := 0; i < len(b.pumps); i++ {
			b.pumps[i].pump(b)
		}
		clear(b.pumps)
		b.pumps = b.pumps[:0]
		for i := 0; i < len(b.conns); i++ {
			b.conns[i].Flush(b)
		}
		clear(b.conns)
		b.conns = b.conns[:0]
	}
	for _, c := range b.lost {
		c.Close(SessionLost)
	}
	b.lost = b.lost[:0]
	for _, c := range b.ended {
		c.Close(Revoked)
	}
	b.ended = b.ended[:0]
	if cap(b.buf) > maxScratch {
		b.buf = nil
	}
}

// maxScratch is how much read buffer a batch keeps between uses, in bytes.
const maxScratch = 64 << 10
