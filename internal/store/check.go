package store

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/store/inboxlog"
)

// Report is what Check found in a store.
type Report struct {
	Inbox         inboxlog.Report
	Sessions      int
	Subscriptions int
	MetaProblem   string   // why the metadata does not open; "": it does
	Notes         []string // what is odd, and does no harm
}

// OK reports whether the store opens and everything in it can be read.
func (r *Report) OK() bool { return r.Inbox.OK() && r.MetaProblem == "" }

// String returns the report as lines of text.
func (r *Report) String() string {
	var b strings.Builder
	b.WriteString(r.Inbox.String())
	fmt.Fprintf(&b, "%d sessions, %d subscriptions\n", r.Sessions, r.Subscriptions)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: metadata: %s\n", n)
	}
	if r.MetaProblem != "" {
		fmt.Fprintf(&b, "problem: metadata: %s\n", r.MetaProblem)
	}
	return b.String()
}

// Check verifies every frame, record and metadata block of the store in dir
// and reports all damage with file and offset. It does what Open does, so it
// finds no problem exactly if Open does not. It changes nothing but takes
// the lock: no server may have the store open. fs nil means the operating
// system's. err says why the check was not possible; damage is in the report.
func Check(fs vfs.FS, dir string) (Report, error) {
	if fs == nil {
		fs = vfs.Default
	}
	if !anyOf(fs, dir, inboxName, metaName, marksName) {
		return Report{}, fmt.Errorf("check store: %s holds no store: %w", dir, iofs.ErrNotExist)
	}
	lock, err := lockDir(fs, dir)
	if err != nil {
		return Report{}, fmt.Errorf("check store: %w", err)
	}
	defer lock.Close()
	r, _, err := check(fs, dir)
	if err != nil {
		return r.Report, fmt.Errorf("check store: %w", err)
	}
	return r.Report, nil
}

// found is a Report with what Repair needs to know besides.
type found struct {
	Report
	lost   []*CorruptError // parts of the metadata's files
	hidden error           // damage of what newer values cover: it does not matter to a start
}

// anyOf reports whether dir has something of one of the names.
func anyOf(fs vfs.FS, dir string, names ...string) bool {
	for _, n := range names {
		if _, err := fs.Stat(fs.PathJoin(dir, n)); err == nil {
			return true
		}
	}
	return false
}

// check is Check with the lock held. damage is what the report says of the
// metadata.
func check(fs vfs.FS, dir string) (r found, damage error, err error) {
	e, damage := examine(fs, dir)
	var corrupt *CorruptError
	if damage != nil && !errors.As(damage, &corrupt) {
		return r, nil, damage
	}
	r.Notes, r.lost = e.notes, e.lost
	if damage == nil && !e.empty {
		damage = r.checkMeta(cutFS{fs, e.cuts}, e.marks.dir)
	}
	if r.hidden != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("damage that does no harm to what is stored, but to the work behind the scenes: %v; repair ends it", r.hidden))
	}
	if damage != nil {
		r.MetaProblem = damage.Error()
	}
	for _, l := range r.lost[min(1, len(r.lost)):] {
		r.MetaProblem += "\nproblem: metadata: " + l.Error()
	}
	inbox := fs.PathJoin(dir, inboxName)
	if !e.inbox && (r.Sessions > 0 || e.marks.flags&markInbox != 0) {
		r.Inbox.Problems = append(r.Inbox.Problems, inboxlog.Problem{File: inbox, Text: inboxlog.NoSegments})
		return r, damage, nil
	}
	if !anyOf(fs, dir, inboxName) {
		return r, damage, nil
	}
	r.Inbox, err = inboxlog.Check(fs, inbox)
	return r, damage, err
}

// checkMeta reads all of the metadata; opening verifies Pebble's log.
func (r *found) checkMeta(fs vfs.FS, dir string) error {
	db, err := openReadOnly(fs, dir)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	c, err := validate(db)
	r.Sessions, r.Subscriptions = c.sessions, c.subscriptions
	if err == nil {
		r.hidden = db.CheckLevels(nil)
	}
	return err
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
