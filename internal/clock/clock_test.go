package clock

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	second = int64(1000)
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
	year   = 365 * day
	today  = int64(1_796_000_000_000) // in November 2026
)

// machine has the clocks that a Clock sees, and keeps its state.
type machine struct {
	now     int64 // true time
	off     int64 // of the wall clock
	up      int64 // Elapsed
	slept   int64
	log     strings.Builder
	saved   *State
	saveErr error
	saves   int
	*Clock
}

// boot starts a process that finds last in its store.
func (m *machine) boot(last int64) {
	m.up = 5 * second
	m.Clock = New(Options{
		Wall:    func() int64 { return m.now + m.off },
		Elapsed: func() int64 { return m.up },
		Asleep:  func() int64 { return m.slept },
		Log:     slog.New(slog.NewTextHandler(&m.log, nil)),
	})
	m.Keep(m.saved, func(s State) error {
		if m.saveErr != nil {
			return m.saveErr
		}
		m.saves++
		m.saved = &s
		return nil
	})
	m.Resume(last)
	m.Check()
}

// run lets time pass, with a Check every 200 ms.
func (m *machine) run(d int64) {
	for ; d > 0; d -= 200 {
		step := min(d, 200)
		m.now, m.up = m.now+step, m.up+step
		m.Check()
	}
}

func (m *machine) lines(text string) int { return strings.Count(m.log.String(), text) }

// A sane clock: the time is the wall clock's, also over restarts.
func TestSane(t *testing.T) {
	m := &machine{now: today}
	m.boot(0)
	if m.run(minute); m.Now() != m.now {
		t.Errorf("the time is %d, the wall clock's %d", m.Now(), m.now)
	}
	last := m.Now()
	m.now += 3 * day
	if m.boot(last); m.Now() != m.now || m.Offset() != 0 {
		t.Errorf("3 days down count as %v", time.Duration(m.Now()-last)*time.Millisecond)
	}
	if m.Jumps() != 0 || m.saves != 1 || m.log.Len() > 0 {
		t.Errorf("%d jumps, %d writes, log:\n%s", m.Jumps(), m.saves, m.log.String())
	}
}

// A jump shifts nothing, is told once, and the offset outlives restarts.
func TestJumps(t *testing.T) {
	for _, jump := range []int64{6 * minute, -6 * minute, 3 * day, -3 * day, 50 * year, -50 * year} {
		m := &machine{now: today}
		m.boot(0)
		m.run(minute)
		m.off = jump
		if d := m.Now() - m.now; d != 0 {
			t.Fatalf("jump of %s: before it was noticed the time moved by %d ms", ms(jump), d)
		}
		m.run(minute)
		if m.Now() != m.now || m.Offset() != jump || m.Jumps() != 1 || m.lines("jumped") != 1 {
			t.Errorf("jump of %s: %d ms off, offset %s, %d jumps, log:\n%s", ms(jump), m.Now()-m.now, ms(m.Offset()), m.Jumps(), m.log.String())
		}
		m.run(2 * hour) // also a smaller offset is believed now
		last := m.Now()
		m.now += day
		m.boot(last)
		want := m.now
		switch {
		case m.now+m.off < unset: // a clock that is not set says nothing
			want = last
		case jump < 0 && m.now+m.off > last: // it may have been put right
			want = m.now + m.off
		}
		if m.Now() != want {
			t.Errorf("jump of %s, restart after a day: the time is %s off", ms(jump), ms(m.Now()-want))
		}
		m.run(minute)
		before := m.Now()
		m.off = 0 // it is right again
		if m.run(second); m.Now()-before < second-slop || m.Now()-before > 2*second {
			t.Errorf("jump of %s and back: the time moved by %d ms in 1 s", ms(jump), m.Now()-before)
		}
	}
}

// What is a few minutes off is followed: at double or half speed, without going
// back, and without a line or a write.
func TestFollows(t *testing.T) {
	for _, step := range []int64{1 * second, -1 * second, 4 * minute, -4 * minute} {
		m := &machine{now: today}
		m.boot(0)
		m.run(minute)
		m.off = step
		m.Check()
		for last := m.Now(); m.up < 30*minute; last = m.Now() {
			m.run(200)
			if d := m.Now() - last; d < 100 || d > 400 {
				t.Fatalf("step of %s: the time moved by %d ms in 200", ms(step), d)
			}
		}
		if d := m.Now() - m.now - m.off; d < -slop || d > slop {
			t.Errorf("step of %s: still %d ms off", ms(step), d)
		}
		if m.Jumps() != 0 || m.saves != 1 || m.Offset() != 0 || m.log.Len() > 0 {
			t.Errorf("step of %s: %d jumps, %d writes, log:\n%s", ms(step), m.Jumps(), m.saves, m.log.String())
		}
	}
}

// A suspension counts: the machine knows how long it was.
func TestSuspended(t *testing.T) {
	m := &machine{now: today}
	m.boot(0)
	m.run(minute)
	m.now, m.slept = m.now+8*hour, m.slept+8*hour
	if m.Check(); m.Now() != m.now || m.Jumps() != 0 {
		t.Errorf("8 h of sleep: the time is %s off, %d jumps", ms(m.Now()-m.now), m.Jumps())
	}
	if asleep() < 0 {
		t.Error("this machine slept for less than nothing")
	}
}

// What a start makes of what it finds.
func TestResume(t *testing.T) {
	for _, c := range []struct {
		name       string
		wall, last int64
		saved      *State
		want       int64
	}{
		{"a new store", today, 0, nil, today},
		{"a new store, clock not set", 5 * day, 0, nil, 5 * day},
		{"a new store, clock before 1970", -day, 0, nil, unset},
		{"a new store, clock in 2150", today + 124*year, 0, nil, unset},
		{"an old store", today, today - 3*day, nil, today},
		{"an old store, clock not set", 5 * day, today, nil, today},
		{"clock a bit behind", today - minute, today, nil, today},
		{"clock hours behind", today - 4*hour, today, nil, today},
		{"clock in 2150", today + 124*year, today, nil, today},
		{"set while the server was down", today, 5 * day, nil, 5 * day},
		{"not set before and now, 1 h down", 5*day + hour, 5 * day, nil, 5*day + hour},
		{"jumped forward before, 3 days down", today, today - 10*year - 3*day, &State{Offset: 10 * year}, today - 10*year},
		{"jumped forward before, now right", today, today - hour, &State{Offset: year}, today - hour},
		{"jumped back before, 3 days down", today, today + 10*year - 3*day, &State{Offset: -10 * year}, today + 10*year},
		{"jumped back before, now right", today, today - hour, &State{Offset: -year}, today},
		{"jumped back before, now not set", 5 * day, today - hour, &State{Offset: -year}, today - hour},
		{"nothing in the log", today, 0, &State{Offset: year, Time: today - year - day}, today - year},
		{"the state is lost", today, today - year, &State{Lost: true}, today - year},
	} {
		m := &machine{now: today, off: c.wall - today, saved: c.saved}
		if m.boot(c.last); m.Now() != c.want {
			t.Errorf("%s: the time is %s; want %s", c.name, stamp(m.Now()), stamp(c.want))
		}
	}
}

// A larger offset is saved at once and until that works; a smaller one when it
// has held for an hour: if the clock is put right before, the time does not run
// ahead after a restart.
func TestSaves(t *testing.T) {
	m := &machine{now: today}
	m.boot(0)
	m.saveErr = errors.New("disk full")
	m.off = year
	m.run(25 * second)
	if m.lines("cannot save") != 1 || m.saved.Offset != 0 {
		t.Fatalf("a full disk: state %+v, log:\n%s", *m.saved, m.log.String())
	}
	m.saveErr = nil
	if m.run(10 * second); m.saved.Offset != year || m.saves != 2 {
		t.Fatalf("after that %d writes, state %+v", m.saves, *m.saved)
	}
	m.off = -year
	if m.run(59 * minute); m.saved.Offset != year {
		t.Fatalf("after 59 minutes the state is %+v", *m.saved)
	}
	if m.run(2 * minute); m.saved.Offset != -year || m.saves != 3 {
		t.Fatalf("after 61 minutes %d writes, state %+v", m.saves, *m.saved)
	}
	if m.run(24 * hour); m.saves != 3 {
		t.Errorf("%d writes in a day without a jump", m.saves-3)
	}
}

// TestHistories: whatever the wall clock does, the time never goes back, and while
// the process runs it advances with the monotonic clock, at half to double speed.
// After a restart it is not before what the store knew, and leaps no further ahead
// than the wall clock says; while that does not jump, it says it right but for what
// it is behind.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{now: today + rapid.Int64Range(-20, 20).Draw(rt, "years")*year, off: anyOff(rt)}
		m.boot(0)
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			before := m.Now()
			switch rapid.SampledFrom([]string{"run", "run", "step", "jump", "jump", "down", "power off"}).Draw(rt, "what") {
			case "run":
				d := rapid.Int64Range(1, 3*minute).Draw(rt, "ms")
				m.run(d)
				if moved := m.Now() - before; moved < d/2-slop || moved > 2*d+slop {
					rt.Fatalf("the time moved by %d ms in %d", moved, d)
				}
			case "step":
				m.off += rapid.Int64Range(-4*minute, 4*minute).Draw(rt, "step")
			case "jump":
				m.off = anyOff(rt)
			case "down": // the clock goes on
				for range 3 {
					m.now, m.up = m.now+hour, m.up+hour
					m.Check()
				}
				last, d := m.Now(), rapid.Int64Range(0, 10*day).Draw(rt, "down")
				whole := m.now+m.off >= unset && m.now+m.off+d < absurd
				behind := max(-m.Offset(), 0)
				m.now += d
				m.boot(last)
				if moved := m.Now() - last; moved < 0 || moved > d+Tolerance || whole && moved < d-behind-Tolerance {
					rt.Fatalf("the time moved by %s while the server was down for %s", ms(moved), ms(d))
				}
			case "power off": // the clock starts anywhere before
				last := m.Now() - rapid.Int64Range(0, hour).Draw(rt, "not in the log")
				m.off = -m.now + rapid.Int64Range(0, 400*day).Draw(rt, "boots at")
				m.boot(last)
				if m.Now() < last {
					rt.Fatalf("the time went back by %s", ms(last-m.Now()))
				}
				if m.Now() > last+400*day { // a process that began in 1970 counts days there
					rt.Fatalf("the time leapt by %s", ms(m.Now()-last))
				}
				before = last
			}
			if m.Now() < before {
				rt.Fatalf("the time went back by %d ms", before-m.Now())
			}
		}
	})
}

// anyOff is how wrong a wall clock may be.
func anyOff(rt *rapid.T) int64 {
	return rapid.SampledFrom([]int64{0, 0, second, minute, hour, day, year, 50 * year}).Draw(rt, "unit") * rapid.Int64Range(-1, 1).Draw(rt, "sign")
}

// Many read the time while it changes its speed: nobody sees it go back.
func TestReadersSeeItAdvance(t *testing.T) {
	c := New(Options{})
	off := int64(0)
	c.opt.Wall = func() int64 { return time.Now().UnixMilli() + off }
	stop, done := make(chan struct{}), make(chan int64)
	for range 2 {
		go func() {
			worst := int64(0)
			for last := c.Now(); ; {
				select {
				case <-stop:
					done <- worst
					return
				default:
				}
				now := c.Now()
				worst, last = max(worst, last-now), now
			}
		}()
	}
	for i := range 2000 {
		off = []int64{0, -2 * minute, 2 * minute, -year, 0, -1 * second}[i%6]
		c.Check()
	}
	close(stop)
	for range 2 {
		if worst := <-done; worst > 0 {
			t.Errorf("a reader saw it go back by %d ms", worst)
		}
	}
}
