package bench

import (
	"fmt"
	"syscall"
	"time"
)

// sleep sleeps in the kernel, which is more exact than the runtime.
func sleep(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // an early end does not matter
}

// raiseOpenFiles lets the process have n open files. The Go runtime has raised
// the limit as far as anybody may; root may more.
func raiseOpenFiles(n int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit on open files: %w", err)
	}
	if l.Cur >= uint64(n) {
		return nil
	}
	allowed := l.Max
	l.Cur, l.Max = uint64(n), max(l.Max, uint64(n))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("%d open files are needed and %d allowed; raise the limit (ulimit -n) or make fewer connections", n, allowed)
	}
	return nil
}
