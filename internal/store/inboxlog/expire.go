package inboxlog

import (
	"strings"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

const (
	expireSlots = 1 << 16 // looked at per call of Expired
	expireChunk = 1 << 10 // slots or entries looked at with one lock
)

type expired struct {
	slot uint32
	name string
	seq  uint64
}

// Expired yields entries that are past their expiry or the retention; see
// mq.Store. yield is called without locks. An entry is reported again in the
// next round unless it was acknowledged.
func (l *Log) Expired(now time.Time, yield func(name string, seq uint64) bool) {
	ix := l.ix
	var found []expired
	for looked := 0; looked < expireSlots; looked += expireChunk {
		ix.mu.Lock()
		var wrapped bool
		found, wrapped = ix.expireSome(now, l.opts.Retention, found[:0])
		ix.mu.Unlock()
		for _, e := range found {
			if !yield(e.name, e.seq) {
				ix.mu.Lock()
				ix.expireAt, ix.expireSeq = e.slot, e.seq
				ix.mu.Unlock()
				return
			}
		}
		if wrapped {
			return
		}
	}
}

// expireSome looks at about expireChunk entries from where it stopped and
// appends the expired ones to found. wrapped: it has come to the end, and will
// start over. Locked: mu.
func (ix *index) expireSome(now time.Time, retention time.Duration, found []expired) (_ []expired, wrapped bool) {
	ms := now.UnixMilli()
	for looked := 0; looked < expireChunk; looked++ {
		if ix.expireAt >= ix.top {
			ix.expireAt, ix.expireSeq = 0, 0
			return found, true
		}
		s := ix.slot(ix.expireAt)
		if s.count > 0 && expires(asString(ix.name(s))) {
			oldest := ix.oldestPut(s, now, retention)
			es := ix.after(s, ix.expireSeq)
			if ix.expireSeq == 0 {
				es = ix.view(s)
			}
			for i := range es {
				e := &es[i]
				looked++
				if e.dead() {
					continue
				}
				if e.expiry != 0 && ms >= e.expiry || e.put < oldest {
					found = append(found, expired{ix.expireAt, string(ix.name(s)), e.seq})
				}
				if looked >= expireChunk && e.seq != 0 {
					ix.expireSeq = e.seq
					return found, false
				}
			}
		}
		ix.expireAt++
		ix.expireSeq = 0
	}
	return found, false
}

// expires reports whether the Expiry of an inbox's entries is when they expire.
func expires(name string) bool {
	return !strings.HasPrefix(name, mq.DelayedInbox) && !strings.HasPrefix(name, mq.IdentifierInbox)
}

// oldestPut returns the Unix second before which what was put to s has to go by
// the retention; 0: it does not apply.
func (ix *index) oldestPut(s *slot, now time.Time, retention time.Duration) uint32 {
	if retention <= 0 || strings.HasPrefix(asString(ix.name(s)), mq.RetainedInbox) {
		return 0
	}
	return uint32(max(now.Add(-retention).Unix(), 0))
}
