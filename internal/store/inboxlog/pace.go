package inboxlog

import "time"

// pace spaces out syncs: one commit costs 50 to 100 us of CPU however little is
// in it, so when messages come all the time, but few per commit, one sync every
// maxGap costs a fraction of one after the other.
//
// Waiting pays only if as many come as without. Senders that each wait for
// their last message only come later. So pace goes back and forth between
// measuring what comes naturally and waiting, and waits seldom if it does not
// pay.
type pace struct {
	last    time.Time // end of the last synced commit
	natural flow      // of commits not waited for, since waiting was last tried
	waited  flow      // of those waited for, since
	waiting bool      // the commit under way is waited for
	skip    int       // commits to measure before waiting is tried
}

// flow is the sum of what some commits had.
type flow struct {
	commits int
	ops     int           // with an owner
	time    time.Duration // from the end of the commit before to their end
}

func (f *flow) add(ops int, d time.Duration) {
	f.commits++
	f.ops += ops
	f.time += min(d, longest)
}

// slower reports whether f had less than half the ops per second of o.
func (f *flow) slower(o *flow) bool {
	return 2*float64(f.ops)*o.time.Seconds() < float64(o.ops)*f.time.Seconds()
}

const (
	crowdTo  = 64 // ops per commit from which on there is little to gain
	measured = 16 // commits to measure, if waiting pays
	tried    = 4  // commits after which it shows whether it does
	enjoyed  = 16 * measured
	maxSkip  = 4096                  // commits to measure, if it does not again and again
	longest  = 10 * time.Millisecond // a longer time between commits was idleness
)

// wait returns when the next sync may start.
func (p *pace) wait() {
	if time.Since(p.last) > maxGap {
		p.waiting = false // nothing much goes on
		return
	}
	if !p.waiting && p.natural.commits >= max(p.skip, measured) {
		if few := p.natural.ops < 3*p.natural.commits/2; few || p.natural.ops >= crowdTo*p.natural.commits {
			p.natural = flow{}
		} else {
			p.waiting, p.waited = true, flow{}
		}
	}
	if p.waiting {
		time.Sleep(maxGap)
	}
}

// committed is told how many ops with an owner a synced commit had.
func (p *pace) committed(ops int) {
	now := time.Now()
	d := now.Sub(p.last)
	p.last = now
	if !p.waiting {
		p.natural.add(ops, d)
		return
	}
	p.waited.add(ops, d)
	switch {
	case p.waited.commits >= tried && p.waited.slower(&p.natural):
		p.skip = min(max(2*p.skip, 4*measured), maxSkip)
	case p.waited.commits >= enjoyed:
		p.skip = 0
	default:
		return
	}
	p.waiting, p.natural = false, flow{}
}
