package store

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/store/inboxlog"
)

// Report is what Check found in a store.
type Report struct {
	Inbox         inboxlog.Report
	Sessions      int
	Subscriptions int
	MetaProblem   string // "": none
}

// OK reports whether the store opens and everything in it can be read.
func (r *Report) OK() bool { return r.Inbox.OK() && r.MetaProblem == "" }

// String returns the report as lines of text.
func (r *Report) String() string {
	var b strings.Builder
	b.WriteString(r.Inbox.String())
	fmt.Fprintf(&b, "%d sessions, %d subscriptions\n", r.Sessions, r.Subscriptions)
	if r.MetaProblem != "" {
		fmt.Fprintf(&b, "problem: metadata: %s\n", r.MetaProblem)
	}
	return b.String()
}

// Check verifies every frame, record and metadata block of the store in dir
// and reports all damage with file and offset. It changes nothing but takes
// the lock: no server may have the store open. fs nil means the operating
// system's. err says why the check was not possible; damage is in the report.
func Check(fs vfs.FS, dir string) (Report, error) {
	if fs == nil {
		fs = vfs.Default
	}
	if _, err := fs.Stat(fs.PathJoin(dir, inboxName)); err != nil {
		return Report{}, fmt.Errorf("check store: %s holds no store: %w", dir, err)
	}
	lock, err := lockDir(fs, dir)
	if err != nil {
		return Report{}, fmt.Errorf("check store: %w", err)
	}
	defer lock.Close()
	return check(fs, dir)
}

func check(fs vfs.FS, dir string) (r Report, err error) {
	if r.Inbox, err = inboxlog.Check(fs, fs.PathJoin(dir, inboxName)); err != nil {
		return r, fmt.Errorf("check store: %w", err)
	}
	if err := r.checkMeta(fs, fs.PathJoin(dir, metaName)); err != nil {
		r.MetaProblem = err.Error()
	}
	return r, nil
}

// checkMeta reads all of the metadata; opening verifies Pebble's log.
func (r *Report) checkMeta(fs vfs.FS, dir string) error {
	db, err := openReadOnly(fs, dir)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	err = eachKey(db, false, func(k, _ []byte) error {
		switch k[0] {
		case keySession:
			r.Sessions++
		case keySubscription:
			r.Subscriptions++
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.CheckLevels(nil)
}

func openReadOnly(fs vfs.FS, dir string) (*pebble.DB, error) {
	quiet := &metaLogger{log: slog.New(slog.DiscardHandler), fatal: func(string) {}}
	o := pebbleOptions(fs, quiet, 0)
	o.ReadOnly, o.ErrorIfNotExists = true, true
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return db, nil
}

// eachKey calls f for all keys, from the last to the first if backward, until
// f or reading fails.
func eachKey(db *pebble.DB, backward bool, f func(k, v []byte) error) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }()
	first, next := it.First, it.Next
	if backward {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		v, err := it.ValueAndErr()
		if err == nil && len(it.Key()) > 0 {
			err = f(it.Key(), v)
		}
		if err != nil {
			return err
		}
	}
	return it.Error()
}

// Repair makes the store in dir open again. What is damaged is moved to
// dir/bad, never deleted; everything that still checks is saved. It returns
// what it did and what may be lost, one line each; nothing means that there
// was nothing to do. No server may have the store open. fs nil means the
// operating system's.
func Repair(fs vfs.FS, dir string) (did []string, err error) {
	if fs == nil {
		fs = vfs.Default
	}
	if _, err := fs.Stat(dir); err != nil {
		return nil, fmt.Errorf("repair store: %w", err)
	}
	lock, err := lockDir(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("repair store: %w", err)
	}
	defer lock.Close()
	bad := fs.PathJoin(dir, badName)
	did, err = inboxlog.Repair(fs, fs.PathJoin(dir, inboxName), bad)
	if err != nil {
		return did, fmt.Errorf("repair store: %w", err)
	}
	var r Report
	damage := r.checkMeta(fs, fs.PathJoin(dir, metaName))
	if damage == nil {
		return did, nil
	}
	lines, err := repairMeta(fs, dir, bad, damage)
	if err != nil {
		return append(did, lines...), fmt.Errorf("repair store: %w", err)
	}
	return append(did, lines...), nil
}

// repairMeta moves the metadata to bad and puts a new database in its place,
// with every key that can be read from either end of the old one.
func repairMeta(fs vfs.FS, dir, bad string, damage error) (did []string, err error) {
	meta, fresh := fs.PathJoin(dir, metaName), fs.PathJoin(dir, metaName+".new")
	if err := fs.RemoveAll(fresh); err != nil {
		return nil, fmt.Errorf("remove %s: %w", fresh, err)
	}
	quiet := &metaLogger{log: slog.New(slog.DiscardHandler), fatal: func(string) {}}
	to, err := pebble.Open(fresh, pebbleOptions(fs, quiet, 0))
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", fresh, err)
	}
	saved := map[string]struct{}{}
	if from, err := openReadOnly(fs, meta); err == nil {
		for _, backward := range []bool{false, true} {
			// How far it gets is all there is to know.
			_ = eachKey(from, backward, func(k, v []byte) error {
				saved[string(k)] = struct{}{}
				return to.Set(k, v, pebble.NoSync)
			})
		}
		_ = from.Close()
	}
	if err := to.Flush(); err != nil {
		_ = to.Close()
		return nil, fmt.Errorf("write %s: %w", fresh, err)
	}
	if err := to.Close(); err != nil {
		return nil, fmt.Errorf("write %s: %w", fresh, err)
	}
	if err := inboxlog.MakeDir(fs, bad); err != nil {
		return nil, err
	}
	// They are of the old files. Without them Open makes new ones.
	if err := fs.Remove(fs.PathJoin(dir, marksName)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("remove the marks: %w", err)
	}
	if _, err := fs.Stat(meta); err == nil {
		kept := fs.PathJoin(bad, fmt.Sprintf("%s-%d", metaName, time.Now().UnixNano()))
		if err := fs.Rename(meta, kept); err != nil {
			return nil, fmt.Errorf("rename %s: %w", meta, err)
		}
		did = append(did, fmt.Sprintf("moved the metadata %s to %s", meta, kept))
	}
	if err := fs.Rename(fresh, meta); err != nil {
		return did, fmt.Errorf("rename %s: %w", fresh, err)
	}
	if err := syncDirs(fs, bad, dir); err != nil {
		return did, err
	}
	return append(did, fmt.Sprintf("made new metadata with the %d sessions and subscriptions that could be read; "+
		"others are lost: their clients have to subscribe again", len(saved)), "reason: "+damage.Error()), nil
}

// syncDirs makes the names in the given directories durable.
func syncDirs(fs vfs.FS, dirs ...string) error {
	for _, dir := range dirs {
		d, err := fs.OpenDir(dir)
		if err != nil {
			return fmt.Errorf("open %s: %w", dir, err)
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return nil
}
