package bench

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// sample is what is compared at two moments.
type sample struct {
	time    time.Time
	arrived uint64
	server  Usage
	client  time.Duration // own CPU time
}

func (r *run) sample() (sample, error) {
	s := sample{time: time.Now(), client: ownCPU()}
	for _, p := range r.pairs {
		s.arrived += p.arrived.Load()
	}
	var err error
	if r.options.Server != nil {
		s.server, err = r.options.Server.Usage()
	}
	return s, err
}

// measure sends, and fills in what is known before the connections end.
func (r *run) measure(ctx context.Context) (*P2PReport, error) {
	r.start = time.Now()
	o := r.options
	stop := r.begin()
	defer stop()
	if err := r.watch(ctx, o.Warmup); err != nil {
		return nil, err
	}
	before, err := r.sample()
	if err != nil {
		return nil, err
	}
	r.fromAt.Store(r.now())
	if err := r.watch(ctx, o.Duration); err != nil {
		return nil, err
	}
	r.stopAt.Store(r.now())
	after, err := r.sample()
	if err != nil {
		return nil, err
	}
	stop()
	if err := r.drain(ctx); err != nil {
		return nil, err
	}
	return r.report(before, after), nil
}

// begin starts sending. The function it returns ends what it has started, and
// can be called again.
func (r *run) begin() (stop func()) {
	if r.options.Rate > 0 {
		return r.pace()
	}
	for _, p := range r.pairs {
		p.fill(r.now())
		p.sender.Flush()
	}
	return func() {}
}

// pace starts the pacer, a goroutine on a thread of its own: the runtime's
// timers are late by up to a millisecond when nothing else goes on.
func (r *run) pace() (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	procs := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(procs + 1) // the pacer sleeps in the kernel and keeps one
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for n := 0; ; n++ {
			p := r.pairs[n%len(r.pairs)]
			due := r.due(p.index, uint64(n/len(r.pairs)))
			for wait := due - r.now(); wait > 0; wait = due - r.now() {
				select {
				case <-quit:
					return
				default:
					sleep(time.Duration(min(wait, int64(checkEvery))))
				}
			}
			if due >= r.stopAt.Load() {
				return
			}
			p.fill(r.now())
			p.sender.Flush()
		}
	}()
	stopped := false
	return func() {
		if stopped {
			return
		}
		stopped = true
		close(quit)
		r.stopAt.CompareAndSwap(1<<63-1, r.now()) // after an error: end the catching up
		<-done
		runtime.GOMAXPROCS(procs)
	}
}

// watch waits for d and looks for lost connections and stuck pairs.
func (r *run) watch(ctx context.Context, d time.Duration) error {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	stuck := make([]stuckPair, len(r.pairs))
	for {
		select {
		case <-end.C:
			return r.broken()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := r.broken(); err != nil {
			return err
		}
		if r.options.QoS == 0 && r.options.Rate == 0 {
			for i, p := range r.pairs {
				stuck[i].check(p)
			}
		}
	}
}

// stuckPair finds a QoS 0 pair in which nothing moves.
type stuckPair struct {
	arrived uint64
	since   time.Time
}

// stuckTime is how long a QoS 0 message may be under way before its window is
// opened for another.
const stuckTime = time.Second

func (s *stuckPair) check(p *pair) {
	n := p.arrived.Load()
	if n != s.arrived || s.since.IsZero() {
		s.arrived, s.since = n, time.Now()
		return
	}
	if time.Since(s.since) > stuckTime {
		p.forgive()
		s.since = time.Now()
	}
}

// broken returns an error if a connection has ended.
func (r *run) broken() error {
	for i, p := range r.pairs {
		if err := p.sender.Err(); err != nil {
			return fmt.Errorf("sender %d: connection ended: %w", i, err)
		}
		if err := p.receiver.Err(); err != nil {
			return fmt.Errorf("receiver %d: connection ended: %w", i, err)
		}
	}
	return nil
}

// drain waits for what is under way, as long as it moves.
func (r *run) drain(ctx context.Context) error {
	tick := time.NewTicker(checkEvery / 10)
	defer tick.Stop()
	last, since := uint64(0), time.Now()
	for {
		settled, moved := true, uint64(0)
		for _, p := range r.pairs {
			settled = settled && p.settled()
			moved += p.arrived.Load() + p.acked.Load()
		}
		if moved != last {
			last, since = moved, time.Now()
		}
		if settled || time.Since(since) > r.options.Patience {
			return r.broken()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
