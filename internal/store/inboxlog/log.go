package inboxlog

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// Log is an open inbox log. It implements the inbox half of mq.Store. Make one
// with Open; all methods may be called concurrently until Close.
type Log struct {
	opts Options
	fs   vfs.FS
	dir  string
	log  *slog.Logger

	ix     *index
	queue  queue
	tail   tail
	spares spares
	prep   preparer
	state  state
	commit committer // used by the committer's goroutine only

	leftovers []string // files to remove once the log is open

	syncMu  sync.Mutex    // held while syncing
	durable atomic.Uint64 // position: everything before it is synced
	failed  atomic.Pointer[mq.Error]

	// What Admit looks at.
	room     atomic.Int64 // bytes left in the active segment
	segments atomic.Int64
	started  time.Time
	disk     disk

	completions chan completion
	doneFree    chan []mq.Op  // slices for completions to use again
	tidyC       chan struct{} // capacity 1: there may be something to tidy
	starved     atomic.Bool   // an acknowledgement has no room
	freeing     retry         // of segments
	moving      retry         // of what is live in them
	hinting     retry
	stop        chan struct{} // closed by Close
	wg          sync.WaitGroup
	completerWG sync.WaitGroup
	closeOnce   sync.Once
	closeErr    error
}

// tail is where the next frame goes.
type tail struct {
	mu       sync.Mutex // guards the rest; only the committer writes it
	active   *segment
	end      int64      // offset in active
	unsynced []*segment // sealed ones with bytes that may not be on disk
}

// Open opens the log in opts.Dir and makes it if there is none. It fails with
// a *CorruptError if what was safely on disk is not there any more. The caller
// sees to it that no other process has it open.
func Open(opts Options) (*Log, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if err := MakeDir(opts.FS, opts.Dir); err != nil {
		return nil, fmt.Errorf("open inbox log: %w", err)
	}
	opts.setDefaults()
	l := &Log{
		opts: opts, fs: opts.FS, dir: opts.Dir, log: opts.Logger, started: time.Now(),
		ix:          newIndex(),
		completions: make(chan completion, completionsQ),
		doneFree:    make(chan []mq.Op, completionsQ),
		tidyC:       make(chan struct{}, 1),
		stop:        make(chan struct{}),
	}
	l.ix.holders.inboxes.Limit, l.ix.holders.names.Limit = opts.Inboxes, opts.InboxNames
	l.queue.init()
	l.prep.ask = make(chan uint32, 1)
	l.prep.ready = make(chan prepared, 1)
	l.lookAtDisk(l.started)
	if err := l.recover(); err != nil {
		l.closeFiles()
		return nil, fmt.Errorf("open inbox log: %w", err)
	}
	l.log.Info("inbox log opened", "dir", l.dir, "segments", len(l.ix.segs), "inboxes", l.ix.table.count,
		"entries", l.ix.entryN, "took", time.Since(l.started).Round(time.Millisecond))
	l.commit.init(l)
	l.wg.Add(3)
	go l.commit.run()
	go l.prepare()
	go l.keep()
	if opts.Sync == SyncInterval {
		l.wg.Add(1)
		go l.syncEvery(opts.SyncInterval)
	}
	l.completerWG.Add(1)
	go l.complete()
	l.tidySoon() // a crash may have left work
	return l, nil
}

func (l *Log) join(name string) string { return l.fs.PathJoin(l.dir, name) }

// Close writes what is queued, syncs it, waits for the last Done and closes
// all files. Ops submitted later are dropped.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.queue.close()
		close(l.stop)
		l.wg.Wait()
		l.completerWG.Wait()
		if err := l.mark(); err != nil {
			l.closeErr = err
		}
		l.closeFiles()
	})
	return l.closeErr
}

// mark ends the log with a frame saying that everything before it is synced,
// and has the state file say where that is, so that after an orderly end
// whatever is gone is told from a torn tail.
func (l *Log) mark() error {
	if err := l.syncAll(); err != nil {
		return err
	}
	c := &l.commit
	c.enc.reset(l.tail.active, l.tail.end, c.head())
	c.enc.bare(frameMark)
	if n := int64(len(c.enc.buf)); l.tail.end+n <= l.tail.active.size-sealSize {
		if _, err := l.tail.active.file.WriteAt(c.enc.buf, l.tail.end); err != nil {
			return writeError(l.tail.active.path, err)
		}
		if err := l.tail.active.file.SyncData(); err != nil {
			return l.fail(l.tail.active.path, err)
		}
		l.tail.end += n
	}
	if l.tail.active.version < fullLength {
		return nil // see state.begin
	}
	if _, err := l.state.write(l, facts{oldest: l.ix.segs[0].epoch, synced: at(l.tail.active.epoch, l.tail.end)}); err != nil {
		l.log.Warn("the state file does not say where the inbox log ends: damage to its last commit may go unnoticed", "error", err)
	}
	return nil
}

func (l *Log) closeFiles() {
	for _, s := range l.ix.segs {
		if s.file != nil {
			s.file.Close()
			s.file = nil
		}
	}
	l.state.close()
	if s := l.commit.next; s != nil {
		s.file.Close()
	}
	select {
	case p := <-l.prep.ready:
		if p.seg != nil {
			p.seg.file.Close()
		}
	default:
	}
}

// fail makes the log refuse everything from now on, because syncing path
// failed with err: a second fsync would report success for lost pages.
func (l *Log) fail(path string, err error) *mq.Error {
	e := finalError(path, err)
	if l.failed.CompareAndSwap(nil, e) {
		l.log.Error("inbox log failed", "error", e)
	}
	l.queue.release()
	return l.failed.Load()
}

// err returns the final error, if any, as an error.
func (l *Log) err() error {
	if e := l.failed.Load(); e != nil {
		return e
	}
	return nil
}

// Metrics returns the present gauges.
func (l *Log) Metrics() Metrics {
	l.lookAtDisk(time.Now())
	m := Metrics{
		Spares: l.spares.count(), Queued: l.queue.waiting(), Full: l.full(0), Failed: l.err(),
		DiskFull: l.disk.full.Load(), DiskFree: l.disk.avail.Load(), SparesGiven: l.disk.given.Load(),
	}
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	m.Inboxes, m.Entries, m.LiveBytes = l.ix.table.count, l.ix.entryN, l.ix.live
	m.Holding, m.NameBytes = l.ix.holders.inboxes.Used(), l.ix.holders.names.Used()
	m.Segments = len(l.ix.segs)
	m.DiskBytes = l.ix.size + l.spares.bytes()
	return m
}
