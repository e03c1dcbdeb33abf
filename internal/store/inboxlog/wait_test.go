package inboxlog

import "time"

// poll asks until the answer is yes, at most for some time. Nothing else in these
// tests lets time go by to wait for something.
func poll(most time.Duration, is func() bool) bool {
	for end := time.Now().Add(most); !is(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			return is()
		}
	}
	return true
}

// written waits until everything submitted is written, for benchmarks.
func written(l *Log) { poll(time.Hour, func() bool { return l.queue.waiting() == 0 }) }
