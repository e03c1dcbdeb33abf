package inboxlog

import (
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// queue holds what is submitted until the committer takes it.
type queue struct {
	mu     sync.Mutex // guards the rest
	space  sync.Cond  // Throttle waits for waiting to fall
	ops    []mq.Op
	groups []span // parts of ops that are atomic units, ascending
	bytes  int    // of ops
	taken  int    // bytes taken and not done
	owned  int    // how many of ops have an owner
	closed bool
	moves  *moves // from the keeper

	wake chan struct{} // capacity 1
	lazy *time.Timer   // wakes for lazy ops
}

type span struct{ from, to int }

func (q *queue) init() {
	q.space.L = &q.mu
	q.wake = make(chan struct{}, 1)
	q.lazy = time.AfterFunc(time.Hour, q.signal)
	q.lazy.Stop()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// submit queues ops; as one unit if there are several.
func (q *queue) submit(ops ...mq.Op) {
	if len(ops) == 0 {
		return
	}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	first, before := len(q.ops) == 0, q.owned
	for i := range ops {
		q.bytes += opOverhead + len(ops[i].Record)
		if ops[i].Owner != nil {
			q.owned++
		}
	}
	if len(ops) > 1 {
		q.groups = append(q.groups, span{len(q.ops), len(q.ops) + len(ops)})
	}
	q.ops = append(q.ops, ops...)
	wake := before == 0 && q.owned > 0 || q.owned == 0 && q.bytes > maxCommit
	if first && q.owned == 0 {
		q.lazy.Reset(lazyDelay)
	}
	q.mu.Unlock()
	if wake {
		q.signal()
	}
}

// take swaps the queued ops for the empty slices given. ok is false when the
// queue is closed and empty.
func (q *queue) take(ops []mq.Op, groups []span) (_ []mq.Op, _ []span, mv *moves, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops, q.ops = q.ops, ops
	groups, q.groups = q.groups, groups
	mv, q.moves = q.moves, nil
	q.taken += q.bytes
	q.bytes = 0
	q.owned = 0
	return ops, groups, mv, len(ops) > 0 || mv != nil || !q.closed
}

// done says that everything taken is done, or is to be tried again.
func (q *queue) done(again bool) {
	q.mu.Lock()
	q.taken = 0
	if q.closed {
		q.signal() // take has to say so
	} else if again {
		q.lazy.Reset(retryDelay)
	}
	q.mu.Unlock()
	q.space.Broadcast()
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes + q.taken
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.lazy.Stop()
	q.mu.Unlock()
	q.space.Broadcast()
	q.signal()
}

// release lets whoever is in Throttle look again.
func (q *queue) release() {
	q.mu.Lock() // so that nobody is between looking and waiting
	defer q.mu.Unlock()
	q.space.Broadcast()
}

// Submit queues op; see mq.Store.
func (l *Log) Submit(op mq.Op) { l.queue.submit(op) }

// SubmitGroup queues ops as one atomic unit; see mq.Store. Puts that are next
// to each other (or have only puts between them) and have the same Record, not
// an equal one, share one copy of it on disk.
func (l *Log) SubmitGroup(ops []mq.Op) { l.queue.submit(ops...) }

// Throttle blocks while more than 32 MiB wait to be written.
func (l *Log) Throttle() {
	q := &l.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes+q.taken > throttleAt && !q.closed && l.failed.Load() == nil {
		q.space.Wait()
	}
}

// Admit says whether a put of size bytes would be accepted now.
func (l *Log) Admit(size int) error {
	if err := l.failed.Load(); err != nil {
		return err
	}
	if int64(size) > l.maxRecord() {
		return l.tooLarge(size)
	}
	if l.full(int64(size) + frameHeaderSize + 2*frameAlign + simpleSize + putSize + targetSize + usualClient) {
		return errFull
	}
	return nil
}

const usualClient = 256 // bytes that Admit takes client IDs to need

var errFull = &mq.Error{Code: mq.StoreFull, Text: "store full"}

// maxRecord is the size in bytes of the largest record that fits, client IDs
// aside.
func (l *Log) maxRecord() int64 { return l.maxFrame() - frameHeaderSize - putSize - targetSize }

// maxFrame is the size in bytes of the largest frame that fits.
func (l *Log) maxFrame() int64 { return l.opts.SegmentSize - segmentHeaderSize - sealSize }

func (l *Log) tooLarge(size int) *mq.Error {
	return mq.Errorf(mq.TooLarge, "record of %d bytes is larger than a segment of the store holds (%d)", size, l.maxRecord())
}

// maxSegments is how many segments puts may fill; 0: any number.
func (l *Log) maxSegments() int64 {
	if l.opts.DiskLimit <= 0 {
		return 0
	}
	return max(1, l.opts.DiskLimit/l.opts.SegmentSize-reserve)
}

// full reports whether a put that takes need bytes of a segment is over the
// disk limit. Before it says so because of the file system it looks again: those
// refused here never get to the committer, which looks otherwise.
func (l *Log) full(need int64) bool {
	if l.disk.full.Load() {
		l.lookAtDisk(time.Now())
	}
	return l.overLimit(need, l.room.Load())
}

// overLimit is full for a log whose active segment has room bytes left.
func (l *Log) overLimit(need, room int64) bool {
	if l.disk.full.Load() {
		return true
	}
	limit := l.maxSegments()
	if limit == 0 {
		return false
	}
	n := l.segments.Load()
	return n > limit || n == limit && need > room
}
