package broker

import (
	"errors"
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

// unreadable remembers the stored entries that could not be read, until they can
// be or are given up. Whoever reads the store asks judge what to do. Nothing is
// given up at the first failure, and nothing ever that is not known to be bad.
type unreadable struct {
	mu   sync.Mutex // a leaf
	list map[unreadKey]*failures
}

type unreadKey struct {
	inbox string
	seq   uint64
}

// failures are those of one entry.
type failures struct {
	times int
	next  int64 // when it may be tried again, monotonic
}

const (
	// An entry is given up when reading it has failed so many times.
	damagedTimes = 2 // its bytes are wrong
	mediumTimes  = 8 // the disk does not give them: for about two minutes

	// The time between tries, microseconds: it doubles from readPause up to
	// maxReadPause. Damaged bytes are read again at once.
	readPause    = 1_000_000
	maxReadPause = 60_000_000

	maxUnreadable = 10_000 // remembered; beyond, all begin anew
)

// judge says what to do about err, with which Store.Read of an inbox failed: give
// the entry seq up, or read again at a time. Trying earlier does no harm.
func (b *Broker) judge(inbox string, err error) (seq uint64, giveUp bool, at int64) {
	now := monotonic()
	var e *mq.UnreadableError
	if !errors.As(err, &e) {
		return 0, false, now + readPause
	}
	u := &b.unreadable
	u.mu.Lock()
	defer u.mu.Unlock()
	key := unreadKey{inbox, e.Seq}
	f := u.list[key]
	if f == nil {
		if u.list == nil || len(u.list) >= maxUnreadable {
			u.list = make(map[unreadKey]*failures)
		}
		f = &failures{}
		u.list[key] = f
	}
	if now < f.next {
		return e.Seq, false, f.next
	}
	f.times++
	most, pause := 0, int64(readPause)
	switch e.Fault {
	case mq.FaultDamage:
		most, pause = damagedTimes, 0
	case mq.FaultMedium:
		most = mediumTimes
	}
	if most > 0 && f.times >= most {
		delete(u.list, key)
		b.log.Error("a stored message cannot be read; it is dropped, delivery goes on behind it",
			"inbox", inbox, "seq", e.Seq, "error", err, "advice", "stop homing and run `homing store repair`")
		return e.Seq, true, 0
	}
	if f.times == 1 {
		b.log.Warn("a stored message cannot be read; it is tried again", "inbox", inbox, "seq", e.Seq, "error", err)
	}
	f.next = now + min(pause<<min(f.times-1, 10), maxReadPause)
	return e.Seq, false, f.next
}

// skip deals with a failed read of the inbox, at the entry that was to be sent
// next. It reports whether there may be more to send: otherwise the pump comes
// again. s is locked.
func (s *Session) skip(err error, b *Batch) bool {
	seq, giveUp, at := s.b.judge(s.id, err)
	if !giveUp && at <= monotonic() {
		return true // again at once
	}
	if !giveUp {
		s.full = true
		s.b.stall(s, at)
		return false
	}
	s.cursor = max(s.cursor, seq)
	if s.dropped(seq) {
		return true
	}
	en, size, ok := s.stored(seq)
	switch {
	case !ok:
	case en.Flags&mq.FlagReceived != 0: // the target has it: the record is not needed any more
		s.oweRelease(&en, size, b)
	default:
		s.b.drop(mq.DropStoreFailed)
		s.forget(seq, size)
	}
	return true
}

// stored returns what the index of the store has of an entry, and the size of its
// record. It reads memory only.
func (s *Session) stored(seq uint64) (en mq.Entry, size int, ok bool) {
	var room [1]mq.Entry
	list := s.b.store.List(s.inbox, seq-1, 1, room[:0])
	at, size, ok := s.b.store.Oldest(s.inbox, seq-1)
	if !ok || at != seq || len(list) == 0 || list[0].Seq != seq {
		return mq.Entry{}, 0, false
	}
	return list[0], size, true
}

// stalled is a session to be pumped again because something failed that may go
// well later.
type stalled struct {
	s  *Session
	at int64 // not before, monotonic
}

// stall notes that the session is to be pumped at a time, or soon after.
func (b *Broker) stall(s *Session, at int64) {
	b.stalledMu.Lock()
	defer b.stalledMu.Unlock()
	for i := range b.stalled {
		if x := &b.stalled[i]; x.s == s {
			x.at = min(x.at, at)
			return
		}
	}
	b.stalled = append(b.stalled, stalled{s, at})
}

// retryStalled pumps the sessions whose time has come.
func (b *Broker) retryStalled(batch *Batch) {
	now := monotonic()
	var due []*Session
	b.stalledMu.Lock()
	rest := b.stalled[:0]
	for _, x := range b.stalled {
		if x.at <= now {
			due = append(due, x.s)
		} else {
			rest = append(rest, x)
		}
	}
	clear(b.stalled[len(rest):])
	b.stalled = rest
	b.stalledMu.Unlock()
	for _, s := range due {
		s.mu.Lock()
		s.full = false // if its outbox is, it says so again
		if l := s.lender(); l != nil {
			for _, m := range l.members {
				m.ready.Store(true)
			}
		}
		s.mu.Unlock()
		batch.pump(s)
	}
}
