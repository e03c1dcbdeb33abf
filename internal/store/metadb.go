package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// meta is the Pebble half of a Store. When the database fails (out of
// descriptors or space, a disk that was away for a moment), it stops changing
// anything on disk, every call fails, and meta opens the database again, as
// often as it takes. docs/adr/007 says why that is safe.
type meta struct {
	o     metaOptions
	marks *marks

	current atomic.Pointer[incarnation] // never nil once open
	broken  chan struct{}               // capacity 1: current has failed
	quit    chan struct{}
	wg      sync.WaitGroup

	started  atomic.Bool
	failures atomic.Uint64
	damaged  atomic.Uint64
}

// metaOptions is what openMeta needs to know.
type metaOptions struct {
	fs        vfs.FS
	dir       string // of the database
	mode      SyncMode
	interval  time.Duration
	openFiles int
	log       *slog.Logger
	// makeRoom is called before the database is opened with how many bytes that
	// may need. It fails if there are not so many free.
	makeRoom func(need int64) error
}

// incarnation is the database from one opening to the next.
type incarnation struct {
	db     *pebble.DB // nil: it did not open
	fs     *metaFS
	failed atomic.Pointer[mq.Error]
	report func() // is called at the first failure

	users atomic.Int64
	idle  chan struct{} // capacity 1: users fell to 0 after a failure
	tried chan struct{} // closed once it was tried to replace it after it failed
	stall stallTimer
	lost  int // flushes that failed in a row; Pebble calls back one at a time
}

const (
	metaCache     = 8 << 20
	metaMemTable  = 2 << 20
	metaMemTables = 4 // and then writes wait

	defaultOpenFiles = 256
	otherFiles       = 10 // descriptors of a database besides those of its tables, at most
	pebbleFiles      = 64 // tables that Pebble keeps open at least, unless it is given a cache

	reopenFirst = 100 * time.Millisecond // pause before the second try to open the database again
	reopenMost  = 5 * time.Second

	lostFlushes = 10               // and then the database is opened again
	stallTime   = 20 * time.Second // that a write may wait for a flush or compaction
)

// openMeta opens the database in o.dir. Writes are done when they are as durable
// as o.mode says: always with Pebble's Sync, on a file system that makes of the
// sync of its log what the mode wants. (Pebble's NoSync would leave them in
// this process, and kill -9 would lose them.)
func openMeta(o metaOptions, marks *marks, cuts map[string]int64) (*meta, error) {
	m := &meta{o: o, marks: marks, broken: make(chan struct{}, 1), quit: make(chan struct{})}
	in, err := m.open(cuts)
	if err != nil {
		return nil, err
	}
	m.current.Store(in)
	return m, nil
}

// start begins to open the database again when it fails. Before, a failure is
// that of opening the store.
func (m *meta) start() {
	m.started.Store(true)
	m.wg.Add(1)
	go m.run()
}

// open opens the database. Of the files in cuts it reads as many bytes only.
func (m *meta) open(cuts map[string]int64) (*incarnation, error) {
	in := &incarnation{idle: make(chan struct{}, 1), tried: make(chan struct{})}
	in.report = func() {
		select {
		case m.broken <- struct{}{}:
		default:
		}
	}
	in.fs = newMetaFS(cutFS{m.o.fs, cuts}, m.o.mode, m.marks, in.fail)
	in.fs.start(m.o.interval)
	o := pebbleOptions(in.fs, &metaLogger{log: m.o.log, fatal: in.fatal}, m.o.openFiles)
	o.EventListener.DataCorruption = m.damage
	o.EventListener.FlushEnd = in.flushed
	o.EventListener.WriteStallBegin = func(i pebble.WriteStallBeginInfo) {
		in.stall.begin(func() { in.fail(fmt.Errorf("writes wait for %v: %s", stallTime, i.Reason)) })
	}
	o.EventListener.WriteStallEnd = in.stall.end
	if o.FileCache != nil {
		defer o.FileCache.Unref()
	}
	db, err := pebble.Open(m.o.dir, o)
	if err != nil {
		in.fs.freeze()
		in.fs.stop()
		return nil, fmt.Errorf("open metadata in %s: %w", m.o.dir, err)
	}
	in.db = db
	if e := in.failed.Load(); e != nil {
		return nil, errors.Join(e, in.close())
	}
	return in, nil
}

// damage is told of a block of a table that does not match its checksum. Who
// reads it gets an error; the rest goes on.
func (m *meta) damage(i pebble.DataCorruptionInfo) {
	m.damaged.Add(1)
	if m.started.Load() {
		m.o.log.Error("metadata is damaged; stop homing and run `homing store repair`: it saves what can be read", "file", i.Path, "error", i.Details)
	}
}

func pebbleOptions(fs vfs.FS, log *metaLogger, openFiles int) *pebble.Options {
	if openFiles <= 0 {
		openFiles = defaultOpenFiles
	}
	var files *pebble.FileCache
	if tables := openFiles - otherFiles; tables < pebbleFiles {
		files = pebble.NewFileCache(1, max(tables, 1))
	}
	return &pebble.Options{
		FileCache:                   files,
		FS:                          fs,
		CacheSize:                   metaCache,
		MemTableSize:                metaMemTable,
		MemTableStopWritesThreshold: metaMemTables,
		MaxOpenFiles:                openFiles,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      log,
		EventListener:               &pebble.EventListener{BackgroundError: log.background},
	}
}

// fail freezes the incarnation, and lets every call fail from now on.
func (in *incarnation) fail(err error) {
	in.fs.freeze()
	if in.failed.CompareAndSwap(nil, failure(err)) {
		in.report()
	}
}

// fatal is called by Pebble when it can go on no more; it expects not to
// return. Here it returns.
func (in *incarnation) fatal(text string) { in.fail(errors.New(text)) }

// flushed is told of each flush. Pebble tries one that failed again at once, for
// ever, and lets writes wait meanwhile; here they get an answer.
func (in *incarnation) flushed(i pebble.FlushInfo) {
	if i.Err == nil {
		in.lost = 0
		return
	}
	if in.lost++; in.lost >= lostFlushes {
		in.fail(fmt.Errorf("write a table: %w", i.Err))
	}
}

func (in *incarnation) close() error {
	in.stall.end()
	err := in.db.Close()
	in.fs.stop()
	return err
}

// failure is what callers are told while the database is away because of err.
func failure(err error) *mq.Error {
	code, text, help := mq.StoreFailed, "store failed", "check the disk (dmesg, smartctl)"
	switch {
	case errors.Is(err, syscall.ENOSPC):
		code, text, help = mq.StoreFull, "store full", "free space on that file system"
	case errors.Is(err, syscall.EDQUOT):
		code, text, help = mq.StoreFull, "store full", "free space, or raise the disk quota"
	case errors.Is(err, syscall.EMFILE):
		help = "raise the limit of open files (ulimit -n, LimitNOFILE), or lower limits.connections"
	case errors.Is(err, syscall.ENFILE):
		help = "raise fs.file-max, or end what has so many files open"
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		help = "make the directory writable"
	}
	var full *mq.Error
	if errors.As(err, &full) {
		code, text = full.Code, full.Text
	}
	return &mq.Error{Code: code, Text: text, Err: fmt.Errorf(
		"metadata: %w; sessions and subscriptions cannot be read or changed: %s; homing tries again by itself", err, help)}
}

// use returns the database, which stays open until done is called. With an error
// it is away, and done is not to be called.
func (m *meta) use() (*incarnation, error) {
	in := m.current.Load()
	in.users.Add(1)
	if e := in.failed.Load(); e != nil {
		in.done()
		return in, e
	}
	return in, nil
}

func (in *incarnation) done() {
	if in.users.Add(-1) == 0 && in.failed.Load() != nil {
		select {
		case in.idle <- struct{}{}:
		default:
		}
	}
}

// drain waits until nobody uses the incarnation, which has failed: so nobody
// begins to, either.
func (in *incarnation) drain() {
	for in.users.Load() > 0 {
		<-in.idle
	}
}

// err returns why the metadata cannot be used now, or nil.
func (m *meta) err() error {
	if e := m.current.Load().failed.Load(); e != nil {
		return e
	}
	return nil
}

// run opens the database again whenever it has failed.
func (m *meta) run() {
	defer m.wg.Done()
	for {
		select {
		case <-m.quit:
			return
		default:
		}
		if err := m.err(); err != nil {
			m.failures.Add(1)
			m.o.log.Error("metadata store failed", "error", err)
			m.reopen()
			continue
		}
		select {
		case <-m.quit:
			return
		case <-m.broken:
		}
	}
}

// close ends the metadata. It fails if the database is away, since its last
// changes may have been refused.
func (m *meta) close() error {
	close(m.quit)
	m.wg.Wait()
	in := m.current.Load()
	var err error
	if in.db != nil {
		in.drain()
		err = in.close()
	}
	if e := in.failed.Load(); e != nil {
		return e
	}
	return err
}

// commit applies what fill puts into a batch. If the database fails meanwhile it
// waits until it was tried to open it again, and then does it once more, which
// the changes here allow. So who comes when the disk has just become full does
// not notice if there is ballast. A change whose commit fails may yet be done.
func (m *meta) commit(fill func(in *incarnation, b *pebble.Batch) error) error {
	in, err := m.use()
	if err == nil {
		if err = in.commit(fill); err == nil || in.failed.Load() == nil {
			return err
		}
	}
	select {
	case <-in.tried:
	case <-m.quit:
		return err
	}
	if in, err = m.use(); err != nil {
		return err
	}
	return in.commit(fill)
}

// commit is meta's on this incarnation, whose use it ends.
func (in *incarnation) commit(fill func(in *incarnation, b *pebble.Batch) error) error {
	defer in.done()
	b := in.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := fill(in, b); err != nil {
		return in.error(err)
	}
	err := b.Commit(pebble.Sync)
	if e := in.failed.Load(); e != nil {
		return e // fatal returned, so Commit may not know
	}
	return in.error(err)
}

// error makes an *mq.Error of an error of the database: that of its failure, if
// it has failed.
func (in *incarnation) error(err error) error {
	if err == nil { // before anything is allocated
		return nil
	}
	var known *mq.Error
	switch e := in.failed.Load(); {
	case e != nil:
		return e
	case errors.As(err, &known):
		return known
	}
	return metaError(err)
}

func metaError(err error) error {
	return &mq.Error{Code: mq.StoreFailed, Text: "store failed", Err: fmt.Errorf("metadata: %w", err)}
}

// has reports whether there is a key.
func (m *meta) has(key []byte) (bool, error) {
	return m.get(key, func([]byte) error { return nil })
}

// get calls f with the value of a key, and reports whether there is one. The
// value is valid during the call only.
func (m *meta) get(key []byte, f func(v []byte) error) (found bool, err error) {
	in, err := m.use()
	if err != nil {
		return false, err
	}
	defer in.done()
	v, closer, err := in.db.Get(key)
	if e := in.failed.Load(); e != nil {
		if err == nil {
			_ = closer.Close()
		}
		return false, e
	}
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, in.error(err)
	}
	defer func() { _ = closer.Close() }()
	return true, f(v)
}

// scan calls f for every key with the given prefix until it fails. The slices
// are valid during the call only. A scan that the failure of the database cuts
// short fails.
func (m *meta) scan(prefix []byte, f func(k, v []byte) error) error {
	in, err := m.use()
	if err != nil {
		return err
	}
	defer in.done()
	if err := in.scan(prefix, f); err != nil {
		return err
	}
	if e := in.failed.Load(); e != nil {
		return e
	}
	return nil
}

func (in *incarnation) scan(prefix []byte, f func(k, v []byte) error) error {
	it, err := in.db.NewIterWithContext(context.Background(), &pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return in.error(err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return in.error(err)
		}
		if err := f(it.Key(), v); err != nil {
			return err
		}
	}
	return in.error(it.Error())
}

// stallTimer watches a write that waits. Pebble calls begin and end in turn.
type stallTimer struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (s *stallTimer) begin(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(stallTime, f)
}

func (s *stallTimer) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}
