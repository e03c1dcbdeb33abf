package store

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/store/inboxlog"
)

// Repair makes the store in dir open again. What is damaged is moved to
// dir/bad, never deleted; everything that still checks is saved. It returns
// what it did and what may be lost, one line each; nothing means that there
// was nothing to do. No server may have the store open. fs nil means the
// operating system's.
func Repair(fs vfs.FS, dir string) (did []string, err error) {
	if fs == nil {
		fs = vfs.Default
	}
	if !anyOf(fs, dir, inboxName, metaName, marksName) {
		return nil, fmt.Errorf("repair store: %s holds no store: %w", dir, iofs.ErrNotExist)
	}
	lock, err := lockDir(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("repair store: %w", err)
	}
	defer lock.Close()
	if did, err = repair(fs, dir); err != nil {
		return did, fmt.Errorf("repair store: %w", err)
	}
	return did, nil
}

func repair(fs vfs.FS, dir string) (did []string, err error) {
	r, damage, err := check(fs, dir)
	if err != nil {
		return nil, err
	}
	bad, inbox := fs.PathJoin(dir, badName), fs.PathJoin(dir, inboxName)
	if damage == nil {
		damage = r.hidden
	}
	if damage != nil {
		if did, err = repairMeta(fs, dir, bad, damage, r.lost); err != nil {
			return did, err
		}
		if r, _, err = check(fs, dir); err != nil { // the inbox log must exist if there are sessions now
			return did, err
		}
	}
	for _, p := range r.Inbox.Problems {
		if p.Text == inboxlog.NoSegments {
			l, err := inboxlog.Open(inboxlog.Options{FS: fs, Dir: inbox})
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				return did, err
			}
			return append(did, fmt.Sprintf("made an empty inbox log in %s; all messages that were kept are lost", inbox), "reason: "+p.String()), nil
		}
	}
	if !anyOf(fs, dir, inboxName) {
		return did, nil
	}
	lines, err := inboxlog.Repair(fs, inbox, bad)
	return append(did, lines...), err
}

// repairMeta moves the metadata to bad and puts a new database in its place,
// with every session and subscription that can be read of the old one.
func repairMeta(fs vfs.FS, dir, bad string, damage error, lost []*CorruptError) (did []string, err error) {
	meta, fresh := fs.PathJoin(dir, metaName), fs.PathJoin(dir, metaName+".new")
	s, err := salvageMeta(fs, meta)
	if err != nil {
		return nil, err
	}
	for _, l := range lost {
		s.unread = append(s.unread, fmt.Sprintf("%s: offset %d: %s", l.File, l.Offset, l.Reason))
	}
	if err := writeMeta(fs, fresh, s.values); err != nil {
		return nil, err
	}
	if err := inboxlog.MakeDir(fs, bad); err != nil {
		return nil, err
	}
	// They are of the old files. Without them Open makes new ones.
	if err := fs.Remove(fs.PathJoin(dir, marksName)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return nil, fmt.Errorf("remove %s: %w", fs.PathJoin(dir, marksName), err)
	}
	if err := syncDirs(fs, dir); err != nil {
		return nil, err
	}
	if anyOf(fs, dir, metaName) {
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
	did = append(did, fmt.Sprintf("made new metadata with the %d sessions and %d subscriptions that could be read", s.sessions, s.subscriptions))
	if len(s.unread) > 0 {
		did = append(did, "others may be lost: messages for their clients stay, and the clients have to subscribe again")
	}
	for _, u := range s.unread {
		did = append(did, "not read: "+u)
	}
	return append(did, "reason: "+damage.Error()), nil
}

// writeMeta makes a database in dir with the given keys and values, durably.
func writeMeta(fs vfs.FS, dir string, values map[string][]byte) error {
	if err := fs.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	var fatal error
	quiet := &metaLogger{log: slog.New(slog.DiscardHandler), fatal: func(text string) { fatal = errors.New(text) }}
	db, err := pebble.Open(dir, pebbleOptions(fs, quiet, 0))
	if err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for k, v := range values {
		if err = db.Set([]byte(k), v, pebble.NoSync); err != nil {
			break
		}
	}
	if err == nil {
		err = db.Flush()
	}
	if err = errors.Join(err, db.Close(), fatal); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	return nil
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
