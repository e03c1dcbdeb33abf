package broker

import (
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// TestDelaysAndJumps: what is to come at a time of day comes when the wall clock
// shows it, what is to come after a while comes after that, whichever way the wall
// clock has jumped meanwhile, also over a restart.
func TestDelaysAndJumps(t *testing.T) {
	const hour = int64(3_600_000)
	for _, c := range []struct {
		name       string
		jump       int64
		restart    bool
		soon, late int // how many arrive after the jump, and in all 2 hours later
	}{
		{"none", 0, false, 0, 20},
		{"forward", 2 * hour, false, 10, 20},
		{"forward, beyond the expiry", clockYear, false, 0, 10},
		{"back", -clockYear, false, 0, 10},
		{"forward, restart", 2 * hour, true, 10, 20},
		{"back, restart", -clockYear, true, 0, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newClockWorld(t, clockToday)
			defer func() { w.stop() }()
			d := w.subscriber("dev", 1)
			var r results
			w.batch.Begin()
			for n := range 10 {
				m := message("a/p2p/dev", 1, n, 1, true)
				m.Expiry = w.b.Wall() + 3*hour
				w.b.PublishLater(Source{Principal: &mq.Principal{}}, m, w.b.Wall()+hour, &r, uint64(n), &w.batch)
				m = message("a/p2p/dev", 1, 10+n, 1, true)
				m.Expiry = w.b.Now(&w.batch) + 3*hour
				w.b.PublishAfter(Source{Principal: &mq.Principal{}}, m, hour, &r, uint64(10+n), &w.batch)
			}
			w.batch.Flush()
			w.settle()
			w.wall.Add(c.jump)
			w.tick()
			if c.restart {
				w.stop()
				w.start()
				w.connect(d, false)
			}
			arrive := func(when string, want int) {
				w.tick()
				w.b.delays.poke()
				w.eventually("delayed messages are published", func() bool { return !w.b.delays.pending(w.wall.Load()) })
				if w.drainAll(d); len(d.got) != want {
					t.Fatalf("%s %d of 20 messages arrived; want %d", when, len(d.got), want)
				}
			}
			arrive("after the jump", c.soon)
			w.lapse(2 * hour)
			arrive("2 h later", c.late)
			for _, got := range d.got {
				if relative := got.n >= 10; !relative && c.jump < 0 {
					t.Errorf("message %d came before its time of day", got.n)
				}
			}
			if waiting := w.b.Stats.Delayed.Load(); c.jump < 0 && waiting != 10 || c.jump >= 0 && waiting != 0 {
				t.Errorf("%d messages wait", waiting)
			}
		})
	}
}

// A delayed message that is published after a jump has the expiry that was left.
func TestDelayedExpiryAfterJump(t *testing.T) {
	const hour = int64(3_600_000)
	w := newClockWorld(t, clockToday)
	defer func() { w.stop() }()
	w.wall.Add(-clockYear)
	w.tick() // the server's time is a year ahead from now on
	var r results
	for n, topic := range []string{"a/p2p/dev0", "a/p2p/dev1"} {
		w.batch.Begin()
		m := message(topic, 1, n, 1, true)
		m.Expiry = w.b.Wall() + 2*hour
		w.b.PublishLater(Source{Principal: &mq.Principal{}}, m, w.b.Wall()+hour, &r, uint64(n), &w.batch)
		w.batch.Flush()
	}
	w.settle()
	w.lapse(hour)
	w.b.delays.poke()
	w.eventually("they are published", func() bool { return w.b.Stats.Delayed.Load() == 0 })
	w.settle()
	first := &device{id: "dev0", persistent: true, window: 10}
	w.lapse(hour / 2)
	w.connect(first, false)
	if w.drainAll(first); len(first.got) != 1 {
		t.Errorf("half an hour before its expiry %d of 1 message arrived", len(first.got))
	}
	w.lapse(hour)
	second := &device{id: "dev1", persistent: true, window: 10}
	w.connect(second, false)
	if w.drainAll(second); len(second.got) != 0 {
		t.Errorf("half an hour after its expiry %d messages arrived", len(second.got))
	}
}
