package rocketmqserver

import (
	"strconv"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/clock"
)

// TestSchedule: a delay counts in the server's time and a time of day in the wall
// clock's, also when these are years apart. The last of several properties counts.
func TestSchedule(t *testing.T) {
	const year = 365 * 24 * 3600 * 1000
	wall := int64(1_796_000_000_000)
	c := clock.New(clock.Options{Wall: func() int64 { return wall }, Elapsed: func() int64 { return 0 }})
	now := c.Now()
	wall += 10 * year
	r := newRig(t, rigOptions{core: func(o *broker.Options) { o.Clock = c }})
	at := strconv.FormatInt(wall+60_000, 10)
	for _, p := range []struct {
		props            [][2]string
		at, delay, start int64
		refused          bool
	}{
		{nil, 0, 0, now, false},
		{[][2]string{{"DELAY", "3"}}, 0, 10_000, now + 10_000, false},
		{[][2]string{{"TIMER_DELAY_SEC", "7"}}, 0, 7000, now + 7000, false},
		{[][2]string{{"TIMER_DELAY_MS", "9"}}, 0, 9, now + 9, false},
		{[][2]string{{"TIMER_DELAY_SEC", "3601"}}, 0, 3_601_000, 0, true},
		{[][2]string{{"TIMER_DELIVER_MS", at}}, wall + 60_000, 0, wall + 60_000, false},
		{[][2]string{{"__STARTDELIVERTIME", at}}, wall + 60_000, 0, wall + 60_000, false},
		{[][2]string{{"TIMER_DELIVER_MS", strconv.FormatInt(wall-1, 10)}}, 0, 0, now, false},
		{[][2]string{{"TIMER_DELIVER_MS", strconv.FormatInt(wall+3_700_000, 10)}}, wall + 3_700_000, 0, 0, true},
		{[][2]string{{"DELAY", "3"}, {"TIMER_DELIVER_MS", at}}, wall + 60_000, 0, wall + 60_000, false},
		{[][2]string{{"TIMER_DELIVER_MS", at}, {"DELAY", "3"}}, 0, 10_000, now + 10_000, false},
	} {
		var one translation
		one.begin(r.Server, now)
		for _, kv := range p.props {
			if err := one.set([]byte(kv[0]), []byte(kv[1])); err != nil {
				t.Fatal(err)
			}
		}
		start, err := one.schedule()
		if one.at != p.at || one.delay != p.delay || start != p.start || (err != nil) != p.refused {
			t.Errorf("%v: at %d, delay %v, start %d, %v", p.props, one.at, time.Duration(one.delay)*time.Millisecond, start, err)
		}
	}
}
