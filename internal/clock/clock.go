package clock

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Tolerance is how far the wall clock may be off and still be followed,
	// milliseconds. More is a jump.
	Tolerance = int64(5 * time.Minute / time.Millisecond)

	// slop is a difference that is no difference: two clocks are not read at once.
	slop = 100
	// lead is after how long a change of speed begins, so that who reads the time
	// meanwhile does not see it go back.
	lead = 50
	// settled is after how long a wall clock that has not jumped is believed so far
	// that the server's time may run ahead of it after a restart.
	settled = int64(time.Hour / time.Millisecond)
	// retry is when saving that has failed is tried again.
	retry = int64(10 * time.Second / time.Millisecond)

	// A wall clock before unset has not been set, and one from absurd on is
	// garbage: 2020-01-01 and 2100-01-01. Put times in the store end in 2106.
	unset  = int64(1_577_836_800_000)
	absurd = int64(4_102_444_800_000)
)

// Options say where a Clock takes its readings from. The zero value is the
// system's clocks and no log. All readings are in milliseconds.
type Options struct {
	// Wall is the wall clock, Unix ms. It may jump.
	Wall func() int64
	// Elapsed is a clock that starts anywhere, advances evenly and never goes back.
	Elapsed func() int64
	// Asleep is for how long the machine was suspended, in all, while Elapsed
	// stood still.
	Asleep func() int64
	Log    *slog.Logger
}

// Clock is the server's time. All methods may be called concurrently.
type Clock struct {
	opt    Options
	course atomic.Pointer[course]
	offset atomic.Int64 // of the wall clock from the server's time, ms
	jumps  atomic.Uint64

	mu      sync.Mutex // guards the rest
	asleep  int64
	quiet   int64 // Elapsed at the last jump
	state   State // what is saved
	known   bool  // state is
	save    func(State) error
	failed  bool // the last save; logged
	retryAt int64
}

// course is how the time goes on from some moment: with the monotonic clock,
// and a bit faster or slower until what is owed to the wall clock is paid.
type course struct {
	base  int64 // the time less Elapsed
	owed  int64 // ms; below 0: the time is ahead
	since int64 // Elapsed when paying begins
}

func (c *course) at(elapsed int64) int64 {
	return c.base + elapsed + c.paid(elapsed)
}

// paid is what of owed is paid: at double speed, or half.
func (c *course) paid(elapsed int64) int64 {
	switch d := max(elapsed-c.since, 0); {
	case c.owed > 0:
		return min(d, c.owed)
	case c.owed < 0:
		return -min(d/2, -c.owed)
	}
	return 0
}

// State is what has to outlive a restart. All times are Unix ms.
type State struct {
	Offset int64 // the wall clock less the server's time
	Time   int64 // the server's time when it was saved
	// Lost says that there was a state, and that it cannot be read: the offset is
	// not known.
	Lost bool
}

// New returns a clock that shows the wall clock's time.
func New(opt Options) *Clock {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Wall == nil {
		opt.Wall = func() int64 { return time.Now().UnixMilli() }
	}
	if opt.Elapsed == nil {
		epoch := time.Now()
		opt.Elapsed = func() int64 { return time.Since(epoch).Milliseconds() }
	}
	if opt.Asleep == nil {
		opt.Asleep = asleep
	}
	c := &Clock{opt: opt, asleep: opt.Asleep(), quiet: opt.Elapsed()}
	c.start(sane(opt.Wall()), 0)
	return c
}

// sane is a wall clock's time, or one that is possible instead.
func sane(wall int64) int64 {
	if wall < 1 || wall >= absurd {
		return unset
	}
	return wall
}

// Now returns the server's time in Unix ms. It never goes back, and between a
// start and the next it never jumps, but over a time in which the machine was
// suspended.
func (c *Clock) Now() int64 { return c.course.Load().at(c.opt.Elapsed()) }

// Wall returns the wall clock's time in Unix ms: for what names a time of day.
func (c *Clock) Wall() int64 { return c.opt.Wall() }

// Offset is how far the wall clock is before the server's time, ms: the jumps
// that were not followed.
func (c *Clock) Offset() int64 { return c.offset.Load() }

// Jumps counts the jumps since the start.
func (c *Clock) Jumps() uint64 { return c.jumps.Load() }

// start makes now the time. offset is what the wall clock is before it.
func (c *Clock) start(now, offset int64) {
	elapsed := c.opt.Elapsed()
	c.course.Store(&course{base: now - elapsed})
	c.offset.Store(offset)
	c.owe(c.opt.Wall()-offset-now, elapsed)
}

// owe lets the time come nearer to the wall clock, which is diff ahead of where
// it should be.
func (c *Clock) owe(diff, elapsed int64) {
	old := c.course.Load()
	if left := old.owed - old.paid(elapsed); diff-left <= slop && left-diff <= slop {
		return // it is being paid
	}
	c.course.Store(&course{base: old.at(elapsed) - elapsed, owed: diff, since: elapsed + lead})
}

// Keep gives the clock the state that was saved by the process before, nil if
// there is none, and how to save one. save is called by Check only, never twice
// at a time; it may block on the disk. Keep comes before Resume.
func (c *Clock) Keep(state *State, save func(State) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.save, c.known = save, state != nil && !state.Lost
	if state != nil {
		c.state = *state
	}
}

// Resume goes on from what a store knows: last is the last time that was written
// there, Unix ms, 0 if there is none.
//
// The wall clock says how long the server was down, if that is possible: not
// if it shows a time before last, if it was not set then and is now, or if it is
// garbage. Then the time goes on from last: how long the server was down is not
// known, and counts as nothing.
func (c *Clock) Resume(last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, old := c.opt.Wall(), c.state.Offset
	last = min(max(last, c.state.Time), absurd-1)
	now := c.resumed(wall, last)
	switch offset := wall - now; {
	case near(offset, 0):
		c.start(now, 0)
	case near(offset, old) && !c.state.Lost:
		c.start(now, old)
	default:
		c.start(now, offset)
	}
	if offset := c.Offset(); offset != 0 {
		c.opt.Log.Warn("the wall clock is not the server's time: it has jumped, or was behind the store's at the start; "+
			"stored deadlines keep their remaining time", "wall", stamp(wall), "time", stamp(now), "offset", ms(offset))
	}
}

// resumed is the time to go on with.
func (c *Clock) resumed(wall, last int64) int64 {
	offset := c.state.Offset
	shown := wall - offset
	switch {
	case last == 0:
		return sane(wall)
	case c.state.Lost:
		return last
	case offset < 0 && wall >= last-Tolerance: // it is right again
		shown = wall
	case offset < 0 && wall < unset: // it was not set yet: another offset
		return last
	}
	if shown < last || shown >= absurd || last < unset && shown >= unset {
		return last
	}
	return shown
}

// near reports whether two offsets are the same but for what is followed.
func near(a, b int64) bool { return a-b <= Tolerance && b-a <= Tolerance }

// Check compares the time with the wall clock. Somebody has to call it a few
// times a second; until then a jump is not noticed, and does nothing. It may
// block on the disk after a jump.
func (c *Clock) Check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake()
	elapsed, wall := c.opt.Elapsed(), c.opt.Wall()
	now, offset := c.course.Load().at(elapsed), c.offset.Load()
	diff := wall - offset - now
	if !near(diff, 0) {
		c.jump(now+offset, wall, wall-now, elapsed)
	} else {
		c.owe(diff, elapsed)
	}
	c.keep(elapsed, wall)
}

// wake adds the time in which the machine was suspended.
func (c *Clock) wake() {
	asleep := c.opt.Asleep()
	slept := asleep - c.asleep
	if slept < 1000 { // less is not told from an error of measuring
		return
	}
	c.asleep = asleep
	old := *c.course.Load()
	old.base += slept
	c.course.Store(&old)
	c.opt.Log.Info("the machine was suspended; that time counts", "for", ms(slept))
}

// jump takes the new offset of a wall clock that was to show from and shows to.
func (c *Clock) jump(from, to, offset, elapsed int64) {
	owed := int64(0)
	if near(offset, 0) { // it is right again
		offset, owed = 0, offset
	}
	c.offset.Store(offset)
	c.owe(owed, elapsed)
	c.quiet = elapsed
	c.jumps.Add(1)
	c.opt.Log.Warn("the wall clock jumped; stored deadlines keep their remaining time",
		"from", stamp(from), "to", stamp(to), "offset", ms(offset))
}

// keep saves the state when it has to be. A larger offset is saved at once:
// without it the next start would take the jump for time that has passed. A
// smaller one would let the time run ahead if the wall clock is put right while
// the server is down, so that has to hold for a while first.
func (c *Clock) keep(elapsed, wall int64) {
	offset := c.offset.Load()
	switch {
	case c.save == nil, elapsed < c.retryAt:
		return
	case !c.known, offset > c.state.Offset:
	case offset < c.state.Offset && elapsed-c.quiet >= settled && wall >= unset && wall < absurd:
	default:
		return
	}
	state := State{Offset: offset, Time: c.course.Load().at(elapsed)}
	if err := c.save(state); err != nil {
		c.retryAt = elapsed + retry
		if !c.failed {
			c.opt.Log.Error("cannot save the clock's offset; it is tried again. If the server stops before, "+
				"stored deadlines may be met early", "offset", ms(offset), "error", err)
		}
		c.failed = true
		return
	}
	c.state, c.known, c.failed = state, true, false
}

func stamp(at int64) string { return time.UnixMilli(at).UTC().Format(time.RFC3339) }

func ms(d int64) string { return (time.Duration(d/1000) * time.Second).String() }
