//go:build unix

package main

import (
	"math"
	"syscall"
)

// openFilesLimit is how many files the process may have open; 0: any number.
func openFilesLimit() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return int(min(uint64(r.Cur), math.MaxInt32)) //nolint:unconvert // signed on FreeBSD
}
