package bench

import (
	"context"
	"fmt"
	"time"
)

// sample is what is compared at two moments.
type sample struct {
	time   time.Time
	n      uint64 // what is measured: messages, connects
	server Usage
	client time.Duration // own CPU time
}

// newSample looks at the server, unless that is nil.
func newSample(server *Process, n uint64) (s sample, err error) {
	s = sample{time: time.Now(), n: n, client: ownCPU()}
	if server != nil {
		s.server, err = server.Usage()
	}
	return s, err
}

func (r *run) sample() (sample, error) {
	n := uint64(0)
	for _, p := range r.pairs {
		n += p.arrived.Load()
	}
	return newSample(r.options.Server, n)
}

// measure sends, and fills in what is known before the connections end.
func (r *run) measure(ctx context.Context) (*P2PReport, error) {
	r.begun()
	o := r.options
	stop := r.begin()
	defer stop()
	before, after, err := r.window(ctx, o.Warmup, o.Duration, r.sample, r.check())
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
		return r.pace(func(n int) int64 {
			return r.due(r.pairs[n%len(r.pairs)].index, uint64(n/len(r.pairs)))
		}, func(n int) {
			p := r.pairs[n%len(r.pairs)]
			p.fill(r.now())
			p.client.Flush()
		})
	}
	for _, p := range r.pairs {
		p.fill(r.now())
		p.client.Flush()
	}
	return func() {}
}

// check returns what looks for lost connections and stuck pairs.
func (r *run) check() func() error {
	stuck := make([]stuckPair, len(r.pairs))
	return func() error {
		if err := r.broken(); err != nil {
			return err
		}
		if r.options.QoS == 0 && r.options.Rate == 0 {
			for i, p := range r.pairs {
				stuck[i].check(p)
			}
		}
		return nil
	}
}

// window lets warmup pass, and then opens the time to measure, with a sample at
// both ends of it. check is called now and then.
func (c *clock) window(ctx context.Context, warmup, d time.Duration, look func() (sample, error), check func() error) (before, after sample, err error) {
	if err = watch(ctx, warmup, check); err != nil {
		return before, after, err
	}
	if before, err = look(); err != nil {
		return before, after, err
	}
	c.fromAt.Store(c.now())
	if err = watch(ctx, d, check); err != nil {
		return before, after, err
	}
	c.stopAt.Store(c.now())
	after, err = look()
	return before, after, err
}

// watch waits for d and calls check now and then. It ends early with check's
// error, or with ctx.
func watch(ctx context.Context, d time.Duration, check func() error) error {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-end.C:
			return check()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if err := check(); err != nil {
			return err
		}
	}
}

// still tells for how long a count has not changed.
type still struct {
	count uint64
	since time.Time
}

func (s *still) time(count uint64) time.Duration {
	if count != s.count || s.since.IsZero() {
		*s = still{count, time.Now()}
	}
	return time.Since(s.since)
}

// stuckPair finds a QoS 0 pair in which nothing moves.
type stuckPair struct{ still }

// stuckTime is how long a message may be under way before its window is opened
// for another.
const stuckTime = time.Second

func (s *stuckPair) check(p *pair) {
	if s.time(p.arrived.Load()) > stuckTime {
		p.forgive()
		s.since = time.Now()
	}
}

// broken returns an error if a connection has ended.
func (r *run) broken() error {
	for i, p := range r.pairs {
		if err := p.client.Err(); err != nil {
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
	err := drain(ctx, r.options.Patience, func() (settled bool, moved uint64) {
		settled = true
		for _, p := range r.pairs {
			settled = settled && p.settled()
			moved += p.arrived.Load() + p.acked.Load()
		}
		return settled, moved
	})
	if err == nil {
		err = r.broken()
	}
	return err
}

// drain waits until look says that all is settled, or that nothing has moved
// for the time of patience.
func drain(ctx context.Context, patience time.Duration, look func() (settled bool, moved uint64)) error {
	tick := time.NewTicker(checkEvery / 10)
	defer tick.Stop()
	var last still
	for {
		if settled, moved := look(); settled || last.time(moved) > patience {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
