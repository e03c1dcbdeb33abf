package inboxlog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// Inbox returns the handle of an inbox; see mq.Store.
func (l *Log) Inbox(name string) mq.Inbox {
	if len(name) > mq.MaxInboxName {
		return mq.NoInbox
	}
	ix := l.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	id := ix.make(name)
	ix.slot(id).state |= slotHeld
	return mq.Inbox(id)
}

// Lookup is Inbox without making one.
func (l *Log) Lookup(name string) (mq.Inbox, bool) {
	ix := l.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	id := ix.find(ix.table.hash(name), name)
	if id == 0 {
		return mq.NoInbox, false
	}
	ix.slot(id).state |= slotHeld
	return mq.Inbox(id), true
}

// Forget gives a handle back; see mq.Store. The slot is freed by the committer
// after all ops submitted before, those of a failed commit that are tried again
// included, and only if nobody has asked for it again.
func (l *Log) Forget(in mq.Inbox) {
	ix := l.ix
	ix.mu.Lock()
	s := ix.valid(uint32(in))
	if s == nil {
		ix.mu.Unlock()
		return
	}
	s.state &^= slotHeld
	s.gen++
	op := mq.Op{Kind: kindForget, Inbox: in, Seq: uint64(s.gen)}
	ix.mu.Unlock()
	l.queue.submit(op)
}

const nameChunk = 1 << 10 // slots looked at with one lock

// Names calls yield for the inboxes with entries whose name starts with
// prefix; see mq.Store.
func (l *Log) Names(prefix string, yield func(name string) error) error {
	return l.names(func(ix *index, s *slot) bool { return strings.HasPrefix(asString(ix.name(s)), prefix) }, yield)
}

// Unkept calls yield for the inboxes of clients that have an entry without
// mq.FlagKeep; see mq.Store.
func (l *Log) Unkept(yield func(name string) error) error {
	return l.names(func(ix *index, s *slot) bool {
		for es, i := ix.view(s), 0; i < len(es); i++ {
			if e := &es[i]; !e.dead() && !e.has(mq.FlagKeep) {
				return !strings.HasPrefix(asString(ix.name(s)), mq.InternalInbox)
			}
		}
		return false
	}, yield)
}

// names calls yield for the inboxes with entries that match.
func (l *Log) names(match func(ix *index, s *slot) bool, yield func(name string) error) error {
	ix := l.ix
	var found []string
	for from, more := uint32(1), true; more; from += nameChunk {
		found = found[:0]
		ix.mu.Lock()
		more = from+nameChunk < ix.top
		for id := from; id < min(from+nameChunk, ix.top); id++ {
			if s := ix.slot(id); s.count > 0 && match(ix, s) {
				found = append(found, string(ix.name(s)))
			}
		}
		ix.mu.Unlock()
		for _, name := range found {
			if err := yield(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// NextSeq returns a seq above every one the inbox has seen.
func (l *Log) NextSeq(in mq.Inbox) uint64 {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	if s := l.ix.valid(uint32(in)); s != nil {
		return s.next
	}
	return 1
}

// Stats describes an inbox.
func (l *Log) Stats(in mq.Inbox) mq.InboxStats {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	s := l.ix.valid(uint32(in))
	if s == nil || s.count == 0 {
		return mq.InboxStats{}
	}
	es := l.ix.view(s)
	return mq.InboxStats{Count: int(s.count), Bytes: s.bytes, First: es[0].seq, Last: es[len(es)-1].seq}
}

// after returns the entries of s above seq, dead ones among them.
func (ix *index) after(s *slot, seq uint64) []entry {
	if seq == math.MaxUint64 {
		return nil
	}
	es := ix.view(s)
	return es[search(es, seq+1):]
}

// Oldest returns seq and record size of the first entry above after.
func (l *Log) Oldest(in mq.Inbox, after uint64) (seq uint64, size int, ok bool) {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	s := l.ix.valid(uint32(in))
	if s == nil {
		return 0, 0, false
	}
	es := l.ix.after(s, after)
	for i := range es {
		if !es[i].dead() {
			return es[i].seq, int(es[i].size), true
		}
	}
	return 0, 0, false
}

// List appends entries without their records; see mq.Store.
func (l *Log) List(in mq.Inbox, after uint64, n int, dst []mq.Entry) []mq.Entry {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	s := l.ix.valid(uint32(in))
	if s == nil {
		return dst
	}
	es := l.ix.after(s, after)
	for i := 0; i < len(es) && n > 0; i++ {
		if e := &es[i]; !e.dead() {
			dst = append(dst, mq.Entry{Seq: e.seq, Flags: s.flagsOf(e), Expiry: e.expiry})
			n--
		}
	}
	return dst
}

// Claims returns the packet identifiers claimed by the client of in.
func (l *Log) Claims(in mq.Inbox) []uint16 {
	l.ix.mu.Lock()
	defer l.ix.mu.Unlock()
	s := l.ix.valid(uint32(in))
	if s == nil || s.nclaims == 0 {
		return nil
	}
	out := make([]uint16, 0, s.nclaims)
	for _, c := range l.ix.claimView(s) {
		out = append(out, c.packet)
	}
	return out
}

// wanted is a record to be read.
type wanted struct {
	seg    *segment
	offset uint32
	size   uint32
	at     int // where in the buffer its checksum and it start
}

const (
	crcSize = 4 // before each record on disk, its checksum
	// readGap is how many bytes between two records are read along to save a
	// system call.
	readGap = 512
	// readMax bounds what is read with one call.
	readMax = 256 << 10
)

var wantedPool = sync.Pool{New: func() any { return new([]wanted) }}

// Read appends entries and their records; see mq.Store. Every record's
// checksum is verified: the entries before one that cannot be read are returned
// without an error, and the next call fails with an *mq.UnreadableError, for a
// damaged one of a *CorruptError. A damaged entry can only be acknowledged away.
func (l *Log) Read(in mq.Inbox, after, to uint64, maxBytes int, dst []mq.Entry, buf []byte) ([]mq.Entry, []byte, error) {
	start := time.Now()
	list := wantedPool.Get().(*[]wanted)
	defer func() {
		clear(*list)
		*list = (*list)[:0]
		wantedPool.Put(list)
	}()
	first := len(dst)
	dst, *list = l.collect(in, after, to, maxBytes, dst, *list)
	if len(*list) == 0 {
		return dst, buf, nil
	}
	buf, n, err := fetch(*list, buf)
	var bytes int64
	for i := range n {
		w := &(*list)[i]
		rec := w.at + crcSize
		dst[first+i].Record = buf[rec : rec+int(w.size) : rec+int(w.size)]
		bytes += int64(w.size)
	}
	l.unpin(*list)
	if f := l.opts.Observer.Read; f != nil {
		f(time.Since(start), n, bytes)
	}
	if n == 0 {
		return dst[:first], buf, unreadable(dst[first].Seq, err)
	}
	return dst[:first+n], buf, nil
}

// collect appends what the index knows of the entries to read to dst and list,
// and pins their segments.
func (l *Log) collect(in mq.Inbox, after, to uint64, maxBytes int, dst []mq.Entry, list []wanted) ([]mq.Entry, []wanted) {
	ix := l.ix
	ix.mu.Lock()
	defer ix.mu.Unlock()
	s := ix.valid(uint32(in))
	if s == nil {
		return dst, list
	}
	es := ix.after(s, after)
	for i := range es {
		e := &es[i]
		if e.dead() {
			continue
		}
		if e.seq > to || len(list) > 0 && maxBytes < int(e.size) {
			break
		}
		maxBytes -= int(e.size)
		dst = append(dst, mq.Entry{Seq: e.seq, Flags: s.flagsOf(e), Expiry: e.expiry})
		seg := ix.seg(e.epoch24())
		seg.pins.Add(1)
		list = append(list, wanted{seg: seg, offset: e.offset, size: e.size})
	}
	return dst, list
}

func (l *Log) unpin(list []wanted) {
	for i := range list {
		if s := list[i].seg; s.pins.Add(-1) == 0 && s.wanted.Load() {
			l.tidySoon()
		}
	}
}

// fetch reads the records of list to the end of buf, with one read for several
// that are close together. It returns the grown buf and how many records, from
// the first on, are good; err is why there are not more.
func fetch(list []wanted, buf []byte) (_ []byte, good int, err error) {
	type run struct{ from, to, size int } // list[from:to] with one read of size bytes
	total := len(buf)
	var room [16]run
	runs := room[:0]
	for i := 0; i < len(list); {
		w := &list[i]
		w.at = total
		start, end := int64(w.offset)-crcSize, int64(w.offset)+int64(w.size)
		k := i + 1
		for ; k < len(list); k++ {
			n := &list[k]
			at := int64(n.offset) - crcSize
			if n.seg != w.seg || at < end || at-end > readGap || int64(n.offset)+int64(n.size)-start > readMax {
				break
			}
			n.at = total + int(at-start)
			end = int64(n.offset) + int64(n.size)
		}
		runs = append(runs, run{i, k, int(end - start)})
		total += int(end - start)
		i = k
	}
	if total > cap(buf) {
		grown := make([]byte, len(buf), total)
		copy(grown, buf)
		buf = grown
	}
	buf = buf[:total]
	for _, r := range runs {
		w := &list[r.from]
		err := w.seg.read(buf[w.at:w.at+r.size], int64(w.offset)-crcSize)
		if err != nil && r.to-r.from == 1 {
			return buf, r.from, err
		}
		for i := r.from; i < r.to; i++ {
			w := &list[i]
			if err != nil { // perhaps of one of them only: each by itself
				if err := w.seg.read(buf[w.at:w.at+crcSize+int(w.size)], int64(w.offset)-crcSize); err != nil {
					return buf, i, err
				}
			}
			if err := checkRecord(w.seg, buf[w.at:], w.offset, w.size); err != nil {
				return buf, i, err
			}
		}
	}
	return buf, len(list), nil
}

// read fills b from offset; a file that ends before is damaged.
func (s *segment) read(b []byte, offset int64) error {
	n, err := s.file.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &CorruptError{File: s.path, Offset: offset, Reason: "the file ends within a record"}
	}
	return &placeError{file: s.path, offset: offset, err: err}
}

// placeError is an error of the operating system, and where it was met.
type placeError struct {
	file   string
	offset int64
	err    error
}

func (e *placeError) Error() string {
	return fmt.Sprintf("read %s at offset %d: %v; check the disk (dmesg, smartctl)", e.file, e.offset, e.err)
}

func (e *placeError) Unwrap() error { return e.err }

// checkRecord verifies the record at offset of s; b starts with its checksum.
func checkRecord(s *segment, b []byte, offset, size uint32) error {
	c := cursor{b: b}
	if crc := c.u32(); crc != recordCRC(b[crcSize:crcSize+size]) {
		return &CorruptError{File: s.path, Offset: int64(offset), Reason: "a record does not match its checksum"}
	}
	return nil
}

// unreadable is the error of Read for an entry that cannot be read because of
// err. Who reads logs it, once he knows what becomes of the entry.
func unreadable(seq uint64, err error) error {
	u := &mq.UnreadableError{Seq: seq, Fault: mq.FaultPassing, Err: err}
	var c *CorruptError
	switch {
	case errors.As(err, &c):
		u.Fault = mq.FaultDamage
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EBADMSG):
		u.Fault = mq.FaultMedium // a bad sector; a checksum of the file system
	}
	return &mq.Error{Code: mq.StoreFailed, Text: "store failed", Err: u}
}
