package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// evidence is what the files of a store say about each other before anything of
// it is opened. Start and Check collect the same.
type evidence struct {
	marks *marks
	// cuts says of which logs only a part is to be read: what follows was
	// written and never synced, with holes in it. Pebble would take that for
	// damage where the sync mode was not always.
	cuts    map[string]int64
	dropped int             // records behind the cuts
	notes   []string        // what is odd, and does no harm
	lost    []*CorruptError // what the marks miss
	empty   bool            // there is no metadata yet
	inbox   bool            // there are segments of the inbox log
}

// examine collects the evidence of the store in dir. It changes nothing. It
// fails with a *CorruptError if the metadata has lost something that was on
// disk, or is gone altogether.
func examine(fsys vfs.FS, dir string) (*evidence, error) {
	e := &evidence{cuts: map[string]int64{}}
	var err error
	e.marks, _, err = readMarks(fsys, dir)
	if errors.Is(err, errMarksDamaged) {
		e.notes = append(e.notes, fmt.Sprintf("%s is damaged: loss at the end of the metadata's files would not be noticed; "+
			"it is made anew when the server starts", e.marks.path))
	} else if err != nil {
		return nil, err
	}
	if e.marks.flags&markMeta == 0 {
		clear(e.marks.files)
	}
	names, err := listDir(fsys, e.marks.dir)
	if err != nil {
		return nil, err
	}
	inbox, err := listDir(fsys, fsys.PathJoin(dir, inboxName))
	if err != nil {
		return nil, err
	}
	for _, n := range inbox {
		e.inbox = e.inbox || strings.HasSuffix(n, ".seg")
	}
	if err := e.present(fsys, names); err != nil || e.empty {
		return e, err
	}
	if e.lost, err = e.marks.verify(fsys, manifestOf(names)); err != nil {
		return nil, err
	}
	if len(e.lost) > 0 {
		return e, e.lost[0]
	}
	if e.marks.flags&markLazy != 0 {
		return e, e.cut(fsys, names)
	}
	return e, nil
}

// present looks for files without which Pebble would begin a new database.
func (e *evidence) present(fsys vfs.FS, names []string) error {
	manifest, format, data := false, false, false
	for _, n := range names {
		manifest = manifest || strings.HasPrefix(n, "marker.manifest.")
		format = format || strings.HasPrefix(n, "marker.format-version.")
		data = data || isLog(n) || strings.HasSuffix(n, ".sst")
	}
	// The metadata is opened before the inbox log is made, so where that has
	// segments there was metadata, however short the first start was.
	known := e.marks.flags&(markMeta|markInbox) != 0 || e.inbox
	switch {
	case len(names) == 0 && known:
		return &CorruptError{File: e.marks.dir, Reason: "all metadata (sessions and subscriptions) is missing beside the messages; " +
			"if it cannot be put back, repair makes it empty: messages stay, clients have to subscribe again"}
	case !manifest && (known || data):
		return &CorruptError{File: fsys.PathJoin(e.marks.dir, "marker.manifest.*"), Reason: "the file is missing"}
	case !format && manifest && e.marks.flags&markMeta != 0:
		return &CorruptError{File: fsys.PathJoin(e.marks.dir, "marker.format-version.*"), Reason: "the file is missing"}
	}
	e.empty = !manifest
	return nil
}

// cut finds the logs that end in pieces.
func (e *evidence) cut(fsys vfs.FS, names []string) error {
	for _, n := range names {
		if !isLog(n) {
			continue
		}
		path := fsys.PathJoin(e.marks.dir, n)
		c, err := scanChunks(fsys, path)
		if err != nil {
			return err
		}
		if c.behind > 0 {
			e.cuts[n] = c.end
			e.dropped += c.behind
			e.notes = append(e.notes, fmt.Sprintf("%s: offset %d: the log ends here; the %d records that follow were never synced and are dropped: "+
				"after a power loss that is to be expected unless store.sync is always", path, c.end, c.behind))
		}
	}
	return nil
}

// listDir is the names in a directory; none if it is not there.
func listDir(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return names, nil
}

// manifestOf returns the name of the manifest that the marker in a listing says
// is in use; "": there is no marker.
func manifestOf(names []string) string {
	marker := slices.MaxFunc(append([]string{""}, names...), func(a, b string) int {
		return strings.Compare(markerOf(a), markerOf(b))
	})
	_, manifest, _ := strings.Cut(markerOf(marker), ".")
	return manifest
}

// markerOf returns number and value of a marker of the manifest; "": it is none.
func markerOf(name string) string {
	v, ok := strings.CutPrefix(name, "marker.manifest.")
	if !ok {
		return ""
	}
	return v
}
