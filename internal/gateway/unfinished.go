package gateway

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// Unfinished bounds the memory of packets that have arrived in part, of all
// connections of a gateway together. Who wants room for a packet gets it whole, or
// waits and is not read: half of it would be no use, and if many had half they
// would all wait for each other. So each that has room will finish, or is closed
// while somebody waits:
//
//   - if its packet has not grown for Options.Patience;
//   - if at the rate so far it takes longer than slowest times that.
//
// Also the one that has been silent for longest is closed, at once, when many
// small beginnings, for which nobody waits, are over the limit.
type Unfinished struct {
	opt    UnfinishedOptions
	mu     sync.Mutex // guards the rest; a leaf
	held   mq.Quota
	floor  int64     // bytes that there is room for whatever messages take
	parts  Part      // head of the ring of those that hold something, the longest silent first
	line   []*Part   // those that wait, the first to have come first
	dying  int64     // bytes of held that connections give back which are being closed
	looked time.Time // when the slow ones were last looked for

	Held   atomic.Int64  // bytes
	Waits  atomic.Uint64 // times that a connection was not read for want of memory
	Closed atomic.Uint64 // connections closed
}

// UnfinishedOptions configure an Unfinished. All must be set.
type UnfinishedOptions struct {
	Limit   int64 // bytes of everything that Total counts; half of it may be unfinished packets
	Share   int   // percent of that half for one account
	Largest int64 // bytes of the largest packet: however low the limits, there is room for two
	// Total adds n bytes to what messages in memory take, and returns the sum. It
	// does not block.
	Total    func(n int64) int64
	Patience time.Duration
}

// Half of the limit is for messages only, so that those who begin packets keep
// nobody's messages out of memory. An eighth is for unfinished packets even while
// messages take all of it, so that packets go on to arrive.
const (
	unfinishedPart  = 2
	unfinishedFloor = 8
)

// Owner is a connection that holds a Part.
type Owner interface {
	// Evict closes it. It does not block; no lock is held.
	Evict()
}

// Part is what one connection holds of a packet that is arriving. Its connection's
// reader uses it; the zero value holds nothing.
type Part struct {
	owner      Owner
	by         mq.Account
	size       int64 // bytes of memory
	got        int64 // bytes that have arrived
	begun      time.Time
	grown      time.Time     // when it was last set
	paused     time.Duration // of the time since begun, how long it waited for memory
	since      time.Time     // it waits; zero: it does not
	more       int64         // bytes that it waits for
	wake       chan struct{}
	doomed     bool
	next, prev *Part // nil: not in the ring
}

// ErrNoMemory ends a connection that has waited for memory in vain.
var ErrNoMemory = errors.New("no memory for a large packet")

// NewUnfinished makes one that holds nothing.
func NewUnfinished(opt UnfinishedOptions) *Unfinished {
	u := &Unfinished{opt: opt}
	u.held.Limit = mq.Limit{Max: max(opt.Limit/unfinishedPart, 2*opt.Largest), Share: opt.Share}
	u.floor = max(opt.Limit/unfinishedFloor, 2*opt.Largest)
	u.parts.next, u.parts.prev = &u.parts, &u.parts
	return u
}

// Set notes that the owner holds size bytes now, of which got have arrived; 0:
// nothing. It does not wait.
func (u *Unfinished) Set(p *Part, owner Owner, by mq.Account, size, got int64) {
	if size == 0 && p.size == 0 {
		return
	}
	now := time.Now()
	u.mu.Lock()
	p.owner = owner
	if p.size == 0 {
		p.by, p.begun, p.paused, p.doomed = by, now, 0, false
	}
	if p.doomed {
		u.dying += size - p.size
	}
	u.take(p, size-p.size)
	p.got, p.grown = got, now
	p.leave()
	if size > 0 {
		p.enter(&u.parts)
	}
	var evicted []Owner
	if u.held.Used()-u.dying > u.held.Limit.Max {
		evicted = u.evict(u.oldest(), nil)
	}
	if len(u.line) > 0 {
		u.grant()
		evicted = u.press(now, evicted)
	}
	u.mu.Unlock()
	end(evicted)
}

// Grow waits until an owner that has called Set may hold size bytes, and notes
// that it does. alive is asked now and then whether the connection is still there.
// It returns ErrNoMemory if the connection is to be closed.
func (u *Unfinished) Grow(p *Part, size int64, alive func() bool) error {
	u.mu.Lock()
	if p.doomed {
		u.mu.Unlock()
		return ErrNoMemory
	}
	p.more, p.since, p.wake = size-p.size, time.Now(), make(chan struct{})
	u.line = append(u.line, p)
	u.grant()
	granted := !p.waits()
	u.mu.Unlock()
	if granted {
		return nil
	}
	u.Waits.Add(1)
	return u.wait(p, alive)
}

// lookAgain is how often those who wait look at what has changed without a word:
// messages have left memory, time has passed.
const lookAgain = 200 * time.Millisecond

func (u *Unfinished) wait(p *Part, alive func() bool) error {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-p.wake:
		case <-tick.C:
		}
		gone := !alive()
		now := time.Now()
		u.mu.Lock()
		u.grant()
		evicted := u.press(now, nil)
		granted, over := !p.waits(), gone || p.doomed
		if !granted && over {
			u.unline(p)
		}
		u.mu.Unlock()
		end(evicted)
		switch {
		case granted:
			return nil
		case over:
			return ErrNoMemory
		}
	}
}

// fits reports whether p may hold more now. Locked: mu.
func (u *Unfinished) fits(p *Part) bool {
	only := u.held.Of(p.by) == p.size // of its account: its share, however small, has room for one
	if !u.held.Fits(p.by, p.more) && !(only && u.held.Used()+p.more <= u.held.Limit.Max) {
		return false
	}
	return u.opt.Total(0)+p.more <= u.opt.Limit || u.held.Used()+p.more <= u.floor
}

// take counts n more bytes of p. Locked: mu.
func (u *Unfinished) take(p *Part, n int64) {
	p.size += n
	u.held.Add(p.by, n)
	u.opt.Total(n)
	u.Held.Store(u.held.Used())
}

// grant lets those go on, in the order in which they came, for whom there is room.
// Locked: mu.
func (u *Unfinished) grant() {
	for i := 0; i < len(u.line); {
		p := u.line[i]
		if p.doomed || !u.fits(p) {
			i++
			continue
		}
		u.take(p, p.more)
		u.unline(p)
		close(p.wake)
	}
}

// unline ends the wait of p. Locked: mu.
func (u *Unfinished) unline(p *Part) {
	for i, q := range u.line {
		if q == p {
			u.line = append(u.line[:i], u.line[i+1:]...)
			break
		}
	}
	now := time.Now()
	p.paused += now.Sub(p.since)
	p.since, p.grown = time.Time{}, now
	p.leave()
	p.enter(&u.parts)
}

// press chooses whom to close because somebody waits, and appends it to list.
// Locked: mu.
func (u *Unfinished) press(now time.Time, list []Owner) []Owner {
	if len(u.line) == 0 {
		return list
	}
	first := u.line[0]
	for p := u.parts.next; p != &u.parts && u.dying < first.more; p = p.next {
		if p.waits() || !u.helps(first, p) {
			continue
		}
		if now.Sub(p.grown) < u.opt.Patience {
			break
		}
		list = u.evict(p, list)
	}
	if now.Sub(u.looked) < u.opt.Patience/2 {
		return list
	}
	u.looked = now
	if u.dying < first.more && now.Sub(first.since) >= u.opt.Patience {
		list = u.pressSlow(now, first, list)
	}
	return list
}

// slowest is how many times Patience a packet may take while somebody waits.
const slowest = 30

// pressSlow is press for those whose packets grow slowly. If there is nobody but
// those who wait, the last to have come is closed.
func (u *Unfinished) pressSlow(now time.Time, first *Part, list []Owner) []Owner {
	all := true
	for p := u.parts.next; p != &u.parts && u.dying < first.more; p = p.next {
		if p.waits() {
			continue
		}
		all = false
		age := now.Sub(p.begun) - p.paused
		if age >= u.opt.Patience && u.helps(first, p) && age.Seconds()*float64(p.size) > slowest*u.opt.Patience.Seconds()*float64(p.got) {
			list = u.evict(p, list)
		}
	}
	if all {
		list = u.evict(u.line[len(u.line)-1], list)
	}
	return list
}

// helps reports whether who waits could go on without p. Locked: mu.
func (u *Unfinished) helps(waits, p *Part) bool {
	own := u.held.Used()+waits.more <= u.held.Limit.Max && !u.held.Fits(waits.by, waits.more)
	return !own || p.by == waits.by // its account has its share
}

// oldest returns the one that has been silent for longest and does not wait, or
// if all wait, the last to have come.
func (u *Unfinished) oldest() *Part {
	for p := u.parts.next; p != &u.parts; p = p.next {
		if !p.waits() && !p.doomed {
			return p
		}
	}
	if n := len(u.line); n > 0 {
		return u.line[n-1]
	}
	return nil
}

// evict appends the owner of p to the list of those to close. Locked: mu.
func (u *Unfinished) evict(p *Part, list []Owner) []Owner {
	if p == nil || p.doomed {
		return list
	}
	p.doomed = true
	u.dying += p.size
	u.Closed.Add(1)
	if p.waits() {
		return list // it ends by itself
	}
	return append(list, p.owner)
}

// end closes the connections. No lock is held.
func end(list []Owner) {
	for _, o := range list {
		o.Evict()
	}
}

// Size returns what is held, bytes, to its connection's reader.
func (p *Part) Size() int64 { return p.size }

func (p *Part) waits() bool { return !p.since.IsZero() }

func (p *Part) enter(ring *Part) {
	p.prev, p.next = ring.prev, ring
	ring.prev.next, ring.prev = p, p
}

func (p *Part) leave() {
	if p.next != nil {
		p.prev.next, p.next.prev = p.next, p.prev
		p.next, p.prev = nil, nil
	}
}
