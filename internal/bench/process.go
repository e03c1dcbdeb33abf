package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Process is a server's process, to be looked at in /proc (Linux).
type Process struct{ PID int }

// Usage is what a process has used.
type Usage struct {
	CPU    time.Duration // user and system time of all threads, ended ones included
	System time.Duration // the system part of CPU
	Memory int64         // resident set in bytes
}

// clockTick is the unit of /proc/PID/stat: USER_HZ is 100 wherever Go runs.
const clockTick = 10 * time.Millisecond

// Usage reads the process's usage.
func (p *Process) Usage() (Usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return Usage{}, fmt.Errorf("look at process %d: %w", p.PID, err)
	}
	return parseStat(b)
}

// parseStat reads fields 14, 15 (utime, stime) and 24 (rss, in pages). Field 2 is
// the program's name in parentheses, which may have anything in it.
func parseStat(stat []byte) (Usage, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	var n [3]int64
	for i, at := range [3]int{14, 15, 24} {
		if at-3 >= len(fields) {
			return Usage{}, fmt.Errorf("process status ends after %d fields", len(fields))
		}
		var err error
		if n[i], err = strconv.ParseInt(string(fields[at-3]), 10, 64); err != nil {
			return Usage{}, fmt.Errorf("process status: %w", err)
		}
	}
	return Usage{CPU: time.Duration(n[0]+n[1]) * clockTick, System: time.Duration(n[1]) * clockTick, Memory: n[2] * int64(os.Getpagesize())}, nil
}
