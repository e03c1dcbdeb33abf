package inboxlog

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// disk is what the log knows of the file system it is on. It is asked at most
// once per usagePeriod: by every commit, by Metrics, by whoever would be
// refused because it was full, and by the keeper for as long as it is.
type disk struct {
	looked atomic.Int64 // nanoseconds since Log.started; 0: never
	avail  atomic.Int64 // bytes, -1: the file system cannot tell
	full   atomic.Bool  // puts are refused
	short  atomic.Bool  // spares are given back
	near   atomic.Bool  // it is not far from that
	given  atomic.Int64 // spares given back
}

const (
	fullPercent  = 95
	usagePeriod  = time.Second // between looks at the file system's use
	diskShare    = 64          // a segment is at most that part of the file system
	headSegments = 2           // kept free for acknowledgements and moves
	nearSegments = 8           // over that: near the end
)

// sizeSegments sets a SegmentSize that was not given: 64 MiB, or less on a
// small file system or under a small DiskLimit, but enough for MaxRecord.
func (o *Options) sizeSegments() {
	if o.SegmentSize <= 0 {
		o.SegmentSize = defaultSegmentSize
		if u, err := o.FS.GetDiskUsage(o.Dir); err == nil && u.TotalBytes > 0 {
			share := int64(1) << (bits.Len64(max(u.TotalBytes/diskShare, 1)) - 1)
			o.SegmentSize = min(o.SegmentSize, max(share, minDefaultSegment))
		}
		o.sized = true
		o.fit(o.MaxRecord)
	}
	if o.DiskLimit > 0 {
		o.SegmentSize, o.sized = min(o.SegmentSize, o.DiskLimit/8), false
	}
	o.SegmentSize = min(max(o.SegmentSize, minSegmentSize), maxSegmentSize) &^ (frameAlign - 1)
}

// fit makes a SegmentSize that was not given large enough for a record of size
// bytes and for what goes with it, which may be as large.
func (o *Options) fit(size int64) {
	for o.sized && o.SegmentSize < min(2*size, maxSegmentSize) {
		o.SegmentSize *= 2
	}
}

// headroom returns how many bytes of a file system with total bytes stay free
// when puts are refused: what others need, and two segments, because devices
// must be able to acknowledge, and old segments to be emptied. Without a
// DiskLimit it is 5 % at least.
func (o *Options) headroom(total uint64) uint64 {
	room := uint64(o.KeepFree + headSegments*o.SegmentSize)
	if o.DiskLimit <= 0 {
		room = max(room, total*(100-fullPercent)/100)
	}
	return min(room, total/2)
}

// since returns the nanoseconds from the opening of the log until t, never 0.
// Setting the clock of the machine does not change it.
func (l *Log) since(t time.Time) int64 { return max(int64(t.Sub(l.started)), 1) }

// lookAtDisk asks for the file system's use once per usagePeriod. When there is
// room again, what has failed for want of it is tried again at once.
func (l *Log) lookAtDisk(now time.Time) {
	at, last := l.since(now), l.disk.looked.Load()
	if last != 0 && at-last < int64(l.opts.look) || !l.disk.looked.CompareAndSwap(last, at) {
		return
	}
	u, err := l.fs.GetDiskUsage(l.dir)
	if err != nil || u.TotalBytes == 0 {
		// Not every file system can tell. Then a write that fails does.
		l.disk.avail.Store(-1)
		l.disk.short.Store(false)
		l.disk.near.Store(false)
		l.disk.full.Store(false)
		return
	}
	room := l.opts.headroom(u.TotalBytes)
	spare := uint64(l.spares.bytes())
	full := u.AvailBytes+spare < room
	l.disk.avail.Store(int64(u.AvailBytes))
	l.disk.short.Store(u.AvailBytes < room)
	l.disk.near.Store(u.AvailBytes < room+nearSegments*uint64(l.opts.SegmentSize))
	if l.disk.full.Swap(full) != full {
		l.log.Warn("disk limit: messages are refused while full", "full", full,
			"available_bytes", u.AvailBytes, "needed_bytes", room, "spare_bytes", spare)
		l.retryNow()
	} else if l.disk.short.Load() && l.spares.count() > keptSpares {
		l.tidySoon()
	}
}

// keptSpares is how many spares stay when the file system is short of room: so
// a segment that was freed is there for the acknowledgements to come, whoever
// else writes to the disk.
const keptSpares = 1

// giveBack removes spares while the file system is short of room.
func (l *Log) giveBack() {
	for l.disk.short.Load() && l.spares.count() > keptSpares {
		if !l.removeSpare() {
			return
		}
		l.lookNow()
	}
}

// lookNow looks at the file system's use, however short ago that was done.
func (l *Log) lookNow() {
	l.disk.looked.Store(0)
	l.lookAtDisk(time.Now())
}

// dropSpares removes all spares, since a write has found no room, and reports
// whether there was one.
func (l *Log) dropSpares() (dropped bool) {
	for l.removeSpare() {
		dropped = true
	}
	return dropped
}

// removeSpare removes one spare and reports whether it did.
func (l *Log) removeSpare() bool {
	path, size := l.spares.take()
	if path == "" {
		return false
	}
	if err := l.fs.Remove(path); err != nil {
		l.log.Warn("cannot give back a spare segment of the inbox log", "file", path, "error", err)
		l.spares.add(path, size)
		return false
	}
	l.disk.given.Add(1)
	return true
}

// FreeSpares removes the spare segments and unfinished files of the log in dir
// and returns how many bytes that has freed. The log must not be open. Nothing
// is lost: a segment is made of a new file then.
func FreeSpares(fs vfs.FS, dir string) (freed int64, err error) {
	names, err := fs.List(dir)
	if isNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if _, spare := parseName(name, sparePrefix, ""); !spare && !isTemp(name) {
			continue
		}
		path := fs.PathJoin(dir, name)
		fi, err := fs.Stat(path)
		if err != nil {
			return freed, fmt.Errorf("stat %s: %w", path, err)
		}
		if err := fs.Remove(path); err != nil {
			return freed, fmt.Errorf("remove %s: %w", path, err)
		}
		freed += fi.Size()
	}
	return freed, nil
}
