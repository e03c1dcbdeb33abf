package store

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store/inboxlog"
)

// room keeps a file without contents, the ballast, that is given up when the
// disk is full: then the metadata still has room for what lets devices drain
// their inboxes, the comings and goings of sessions that exist. It is made
// again when there is room.
type room struct {
	fs   vfs.FS
	dir  string // of the store
	path string // of the ballast
	log  *slog.Logger

	mu   sync.Mutex // held while the ballast is made or removed
	quit chan struct{}
	wg   sync.WaitGroup
}

const (
	ballastName    = "ballast"
	ballastPart    = 32        // of the file system
	ballastMost    = 64 << 20  // bytes
	ballastSmallFS = 256 << 20 // on a smaller one there is none
	ballastPeriod  = 2 * time.Second
)

func newRoom(fs vfs.FS, dir string, log *slog.Logger) *room {
	return &room{fs: fs, dir: dir, path: fs.PathJoin(dir, ballastName), log: log, quit: make(chan struct{})}
}

// ballastSize is how large the ballast is on a file system of total bytes.
func ballastSize(total uint64) int64 {
	if total < ballastSmallFS {
		return 0
	}
	return int64(min(total/ballastPart, ballastMost)) &^ (1<<20 - 1)
}

// start begins to keep the ballast.
func (r *room) start() {
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		t := time.NewTicker(ballastPeriod)
		defer t.Stop()
		for {
			r.fill()
			select {
			case <-r.quit:
				return
			case <-t.C:
			}
		}
	}()
}

func (r *room) stop() {
	close(r.quit)
	r.wg.Wait()
}

// fill makes the ballast if there is none, and room for several.
func (r *room) fill() {
	u, err := r.fs.GetDiskUsage(r.dir)
	if err != nil {
		return // not every file system can tell
	}
	size := ballastSize(u.TotalBytes)
	if size == 0 || u.AvailBytes < u.TotalBytes/10+2*uint64(size) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if fi, err := r.fs.Stat(r.path); err == nil && fi.Size() == size {
		return
	}
	if err := r.write(size); err != nil {
		_ = r.fs.Remove(r.path)
		r.log.Debug("no ballast could be made", "error", err)
	}
}

// write makes the ballast of zeros: a file that only has a length takes no room.
func (r *room) write(size int64) error {
	f, err := r.fs.Create(r.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for n := int64(0); n < size; n += int64(len(zeros)) {
		select {
		case <-r.quit:
			return fmt.Errorf("the store closes")
		default:
		}
		if _, err := f.Write(zeros); err != nil {
			return err
		}
	}
	return f.SyncData()
}

// free sees to it that need bytes are free, or fails with StoreFull. spares: the
// inbox log is not open, so files that it only keeps to use again may go.
func (r *room) free(need int64, spares bool) error {
	err := checkFree(r.fs, r.dir, need)
	if err == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fs.Remove(r.path) == nil {
		r.log.Warn("the disk is full: ballast given up so that sessions can go on", "file", r.path)
		err = checkFree(r.fs, r.dir, need)
	}
	if err == nil || !spares {
		return err
	}
	freed, freeErr := inboxlog.FreeSpares(r.fs, r.fs.PathJoin(r.dir, inboxName))
	if freeErr != nil {
		return fmt.Errorf("give back spare segments: %w", freeErr)
	}
	if freed > 0 {
		r.log.Warn("the disk is full: spare segments given back", "dir", r.dir, "bytes", freed)
	}
	return checkFree(r.fs, r.dir, need)
}

// checkFree fails if fewer than need bytes are free where dir is: Pebble replays
// its logs into new files, and tries for ever when there is no room.
func checkFree(fs vfs.FS, dir string, need int64) error {
	u, err := fs.GetDiskUsage(dir)
	if err == nil && u.TotalBytes > 0 && u.AvailBytes < uint64(need) {
		return &mq.Error{Code: mq.StoreFull, Text: fmt.Sprintf(
			"only %d KiB are free where %s is; free at least %d KiB", u.AvailBytes>>10, dir, need>>10)}
	}
	return nil
}
