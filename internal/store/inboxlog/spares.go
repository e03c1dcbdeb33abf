package inboxlog

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// spares are files that segments are made of: once used, or written with
// zeros, because syncing an overwrite is twice as fast as syncing growth.
type spares struct {
	mu    sync.Mutex // guards the rest
	names []string
	sizes []int64 // of the files, in bytes
	total int64   // sum of sizes
	next  uint64  // number of the next one
}

// take returns the path of a spare and its size in bytes, or "".
func (sp *spares) take() (path string, size int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	n := len(sp.names)
	if n == 0 {
		return "", 0
	}
	path, size = sp.names[n-1], sp.sizes[n-1]
	sp.total -= size
	sp.names, sp.sizes = sp.names[:n-1], sp.sizes[:n-1]
	return path, size
}

func (sp *spares) add(path string, size int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.names, sp.sizes = append(sp.names, path), append(sp.sizes, size)
	sp.total += size
}

// bytes returns the size of all spares.
func (sp *spares) bytes() int64 {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.total
}

func (sp *spares) count() int {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return len(sp.names)
}

func (sp *spares) newName() string {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.next++
	return spareName(sp.next - 1)
}

// preparer makes the next segment ready while the active one fills.
type preparer struct {
	ask    chan uint32 // epoch wanted; capacity 1
	ready  chan prepared
	urgent atomic.Bool // the committer waits
}

type prepared struct {
	seg *segment
	err error
}

// prepare is the preparer's goroutine. It ends when ask is closed.
func (l *Log) prepare() {
	defer l.wg.Done()
	for epoch := range l.prep.ask {
		seg, err := l.newSegment(epoch)
		if noSpace(err) {
			l.lookNow()
		}
		l.prep.ready <- prepared{seg, err}
	}
}

// newSegment makes segment epoch of a spare, or of a new file.
func (l *Log) newSegment(epoch uint32) (*segment, error) {
	from, _ := l.spares.take()
	if from == "" {
		var err error
		if from, err = l.newSpare(); err != nil {
			return nil, err
		}
	}
	return l.makeSegment(from, epoch, l.opts.SegmentSize)
}

const fillSync = 4 << 20 // bytes of zeros after which they are synced

// newSpare makes a file of SegmentSize zeros. It stops filling it when the
// committer waits: the segment then grows as it is used. Where the disk may be
// full soon it is filled all the same, so that acknowledgements can be written
// whatever others do.
func (l *Log) newSpare() (string, error) {
	l.lookNow()
	path := l.join(l.spares.newName())
	f, err := l.fs.Create(path, category)
	if err != nil {
		return "", fmt.Errorf("create %s: %w", path, err)
	}
	defer f.Close()
	zeros := make([]byte, min(1<<20, l.opts.SegmentSize))
	for off := int64(0); off < l.opts.SegmentSize; off += int64(len(zeros)) {
		if l.prep.urgent.Load() && !l.disk.near.Load() {
			break
		}
		if _, err = f.WriteAt(zeros[:min(int64(len(zeros)), l.opts.SegmentSize-off)], off); err != nil {
			break
		}
		// In pieces, so that a commit's sync does not have to wait for all.
		if off%fillSync == 0 && off > 0 {
			if err = f.SyncData(); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = f.SyncData()
	}
	if err != nil {
		// Nothing depends on the file yet, so this is no reason to give up.
		_ = l.fs.Remove(path)
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return path, nil
}
