//go:build !linux

package bench

import "time"

func sleep(d time.Duration) { time.Sleep(d) }

// raiseOpenFiles relies on the Go runtime, which has raised the limit.
func raiseOpenFiles(int) error { return nil }
