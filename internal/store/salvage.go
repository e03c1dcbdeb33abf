package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// salvage is what could be read of damaged metadata.
type salvage struct {
	fs  vfs.FS
	dir string

	values   map[string][]byte
	contents          // of values
	unread   []string // what could not be read, with the reason

	tables, logs []string // paths, oldest first
	manifest     string   // base name of the newest; "": there is none
}

// salvageMeta reads the database in dir as far as that is possible.
//
// First it is opened as it is, but without what Pebble can do without: options,
// names of markers, the end of logs that break off. What the logs have behind
// such a place is added then. Only if that is not all, because the list of
// tables (the manifest) or a table is damaged, tables and logs are read one by
// one for keys that are not known yet: there, what a client has ended long ago
// may come back.
func salvageMeta(fs vfs.FS, dir string) (*salvage, error) {
	s := &salvage{fs: fs, dir: dir, values: map[string][]byte{}}
	names, err := listDir(fs, dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, n := range names {
		switch _, ok := markNumber(n); {
		case ok && isLog(n):
			s.logs = append(s.logs, n)
		case ok:
			s.manifest = n
		case strings.HasSuffix(n, ".sst"):
			s.tables = append(s.tables, n)
		}
	}
	if len(names) == 0 {
		s.unread = append(s.unread, dir+": nothing is there")
		return s, nil
	}
	view, cuts, whole := s.view(names)
	if !s.readDatabase(view) {
		whole = false
	}
	for _, n := range s.logs {
		if end, ok := cuts[n]; ok {
			s.apply(s.records(n, end), false)
		}
	}
	if !whole {
		s.readPieces()
	}
	for k, v := range s.values {
		switch kind, err := checkValue([]byte(k), v); {
		case err != nil:
			s.unread = append(s.unread, err.Error())
			delete(s.values, k)
		case kind == keySession:
			s.sessions++
		case kind == keySubscription:
			s.subscriptions++
		}
	}
	return s, nil
}

// view returns the directory as Pebble may open it, and where the logs in it
// are cut. whole is false if the manifest does not tell all tables.
func (s *salvage) view(names []string) (view viewFS, cuts map[string]int64, whole bool) {
	cuts, whole = map[string]int64{}, s.manifest != ""
	for _, n := range s.logs {
		c, err := scanChunks(s.fs, s.fs.PathJoin(s.dir, n))
		switch {
		case err != nil:
			s.unread = append(s.unread, err.Error())
			cuts[n] = 0
		case c.end < c.size && (c.behind > 0 || !s.restIsZero(n, c.end)):
			cuts[n] = c.end
			s.unread = append(s.unread, fmt.Sprintf("%s: a part of at most %d bytes from offset %d", s.fs.PathJoin(s.dir, n), c.size-c.end, c.end))
		}
	}
	if !whole {
		s.unread = append(s.unread, s.dir+": no MANIFEST is there")
	} else if c, err := scanChunks(s.fs, s.fs.PathJoin(s.dir, s.manifest)); err != nil || c.end < c.size || c.size == 0 {
		whole = false
		s.unread = append(s.unread, fmt.Sprintf("%s: what follows offset %d", s.fs.PathJoin(s.dir, s.manifest), c.end))
	}
	v := viewFS{cutFS: cutFS{s.fs, cuts}, dir: s.dir}
	format := false
	for _, n := range names {
		if strings.HasPrefix(n, "OPTIONS-") || strings.HasPrefix(n, "marker.manifest.") {
			continue
		}
		format = format || strings.HasPrefix(n, "marker.format-version.")
		v.names = append(v.names, n)
	}
	if s.manifest != "" {
		v.names = append(v.names, "marker.manifest.000001."+s.manifest)
	}
	if !format {
		v.names = append(v.names, fmt.Sprintf("marker.format-version.000001.%03d", pebble.FormatNewest))
	}
	return v, cuts, whole
}

// restIsZero reports whether a log has nothing behind off.
func (s *salvage) restIsZero(name string, off int64) bool {
	f, err := s.fs.Open(s.fs.PathJoin(s.dir, name))
	if err != nil {
		return false
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	return err == nil && int64(len(b)) >= off && allZero(b[off:])
}

// readDatabase takes every key that can be read from either end of the
// database. It reports whether that is all.
func (s *salvage) readDatabase(view vfs.FS) (whole bool) {
	defer func() {
		// Pebble takes some damage for a mistake of its own.
		if p := recover(); p != nil {
			whole = false
			s.unread = append(s.unread, fmt.Sprintf("%s as a database: %v", s.dir, p))
		}
	}()
	db, err := openReadOnly(view, s.dir)
	if err != nil {
		s.unread = append(s.unread, err.Error())
		return false
	}
	defer func() { _ = db.Close() }()
	whole = true
	for _, backward := range []bool{false, true} {
		err := eachKey(db, backward, func(k, v []byte) error {
			s.values[string(k)] = bytes.Clone(v)
			return nil
		})
		if err == nil {
			break // this was all
		}
		whole = false
		s.unread = append(s.unread, fmt.Sprintf("a part of %s: %v", s.dir, err))
	}
	return whole
}

// change is one operation on a key.
type change struct {
	seq     uint64
	key     string
	value   []byte
	deleted bool
}

// apply carries out changes in their order; with missing, only for keys that
// are not known.
func (s *salvage) apply(changes []change, missing bool) {
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.seq, b.seq) })
	known := map[string]bool{}
	if missing {
		for k := range s.values {
			known[k] = true
		}
	}
	for _, c := range changes {
		switch {
		case known[c.key]:
		case c.deleted:
			delete(s.values, c.key)
		default:
			s.values[c.key] = c.value
		}
	}
}

// readPieces adds keys from the tables and logs by themselves.
func (s *salvage) readPieces() {
	var all []change
	for _, n := range s.tables {
		got, err := s.readTable(n)
		all = append(all, got...)
		if err != nil {
			s.unread = append(s.unread, fmt.Sprintf("a part of %s: %v", s.fs.PathJoin(s.dir, n), err))
		}
	}
	for _, n := range s.logs {
		all = append(all, s.records(n, 0)...)
	}
	s.apply(all, true)
}

// readTable returns what can be read of a table from either end.
func (s *salvage) readTable(name string) (out []change, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	f, err := s.fs.Open(s.fs.PathJoin(s.dir, name))
	if err != nil {
		return nil, err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	var o pebble.Options
	o.EnsureDefaults()
	r, err := sstable.NewReader(context.Background(), readable, o.MakeReaderOptions())
	if err != nil {
		return nil, errors.Join(err, readable.Close())
	}
	defer func() { _ = r.Close() }()
	it, err := r.NewIter(sstable.NoTransforms, nil, nil, sstable.TableBlobContext{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = it.Close() }()
	for _, backward := range []bool{false, true} {
		first, next := it.First, it.Next
		if backward {
			first, next = it.Last, it.Prev
		}
		for kv := first(); kv != nil; kv = next() {
			c := change{seq: uint64(kv.SeqNum()), key: string(kv.K.UserKey)}
			switch kv.Kind() {
			case pebble.InternalKeyKindSet, pebble.InternalKeyKindSetWithDelete:
				v, _, err := kv.Value(nil)
				if err != nil {
					return out, err
				}
				c.value = bytes.Clone(v)
			default:
				c.deleted = true
			}
			out = append(out, c)
		}
		e := it.Error()
		if e == nil {
			break
		}
		err = e
	}
	return out, err
}

// records returns the changes of a log from off on that are in intact records.
func (s *salvage) records(name string, off int64) (out []change) {
	f, err := s.fs.Open(s.fs.PathJoin(s.dir, name))
	if err != nil {
		return nil // said already
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil
	}
	n, _ := markNumber(name)
	sc := chunkScanner{b: b, log: uint32(n)}
	var record []byte
	open := false
	for pos := int(off); pos < len(b); {
		size, pad, end := sc.at(pos)
		switch {
		case end:
			return out
		case size == 0 && pad && pos+sc.rest(pos) <= len(b):
			pos += sc.rest(pos)
			continue
		case size == 0:
			open = false
			pos++
			continue
		}
		header, part := chunkRecycle, (int(b[pos+6])-5)%4 // 0 full, 1 first, 2 middle, 3 last
		if b[pos+6] >= 9 {
			header = chunkSync
		}
		payload := b[pos+header : pos+size]
		pos += size
		switch {
		case part == 0 || part == 1:
			record, open = append(record[:0], payload...), true
		case open:
			record = append(record, payload...)
		}
		if open && (part == 0 || part == 3) {
			out = append(out, changesOf(record)...)
			open = false
		}
	}
	return out
}

// changesOf returns what is in a record of a log.
func changesOf(record []byte) (out []change) {
	h, ok := batchrepr.ReadHeader(record)
	if !ok {
		return nil
	}
	seq := uint64(h.SeqNum)
	for r := batchrepr.Read(record); ; seq++ {
		kind, k, v, ok, err := r.Next()
		if !ok || err != nil {
			return out
		}
		switch kind {
		case pebble.InternalKeyKindSet:
			out = append(out, change{seq: seq, key: string(k), value: bytes.Clone(v)})
		case pebble.InternalKeyKindDelete:
			out = append(out, change{seq: seq, key: string(k), deleted: true})
		}
	}
}

// viewFS shows other names in one directory than there are. Markers are names
// of files without contents.
type viewFS struct {
	cutFS
	dir   string
	names []string
}

// List implements vfs.FS.
func (v viewFS) List(dir string) ([]string, error) {
	if dir == v.dir {
		return slices.Clone(v.names), nil
	}
	return v.cutFS.List(dir)
}
