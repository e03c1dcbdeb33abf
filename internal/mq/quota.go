package mq

import (
	"hash/maphash"
	"math"
)

// Account is on whose account something is held that a quota bounds. Accounts are
// numbers, not names, so that those of any number of clients take no memory: two
// principals have the same with a chance of one in 65,535. They differ from one
// start of the process to the next.
type Account uint16

// Nobody is the account of what the server itself holds, and of what was held
// before the start: who made it is not stored.
const Nobody Account = 0

var accountSeed = maphash.MakeSeed()

// AccountOf returns the account of a principal: that of its user, else that of its
// access key, else that of its client ID; Nobody for nil and for one that has none
// of these. It does not allocate.
func AccountOf(p *Principal) Account {
	if p == nil {
		return Nobody
	}
	kind, name := byte('c'), p.ClientID
	switch {
	case p.User != "":
		kind, name = 'u', p.User
	case p.AccessKey != "":
		kind, name = 'k', p.AccessKey
	case name == "":
		return Nobody
	}
	var h maphash.Hash
	h.SetSeed(accountSeed)
	_ = h.WriteByte(kind)
	_, _ = h.WriteString(name)
	return Account(h.Sum64()%math.MaxUint16 + 1)
}

// Limit bounds a quota.
type Limit struct {
	Max   int64 // in all; 0: no limit
	Share int   // percent that one account may have, 1 to 100; 0: 100
}

// Quota counts what is held, in all and by account. It says what fits, and leaves
// it to the caller to refuse what does not. The zero value has no limit. A lock of
// the caller guards it.
//
// An account may have Limit.Share percent of what is not Nobody's. So over any
// number of restarts, each of which makes everything Nobody's, one account that
// takes all it gets leaves something to the others.
type Quota struct {
	Limit Limit
	used  int64
	owned int64             // of used, what is not Nobody's
	by    map[Account]int64 // without zeros
}

// Used returns what is held in all.
func (q *Quota) Used() int64 { return q.used }

// Of returns what is held on an account, which is not Nobody.
func (q *Quota) Of(a Account) int64 { return q.by[a] }

// Fits reports whether n more may be held on an account.
func (q *Quota) Fits(a Account, n int64) bool {
	switch {
	case q.Limit.Max <= 0 || n <= 0:
		return true
	case q.used+n > q.Limit.Max:
		return false
	case a == Nobody || q.Limit.Share <= 0 || q.Limit.Share >= 100:
		return true
	}
	return q.by[a]+n <= q.share()
}

// share is what one account may have.
func (q *Quota) share() int64 {
	most := max(q.Limit.Max-(q.used-q.owned), 0)
	part := most / 100 * int64(q.Limit.Share)
	return part + (most%100*int64(q.Limit.Share)+99)/100
}

// Add takes n more, or gives -n back, on an account, also over the limit.
func (q *Quota) Add(a Account, n int64) {
	q.used += n
	if a == Nobody || n == 0 {
		return
	}
	q.owned += n
	if q.by == nil {
		q.by = make(map[Account]int64)
	}
	if q.by[a] += n; q.by[a] == 0 {
		delete(q.by, a)
	}
}
