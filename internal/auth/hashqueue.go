package auth

import (
	"context"
	"net/netip"
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

const (
	// maxWaiting bounds how many log-ins wait to be hashed, maxWaitingHere how many
	// of one address.
	maxWaiting     = 4096
	maxWaitingHere = 256
	// othersEvery: of so many turns one is for those who are not trusted, if any of
	// them waits.
	othersEvery = 4
)

// errBusy refuses who would wait too long.
var errBusy = &mq.Error{Code: mq.Overloaded, Text: "too many logins at once; try again"}

// hashQueue shares the cores that hash among those who log in. A hash takes 50 ms of
// a core, on purpose, so a few hostile addresses could keep everybody waiting: who
// has not failed of late goes first, and among equals the addresses take turns,
// however many wait at one of them.
type hashQueue struct {
	mu      sync.Mutex
	free    int // cores
	waiting int
	turns   int
	trusted line
	others  line
}

// line are waiters by address; each address has its turn.
type line struct {
	ring []netip.Addr // that have waiters, the next one first
	at   map[netip.Addr][]*waiter
}

type waiter struct {
	turn  chan struct{} // closed when it is its turn
	given bool          // it is
}

func newHashQueue(cores int) *hashQueue {
	return &hashQueue{free: cores, trusted: line{at: map[netip.Addr][]*waiter{}}, others: line{at: map[netip.Addr][]*waiter{}}}
}

func (l *line) push(from netip.Addr, w *waiter) {
	if len(l.at[from]) == 0 {
		l.ring = append(l.ring, from)
	}
	l.at[from] = append(l.at[from], w)
}

// pop returns the first of the address whose turn it is.
func (l *line) pop() *waiter {
	from := l.ring[0]
	l.ring = l.ring[1:]
	here := l.at[from]
	w := here[0]
	if len(here) == 1 {
		delete(l.at, from)
	} else {
		l.at[from] = here[1:]
		l.ring = append(l.ring, from)
	}
	return w
}

// enter waits for a core. leave gives it back.
func (q *hashQueue) enter(ctx context.Context, from netip.Addr, trusted bool) error {
	from = source(from)
	q.mu.Lock()
	l := &q.others
	if trusted {
		l = &q.trusted
	}
	switch {
	case q.free > 0:
		q.free--
		q.mu.Unlock()
		return nil
	case q.waiting >= maxWaiting, len(l.at[from]) >= maxWaitingHere:
		q.mu.Unlock()
		return errBusy
	}
	w := &waiter{turn: make(chan struct{})}
	l.push(from, w)
	q.waiting++
	q.mu.Unlock()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	given := w.given
	w.given = true // nobody is there any more: next passes it by
	q.mu.Unlock()
	if given {
		q.leave()
	}
	return errBusy
}

// leave gives the core to the next one.
func (q *hashQueue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.waiting > 0 {
		q.turns++
		l := &q.trusted
		if len(l.ring) == 0 || q.turns%othersEvery == 0 && len(q.others.ring) > 0 {
			l = &q.others
		}
		w := l.pop()
		q.waiting--
		if !w.given {
			w.given = true
			close(w.turn)
			return
		}
	}
	q.free++
}

// run runs work on a core, unless proceed, asked when the turn has come, has an
// error: much can have happened meanwhile.
func (q *hashQueue) run(ctx context.Context, from netip.Addr, trusted bool, proceed func() error, work func()) error {
	if err := q.enter(ctx, from, trusted); err != nil {
		return err
	}
	defer q.leave()
	if err := proceed(); err != nil {
		return err
	}
	work()
	return nil
}
