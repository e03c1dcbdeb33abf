package store

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// reopen closes the database that has failed, and opens it again as soon as
// that is possible.
func (m *meta) reopen() {
	start := time.Now()
	old := m.current.Load()
	old.drain()
	_ = old.close() // nothing that it says is news
	old.db = nil
	tried := sync.OnceFunc(func() { close(old.tried) })
	defer tried()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := reopenFirst; ; wait = min(2*wait, reopenMost) {
		select {
		case <-m.quit:
			return
		case <-pause.C:
		}
		in, err := m.tryAgain()
		if err == nil {
			m.current.Store(in)
			m.o.log.Info("metadata store works again", "took", time.Since(start).Round(time.Millisecond))
			return
		}
		old.failed.Store(failure(err))
		tried()
		m.o.log.Debug("metadata store does not open yet", "error", err)
		pause.Reset(wait)
	}
}

// tryAgain opens the database as it was promised: what was written after the
// last promise was answered with an error and is passed over.
func (m *meta) tryAgain() (*incarnation, error) {
	need, err := roomToOpen(m.o.fs, m.o.dir)
	if err == nil {
		err = m.o.makeRoom(need)
	}
	if err != nil {
		return nil, err
	}
	cuts, err := m.renew()
	if err != nil {
		return nil, err
	}
	return m.open(cuts)
}

// roomToOpen is how many bytes opening the database may need: its logs become
// tables, the manifest is written anew, and a new log begins.
func roomToOpen(fs vfs.FS, dir string) (need int64, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", dir, err)
	}
	need = 2 * metaMemTable
	for _, n := range names {
		if isLog(n) || strings.HasPrefix(n, manifestName) {
			if fi, err := fs.Stat(fs.PathJoin(dir, n)); err == nil {
				need += fi.Size()
			}
		}
	}
	return need, nil
}

// renew makes sure that what can be read of the manifests is on disk: after a
// sync that failed the kernel shows pages that are not. It returns how far each
// log is to be read.
func (m *meta) renew() (cuts map[string]int64, err error) {
	cuts = map[string]int64{}
	promised := m.marks.promises()
	names, err := m.o.fs.List(m.o.dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", m.o.dir, err)
	}
	for _, n := range names {
		switch {
		case isLog(n):
			cuts[n] = promised[n]
		case marked(n) && promised[n] > 0:
			if err := m.rewrite(n, promised[n]); err != nil {
				return nil, err
			}
		}
	}
	return cuts, syncDirs(m.o.fs, m.o.dir)
}

// rewrite replaces a file by one with its first size bytes, synced.
func (m *meta) rewrite(name string, size int64) error {
	path := m.o.fs.PathJoin(m.o.dir, name)
	fresh := path + ".renew" // Pebble does not know such names
	err := func() error {
		from, err := m.o.fs.Open(path)
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := m.o.fs.Create(fresh, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		defer to.Close()
		if _, err := io.CopyN(to, from, size); err != nil {
			return err
		}
		if err := to.Sync(); err != nil {
			return err
		}
		return m.o.fs.Rename(fresh, path)
	}()
	if err != nil {
		_ = m.o.fs.Remove(fresh)
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	return nil
}

// cutFS shows files shorter than they are.
type cutFS struct {
	vfs.FS
	cuts map[string]int64 // by base name
}

// Unwrap implements vfs.FS.
func (c cutFS) Unwrap() vfs.FS { return c.FS }

// Open implements vfs.FS.
func (c cutFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	if size, ok := c.cuts[c.PathBase(name)]; ok {
		return &cutFile{File: f, left: size}, nil
	}
	return f, nil
}

// cutFile is a file to be read from its start to a place before its end.
type cutFile struct {
	vfs.File
	left int64
}

// Read implements vfs.File.
func (f *cutFile) Read(p []byte) (int, error) {
	if f.left <= 0 {
		return 0, io.EOF
	}
	n, err := f.File.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, err
}
