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

// Metrics is a snapshot of the gauges of the inbox log.
type Metrics = inboxlog.Metrics

// CorruptError says which file of the inbox log is damaged, and where.
type CorruptError = inboxlog.CorruptError

// Options configure a Store. The zero value of each field but Dir is its
// default.
type Options struct {
	Dir          string
	FS           vfs.FS        // default: the operating system's
	Sync         SyncMode      // default SyncAlways
	SyncInterval time.Duration // default 100 ms
	SegmentSize  int64         // bytes, default 64 MiB; see inboxlog.Options
	Retention    time.Duration // default: none
	DiskLimit    int64         // bytes; 0: refuse puts when the file system is 95 % full
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
	meta *meta
	lock io.Closer
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
// another process has it open, or with a *CorruptError if the inbox log is
// damaged.
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
	if err := checkFree(o.FS, o.Dir); err != nil {
		return nil, err
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
	if err = inboxlog.MakeDir(o.FS, o.FS.PathJoin(o.Dir, metaName)); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.meta, err = openMeta(o.FS, o.FS.PathJoin(o.Dir, metaName), o.Sync, o.SyncInterval, o.Logger); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if o.Clock != nil {
		keepClock(o)
	}
	s.inboxes, err = inboxlog.Open(inboxlog.Options{
		Dir: o.FS.PathJoin(o.Dir, inboxName), FS: o.FS, Sync: o.Sync, SyncInterval: o.SyncInterval,
		SegmentSize: o.SegmentSize, Retention: o.Retention, DiskLimit: o.DiskLimit, Logger: o.Logger,
		Clock: o.Clock, Done: o.Done, Observer: o.Observer,
	})
	if err != nil {
		_ = s.meta.close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
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

// minFree is how many bytes must be free to open a store: Pebble replays its
// log into new files, and tries for ever when there is no room.
const minFree = 16 << 20

// checkFree refuses to open a store on a full file system.
func checkFree(fs vfs.FS, dir string) error {
	u, err := fs.GetDiskUsage(dir)
	if err == nil && u.TotalBytes > 0 && u.AvailBytes < minFree {
		return &mq.Error{Code: mq.StoreFull, Text: fmt.Sprintf(
			"open store: only %d KiB are free where %s is; free at least %d MiB and start again", u.AvailBytes>>10, dir, minFree>>20)}
	}
	return nil
}

// Close writes and syncs what is queued, waits for the last Done, and closes
// the store.
func (s *Store) Close() error {
	return errors.Join(s.inboxes.Close(), s.meta.close(), s.lock.Close())
}
