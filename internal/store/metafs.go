package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// metaFS is the file system one incarnation of the metadata's database runs on.
// It does three things.
//
// Under SyncOS and SyncInterval a sync of Pebble's log (*.log) waits for
// write(2) only; it is done for real when the file is closed, and under
// SyncInterval periodically. Everything else is always synced.
//
// Pebble ends the process when it cannot write its log, its manifest or the
// directory. A server must not end because of its metadata: metaFS tells the
// store instead, which fails all calls until it has opened the database anew,
// and Pebble that all is well. From then on this incarnation changes nothing on
// disk any more, tables included, so the next one finds what was there before
// the failure, and nothing in this one waits for ever. Until then a table that
// cannot be written is Pebble's own business: it tries again.
//
// It keeps the marks.
type metaFS struct {
	vfs.FS
	mode   SyncMode
	marks  *marks
	failed func(error) // must call freeze
	frozen atomic.Bool

	mu   sync.Mutex // guards open; held while one of them is synced
	open map[*metaFile]struct{}

	quit chan struct{}
	wg   sync.WaitGroup
}

// newMetaFS wraps fs. failed is told of what Pebble is not.
func newMetaFS(fs vfs.FS, mode SyncMode, marks *marks, failed func(error)) *metaFS {
	return &metaFS{FS: fs, mode: mode, marks: marks, failed: failed, open: map[*metaFile]struct{}{}, quit: make(chan struct{})}
}

// start begins the periodic syncs of SyncInterval.
func (m *metaFS) start(interval time.Duration) {
	if m.mode != SyncInterval {
		return
	}
	if interval <= 0 {
		interval = 100 * time.Millisecond
	}
	m.wg.Add(1)
	go m.syncEvery(interval)
}

func (m *metaFS) freeze() { m.frozen.Store(true) }

// stop ends the goroutine of metaFS.
func (m *metaFS) stop() {
	close(m.quit)
	m.wg.Wait()
}

func (m *metaFS) syncEvery(interval time.Duration) {
	defer m.wg.Done()
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-m.quit:
			return
		case <-t.C:
			m.syncOpen()
		}
	}
}

func (m *metaFS) syncOpen() {
	m.mu.Lock()
	defer m.mu.Unlock() // a file must not be closed while it is synced
	for f := range m.open {
		f.settle()
	}
}

func isLog(name string) bool { return strings.HasSuffix(name, logSuffix) }

// vital reports whether Pebble cannot go on without the file.
func vital(name string) bool {
	return !strings.HasSuffix(name, ".sst") && !strings.HasSuffix(name, ".blob")
}

// change does a change of the directory that Pebble must believe in.
func (m *metaFS) change(what, name string, do func() error) error {
	if m.frozen.Load() {
		return nil
	}
	if err := do(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.failed(fmt.Errorf("%s %s: %w", what, name, err))
	} else if err != nil {
		return err
	}
	return nil
}

// create opens a file for writing with do.
func (m *metaFS) create(name string, do func() (vfs.File, error)) (vfs.File, error) {
	if m.frozen.Load() {
		return nullFile{}, nil
	}
	base, vital := m.PathBase(name), vital(name)
	err := m.marks.forget(base) // of a file that had the name before
	var f vfs.File
	if err == nil {
		f, err = do()
	}
	if err != nil {
		if !vital {
			return nil, err
		}
		m.failed(fmt.Errorf("create %s: %w", name, err))
		return nullFile{}, nil
	}
	w := &metaFile{File: f, fs: m, name: name, vital: vital, lazy: m.mode != SyncAlways && isLog(name)}
	if marked(base) {
		w.base = base
	}
	if w.lazy {
		m.mu.Lock()
		m.open[w] = struct{}{}
		m.mu.Unlock()
	}
	return w, nil
}

// Unwrap implements vfs.FS.
func (m *metaFS) Unwrap() vfs.FS { return m.FS }

// List implements vfs.FS. An error would make Pebble's opening fail at a point
// where it leaves a goroutine behind.
func (m *metaFS) List(dir string) ([]string, error) {
	names, err := m.FS.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.failed(fmt.Errorf("list %s: %w", dir, err))
		return nil, nil
	}
	return names, err
}

// Create implements vfs.FS.
func (m *metaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return m.create(name, func() (vfs.File, error) { return m.FS.Create(name, c) })
}

// ReuseForWrite implements vfs.FS.
func (m *metaFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return m.create(to, func() (vfs.File, error) {
		if err := m.marks.forget(m.PathBase(from)); err != nil {
			return nil, err
		}
		return m.FS.ReuseForWrite(from, to, c)
	})
}

// OpenReadWrite implements vfs.FS.
func (m *metaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return m.create(name, func() (vfs.File, error) { return m.FS.OpenReadWrite(name, c, opts...) })
}

// Link implements vfs.FS.
func (m *metaFS) Link(from, to string) error {
	return m.change("link", from, func() error { return m.FS.Link(from, to) })
}

// Remove implements vfs.FS. Pebble copes with a file that stays.
func (m *metaFS) Remove(name string) error {
	if m.frozen.Load() {
		return nil
	}
	if err := m.marks.forget(m.PathBase(name)); err != nil {
		return err
	}
	return m.FS.Remove(name)
}

// RemoveAll implements vfs.FS. Pebble does not call it for what has marks.
func (m *metaFS) RemoveAll(name string) error {
	if m.frozen.Load() {
		return nil
	}
	return m.FS.RemoveAll(name)
}

// Rename implements vfs.FS.
func (m *metaFS) Rename(from, to string) error {
	return m.change("rename", from, func() error { return m.FS.Rename(from, to) })
}

// OpenDir implements vfs.FS.
func (m *metaFS) OpenDir(name string) (vfs.File, error) {
	f, err := m.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &metaFile{File: f, fs: m, name: name, vital: true, dir: true}, nil
}

// metaFile is a file or directory open for writing. Pebble writes each from its
// start to its end, one call at a time.
type metaFile struct {
	vfs.File
	fs    *metaFS
	name  string
	base  string      // of its mark; "": it has none
	dir   bool        // it is a directory
	vital bool        // errors go to the store, not to Pebble
	lazy  bool        // syncs are put off
	dirty atomic.Bool // one was

	written atomic.Int64 // bytes
}

// do does what with f, as vital says.
func (f *metaFile) do(what string, do func() error) error {
	if f.fs.frozen.Load() {
		return nil
	}
	err := do()
	if err != nil && f.vital {
		f.fs.failed(fmt.Errorf("%s %s: %w", what, f.name, err))
		return nil
	}
	return err
}

// Write implements vfs.File.
func (f *metaFile) Write(p []byte) (int, error) {
	err := f.do("write", func() error {
		_, err := f.File.Write(p)
		if err == nil {
			f.written.Add(int64(len(p)))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteAt implements vfs.File.
func (f *metaFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.do("write", func() error { _, err := f.File.WriteAt(p, off); return err })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Preallocate implements vfs.File.
func (f *metaFile) Preallocate(off, length int64) error {
	return f.do("preallocate", func() error { return f.File.Preallocate(off, length) })
}

// Sync implements vfs.File.
func (f *metaFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *metaFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *metaFile) SyncTo(length int64) (full bool, err error) {
	if f.lazy {
		return true, f.Sync()
	}
	err = f.do("sync", func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// sync does a sync of all of f with do, or puts it off.
func (f *metaFile) sync(do func() error) error {
	if f.lazy {
		if f.dirty.Store(true); !f.fs.frozen.Load() {
			f.note(f.written.Load(), 0)
		}
		return nil
	}
	return f.do("sync", func() error {
		n := f.written.Load()
		err := do()
		switch {
		case err != nil:
		case f.dir:
			f.fs.marks.named()
		default:
			f.note(n, n)
		}
		return err
	})
}

// note raises the mark of f.
func (f *metaFile) note(promised, synced int64) {
	if f.base != "" && promised > 0 {
		f.fs.marks.note(f.base, promised, synced)
	}
}

// settle does the sync that was put off.
func (f *metaFile) settle() {
	if !f.dirty.Swap(false) || f.fs.frozen.Load() {
		return
	}
	n := f.written.Load()
	if err := f.File.SyncData(); err != nil {
		f.fs.failed(fmt.Errorf("sync %s: %w", f.name, err))
		return
	}
	f.note(n, n)
}

// Close implements vfs.File.
func (f *metaFile) Close() error {
	if f.lazy {
		f.fs.mu.Lock()
		delete(f.fs.open, f)
		f.fs.mu.Unlock()
		f.settle()
	}
	return f.File.Close()
}

// nullFile swallows what Pebble writes after a failure.
type nullFile struct{}

var _ vfs.File = nullFile{}

func (nullFile) Close() error                           { return nil }
func (nullFile) Read([]byte) (int, error)               { return 0, errFrozen }
func (nullFile) ReadAt([]byte, int64) (int, error)      { return 0, errFrozen }
func (nullFile) Write(p []byte) (int, error)            { return len(p), nil }
func (nullFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nullFile) Preallocate(_, _ int64) error           { return nil }
func (nullFile) Sync() error                            { return nil }
func (nullFile) SyncTo(int64) (bool, error)             { return true, nil }
func (nullFile) SyncData() error                        { return nil }
func (nullFile) Prefetch(_, _ int64) error              { return nil }
func (nullFile) Fd() uintptr                            { return vfs.InvalidFd }
func (nullFile) Stat() (vfs.FileInfo, error)            { return nullInfo{}, nil }

var errFrozen = errors.New("the metadata has failed")

type nullInfo struct{}

func (nullInfo) Name() string           { return "" }
func (nullInfo) Size() int64            { return 0 }
func (nullInfo) Mode() fs.FileMode      { return 0 }
func (nullInfo) ModTime() time.Time     { return time.Time{} }
func (nullInfo) IsDir() bool            { return false }
func (nullInfo) Sys() any               { return nil }
func (nullInfo) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// metaLogger is Pebble's log.
type metaLogger struct {
	log   *slog.Logger
	fatal func(text string)
}

var _ pebble.Logger = (*metaLogger)(nil)

// Infof implements pebble.Logger.
func (l *metaLogger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "message", fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (l *metaLogger) Errorf(format string, args ...any) {
	l.log.Warn("pebble", "message", fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger.
func (l *metaLogger) Fatalf(format string, args ...any) { l.fatal(fmt.Sprintf(format, args...)) }

// background is told of errors of Pebble's flushes and compactions, which it
// tries again at once, for ever: this slows it down.
func (l *metaLogger) background(err error) {
	l.log.Warn("pebble: background work failed", "error", err)
	time.Sleep(100 * time.Millisecond)
}
