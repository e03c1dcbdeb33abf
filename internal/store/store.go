package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store/inboxlog"
)

// SyncMode says when something is as durable as promised.
type SyncMode = inboxlog.SyncMode

// The sync modes.
const (
	SyncAlways   = inboxlog.SyncAlways   // after fdatasync
	SyncInterval = inboxlog.SyncInterval // after write(2); fdatasync every Options.SyncInterval
	SyncOS       = inboxlog.SyncOS       // after write(2)
)

// Observer is told of commits and reads; see inboxlog.Observer.
type Observer = inboxlog.Observer

// CommitInfo describes one commit to an Observer.
type CommitInfo = inboxlog.CommitInfo

// Metrics is a snapshot of a Store's gauges and counters: those of the inbox
// log, and those of the metadata.
type Metrics struct {
	inboxlog.Metrics
	MetaDown     bool   // the metadata's database is away; it is opened again
	MetaFailures uint64 // times that it failed
	MetaDropped  int    // records that the last start found behind the end of a log
	MetaDamaged  uint64 // times that a damaged block of it was met
}

// CorruptError says which file of the store is damaged, and where.
type CorruptError = inboxlog.CorruptError

// Options configure a Store. The zero value of each field but Dir is its
// default.
type Options struct {
	Dir          string
	FS           vfs.FS        // default: the operating system's
	Sync         SyncMode      // default SyncAlways
	SyncInterval time.Duration // default 100 ms
	SegmentSize  int64         // bytes, default 64 MiB or less; see inboxlog.Options
	MaxRecord    int64         // bytes of the largest record to come; 0: unknown
	Retention    time.Duration // default: none
	DiskLimit    int64         // bytes; 0: refuse puts when the file system is 95 % full; see inboxlog.Options
	Inboxes      mq.Limit      // inboxes of clients and shared subscriptions that hold messages
	InboxNames   mq.Limit      // bytes of their names
	OpenFiles    int           // descriptors that the metadata may take, default 256; it needs about 12
	Logger       *slog.Logger  // default: discard
	// Clock is the server's time. Open makes it go on from what the store knows,
	// and the store keeps its offset from then on: Clock.Check writes to Dir until
	// Close. Default: one of its own, whose offset is not kept.
	Clock *clock.Clock
	// Done is called once per commit with its ops that have an owner; see
	// mq.Store. ops is valid during the call only. It may call the store, but
	// not Throttle or Close, which wait for it.
	Done     func(ops []mq.Op, err error)
	Observer Observer
}

// inboxes is the half of a Store that is a log; the alias keeps the embedded
// field out of the API.
type inboxes = inboxlog.Log

// Store implements mq.Store. Make one with Open. All methods may be called
// concurrently, but not after Close.
type Store struct {
	*inboxes
	meta    *meta
	marks   *marks
	room    *room
	lock    io.Closer
	dropped int // see Metrics
}

var _ mq.Store = (*Store)(nil)

// Names in a store's directory.
const (
	lockName  = "LOCK"
	inboxName = "inbox"
	metaName  = "meta"
	badName   = "bad"
)

// Open opens the store in o.Dir and makes it if there is none. It fails if
// another process has it open, or with a *CorruptError if something that was on
// disk is not there any more.
func Open(o Options) (_ *Store, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := inboxlog.MakeDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{}
	if s.lock, err = lockDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	sessions, err := s.openMeta(&o)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.meta.close()
			_ = s.marks.close()
		}
	}()
	if o.Clock != nil {
		keepClock(o)
	}
	s.inboxes, err = inboxlog.Open(inboxlog.Options{
		Dir: o.FS.PathJoin(o.Dir, inboxName), FS: o.FS, Sync: o.Sync, SyncInterval: o.SyncInterval,
		SegmentSize: o.SegmentSize, MaxRecord: o.MaxRecord, KeepFree: keepFree(o.FS, o.Dir), Inboxes: o.Inboxes, InboxNames: o.InboxNames, Retention: o.Retention, DiskLimit: o.DiskLimit, Logger: o.Logger,
		Clock: o.Clock, Done: o.Done, Observer: o.Observer, MustExist: sessions > 0 || s.marks.flags&markInbox != 0,
	})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err = s.marks.set(s.marks.flags | markInbox); err != nil {
		_ = s.inboxes.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.room.start()
	return s, nil
}

// openMeta opens the metadata, before the inbox log is made: see evidence. It
// returns the number of sessions.
func (s *Store) openMeta(o *Options) (sessions int, err error) {
	dir := o.FS.PathJoin(o.Dir, metaName)
	e, err := examine(o.FS, o.Dir)
	if err != nil {
		return 0, err
	}
	for _, n := range e.notes {
		o.Logger.Warn("metadata", "note", n)
	}
	s.marks, s.dropped = e.marks, e.dropped
	if err := inboxlog.MakeDir(o.FS, dir); err != nil {
		return 0, err
	}
	s.room = newRoom(o.FS, o.Dir, o.Logger)
	need, err := roomToOpen(o.FS, dir)
	if err == nil {
		err = s.room.free(need, true)
	}
	if err != nil {
		return 0, err
	}
	if err := s.marks.open(o.FS); err != nil {
		return 0, err
	}
	s.meta, err = openMeta(metaOptions{
		fs: o.FS, dir: dir, mode: o.Sync, interval: o.SyncInterval, openFiles: o.OpenFiles, log: o.Logger,
		makeRoom: func(need int64) error { return s.room.free(need, false) },
	}, s.marks, e.cuts)
	if err != nil {
		return 0, errors.Join(openError(err), s.marks.close())
	}
	// The old logs are gone, so the flag may change.
	flags := s.marks.flags&^markLazy | markMeta
	if o.Sync != SyncAlways {
		flags |= markLazy
	}
	if err = s.marks.set(flags); err == nil {
		sessions, err = s.meta.validate()
	}
	if err != nil {
		return 0, errors.Join(err, s.meta.close(), s.marks.close())
	}
	s.meta.start()
	return sessions, nil
}

// lockDir keeps other processes out of a store's directory.
func lockDir(fs vfs.FS, dir string) (io.Closer, error) {
	name := fs.PathJoin(dir, lockName)
	lock, err := fs.Lock(name)
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		return nil, fmt.Errorf("cannot lock %s, the directory must be writable: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("%s is in use: another homing has %s locked; stop it first: %w", dir, name, err)
	}
	return lock, nil
}

// usualRecord is the size in bytes of a message that the store must take to be
// called ready: a smaller one may find room where all others do not.
const usualRecord = 1 << 10

// Ready returns why messages, sessions or subscriptions cannot be stored now,
// or nil. It is cheap.
func (s *Store) Ready() error {
	if err := s.meta.err(); err != nil {
		return err
	}
	err := s.Admit(usualRecord)
	var e *mq.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e) && e.Code == mq.StoreFull:
		return fmt.Errorf("inbox log: %w: the disk limit is reached (store.disk-limit, or 95 %% of the file system): "+
			"free space there, or let devices fetch their messages", err)
	}
	return fmt.Errorf("inbox log: %w", err)
}

// Metrics returns the present gauges.
func (s *Store) Metrics() Metrics {
	return Metrics{
		Metrics: s.inboxes.Metrics(), MetaDown: s.meta.err() != nil, MetaFailures: s.meta.failures.Load(), MetaDropped: s.dropped,
		MetaDamaged: s.meta.damaged.Load(),
	}
}

// Close writes and syncs what is queued, waits for the last Done, and closes
// the store.
func (s *Store) Close() error {
	s.room.stop()
	return errors.Join(s.inboxes.Close(), s.meta.close(), s.marks.close(), s.lock.Close())
}
