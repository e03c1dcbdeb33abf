package broker

import (
	"sync"

	"github.com/homing-mq/homing/internal/mq"
)

// filters counts, on the accounts of their clients, the bytes of the filters of all
// subscriptions. mu is a leaf.
type filters struct {
	mu   sync.Mutex
	used mq.Quota
}

// fits reports whether the filters of an account may have n bytes more.
func (f *filters) fits(by mq.Account, n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used.Fits(by, n)
}

// add counts n more bytes, or -n less.
func (f *filters) add(by mq.Account, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used.Add(by, n)
}

// bill puts what the session holds on an account: that of its client. s is locked.
func (s *Session) bill(to mq.Account) {
	if s.account == to {
		return
	}
	held, filters := s.charged, int64(s.subBytes)
	if held != 0 {
		s.b.memory.charge(s, -held)
	}
	if filters != 0 {
		s.b.filters.add(s.account, -filters)
		s.b.filters.add(to, filters)
	}
	s.account = to
	if held != 0 {
		s.b.memory.charge(s, held)
	}
}
