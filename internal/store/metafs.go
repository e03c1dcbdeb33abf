package store

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// metaFS is the file system Pebble runs on. Under SyncOS and SyncInterval a
// sync of Pebble's log (*.log) waits for write(2) only; it is done for real
// when the file is closed, and under SyncInterval periodically. Tables and
// manifests are always synced. After freeze nothing can be changed any more.
type metaFS struct {
	vfs.FS
	mode   SyncMode
	failed func(error)
	frozen atomic.Bool

	mu   sync.Mutex // guards open
	open map[*walFile]struct{}

	quit chan struct{}
	wg   sync.WaitGroup
}

var errFrozen = errors.New("the store has failed and takes no more changes")

// newMetaFS wraps fs. failed is told of a sync that fails behind Pebble's back.
func newMetaFS(fs vfs.FS, mode SyncMode, failed func(error)) *metaFS {
	return &metaFS{FS: fs, mode: mode, failed: failed, open: map[*walFile]struct{}{}, quit: make(chan struct{})}
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
		if err := f.settle(); err != nil {
			m.failed(fmt.Errorf("sync %s: %w", f.name, err))
		}
	}
}

// wrap returns f as Pebble is to see it.
func (m *metaFS) wrap(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	if m.mode == SyncAlways || !strings.HasSuffix(name, ".log") {
		return &metaFile{File: f, fs: m}, nil
	}
	w := &walFile{metaFile: metaFile{File: f, fs: m}, name: name}
	m.mu.Lock()
	m.open[w] = struct{}{}
	m.mu.Unlock()
	return w, nil
}

// Unwrap implements vfs.FS.
func (m *metaFS) Unwrap() vfs.FS { return m.FS }

// Create implements vfs.FS.
func (m *metaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if m.frozen.Load() {
		return nil, errFrozen
	}
	f, err := m.FS.Create(name, c)
	return m.wrap(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (m *metaFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if m.frozen.Load() {
		return nil, errFrozen
	}
	f, err := m.FS.ReuseForWrite(from, to, c)
	return m.wrap(to, f, err)
}

// OpenReadWrite implements vfs.FS.
func (m *metaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if m.frozen.Load() {
		return nil, errFrozen
	}
	f, err := m.FS.OpenReadWrite(name, c, opts...)
	return m.wrap(name, f, err)
}

// Link implements vfs.FS.
func (m *metaFS) Link(from, to string) error {
	if m.frozen.Load() {
		return errFrozen
	}
	return m.FS.Link(from, to)
}

// Remove implements vfs.FS.
func (m *metaFS) Remove(name string) error {
	if m.frozen.Load() {
		return errFrozen
	}
	return m.FS.Remove(name)
}

// RemoveAll implements vfs.FS.
func (m *metaFS) RemoveAll(name string) error {
	if m.frozen.Load() {
		return errFrozen
	}
	return m.FS.RemoveAll(name)
}

// Rename implements vfs.FS.
func (m *metaFS) Rename(from, to string) error {
	if m.frozen.Load() {
		return errFrozen
	}
	return m.FS.Rename(from, to)
}

// OpenDir implements vfs.FS.
func (m *metaFS) OpenDir(name string) (vfs.File, error) {
	f, err := m.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &metaDir{File: f, fs: m, name: name}, nil
}

// metaDir is a directory. Pebble panics when one cannot be synced; instead the
// store fails. Pebble is told that all is well, which does no harm: it can
// change nothing from then on.
type metaDir struct {
	vfs.File
	fs   *metaFS
	name string
}

// Sync implements vfs.File.
func (d *metaDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fs.failed(fmt.Errorf("sync %s: %w", d.name, err))
	}
	return nil
}

// metaFile is a file that cannot be written once the store has failed.
type metaFile struct {
	vfs.File
	fs *metaFS
}

// Write implements vfs.File.
func (f *metaFile) Write(p []byte) (int, error) {
	if f.fs.frozen.Load() {
		return 0, errFrozen
	}
	return f.File.Write(p)
}

// WriteAt implements vfs.File.
func (f *metaFile) WriteAt(p []byte, off int64) (int, error) {
	if f.fs.frozen.Load() {
		return 0, errFrozen
	}
	return f.File.WriteAt(p, off)
}

// walFile is a log of Pebble whose syncs are put off.
type walFile struct {
	metaFile
	name  string
	dirty atomic.Bool // a sync was asked for and put off
}

// Sync implements vfs.File.
func (f *walFile) Sync() error {
	f.dirty.Store(true)
	return nil
}

// SyncData implements vfs.File.
func (f *walFile) SyncData() error { return f.Sync() }

// SyncTo implements vfs.File.
func (f *walFile) SyncTo(int64) (bool, error) { return true, f.Sync() }

// settle does what was put off.
func (f *walFile) settle() error {
	if f.dirty.Swap(false) {
		return f.File.SyncData()
	}
	return nil
}

// Close implements vfs.File.
func (f *walFile) Close() error {
	f.fs.mu.Lock()
	delete(f.fs.open, f)
	f.fs.mu.Unlock()
	return errors.Join(f.settle(), f.File.Close())
}

// metaLogger is Pebble's log.
type metaLogger struct {
	log   *slog.Logger
	fatal func(text string)
}

var _ pebble.Logger = (*metaLogger)(nil)

// Infof implements pebble.Logger.
func (l *metaLogger) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

// Errorf implements pebble.Logger.
func (l *metaLogger) Errorf(format string, args ...any) {
	l.log.Warn("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf implements pebble.Logger.
func (l *metaLogger) Fatalf(format string, args ...any) { l.fatal(fmt.Sprintf(format, args...)) }

// background is told of errors of Pebble's flushes and compactions, which it
// tries again at once, for ever: this slows it down.
func (l *metaLogger) background(err error) {
	l.log.Warn("pebble: background work failed", "error", err)
	time.Sleep(100 * time.Millisecond)
}
