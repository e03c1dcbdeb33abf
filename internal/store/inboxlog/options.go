package inboxlog

import (
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/mq"
)

// SyncMode says when an op is done.
type SyncMode uint8

// The sync modes, `store.sync` in the configuration.
const (
	SyncAlways   SyncMode = iota // after fdatasync; many ops share one
	SyncInterval                 // after write(2); fdatasync every SyncInterval
	SyncOS                       // after write(2)
)

// Options configure a Log. The zero value of each field is its default.
type Options struct {
	Dir          string
	FS           vfs.FS // default: the operating system's
	Sync         SyncMode
	SyncInterval time.Duration // default 100 ms
	// SegmentSize in bytes, 16 KiB to 1 GiB. Default: 64 MiB, on a file system
	// of less than 4 GiB a 64th of it, but twice MaxRecord at least. With a
	// DiskLimit it is at most an eighth of that. Segments of another size that
	// are there already stay in use.
	SegmentSize int64
	// MaxRecord is the size in bytes of the largest record to come; 0: unknown.
	MaxRecord int64
	// KeepFree is how many bytes of the file system the log leaves to others
	// when it refuses puts, beside two segments for acknowledgements.
	KeepFree int64
	// Retention is how long an entry is kept at most; 0: for ever. Expired
	// reports older ones.
	Retention time.Duration
	// DiskLimit in bytes bounds the log's files; puts are refused before. 0:
	// puts are refused while the file system is at least 95 % full. In either
	// case they are while less than KeepFree and two segments are free. Spares
	// count as free.
	DiskLimit int64
	// Inboxes bounds how many inboxes of clients and shared subscriptions hold
	// messages, InboxNames the bytes of their names; see mq.Store.Occupy.
	Inboxes, InboxNames mq.Limit
	// MustExist says that the log was there before: without any segment Open
	// fails with a *CorruptError, where it would otherwise make a new log.
	MustExist bool
	Logger    *slog.Logger // default: discard
	// Clock is the server's time, in which frames, segments and puts are dated.
	// Open resumes it from the last time in the log. Default: one of its own.
	Clock *clock.Clock

	// Done is called once per commit with its ops that have an owner, and the
	// error of all of them; see mq.Store. ops is valid during the call only.
	// Commits wait once several calls are outstanding.
	Done func(ops []mq.Op, err error)

	Observer Observer

	sized bool          // SegmentSize was not given
	look  time.Duration // between looks at the file system's use; tests lower it
	slack int64         // segments the log may have however little is live; tests lower it
}

// Observer is told what the log does. Nil functions are not called. They must
// not block nor call the log.
type Observer struct {
	Commit func(CommitInfo) // by the committer, after each commit
	Read   func(took time.Duration, entries int, bytes int64)
}

// CommitInfo describes one commit.
type CommitInfo struct {
	Ops   int
	Bytes int           // written
	Total time.Duration // from the start of encoding until visible
	Sync  time.Duration // of it in fdatasync; 0: was not synced
	Err   error
}

// Metrics is a snapshot of a Log's gauges.
type Metrics struct {
	Inboxes   int   // that have a slot: entries, claims or a handle
	Holding   int64 // inboxes of clients and shared subscriptions that hold messages, as Options.Inboxes counts them
	NameBytes int64 // bytes of their names
	Entries   int64 // stored messages
	LiveBytes int64 // of the files, what is still needed
	Segments  int
	Spares    int   // segments ready to be used again
	DiskBytes int64 // of segments and spares, the one being prepared aside
	Queued    int   // bytes waiting to be written
	Full      bool  // puts are refused: at DiskLimit, or DiskFull
	Failed    error // why the log takes nothing any more, until it is opened again

	DiskFull    bool  // the file system has too little room
	DiskFree    int64 // bytes available when it was last looked at; -1: it cannot tell
	SparesGiven int64 // spares removed because the file system was short of room
}

const (
	defaultSegmentSize = 64 << 20
	minDefaultSegment  = 256 << 10
	minSegmentSize     = 16 << 10
	maxSegmentSize     = 1 << 30
	defaultInterval    = 100 * time.Millisecond

	lazyDelay    = 5 * time.Millisecond   // the longest a lazy op waits to be written
	maxGap       = 2 * time.Millisecond   // between syncs, while ops keep coming
	retryDelay   = 100 * time.Millisecond // before lazy ops of a failed commit are tried again
	maxCommit    = 4 << 20                // bytes; a single unit may be larger
	frameTarget  = 4 << 10                // bytes of ops after which a frame is closed
	throttleAt   = 32 << 20               // queued bytes
	maxSpares    = 3
	reserve      = 2  // segments that only acks, clears and moves may take
	opOverhead   = 64 // bytes an op without its record counts in the queue
	completionsQ = 4  // commits that may wait for Done
)

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.SyncInterval <= 0 {
		o.SyncInterval = defaultInterval
	}
	o.sizeSegments()
	if o.look == 0 {
		o.look = usagePeriod
	}
	if o.slack == 0 {
		o.slack = slack
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.New(clock.Options{Log: o.Logger})
	}
	if o.Done == nil {
		o.Done = func([]mq.Op, error) {}
	}
}
