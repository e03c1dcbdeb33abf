package clock

import "golang.org/x/sys/unix"

// asleep is for how long the machine was suspended since it was booted, ms. Go's
// monotonic clock is CLOCK_MONOTONIC, which stands still meanwhile.
func asleep() int64 {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return (boot.Nano() - mono.Nano()) / 1e6
}
