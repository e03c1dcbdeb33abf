package inboxlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	segmentMagic      = "homingsg"
	segmentHeaderSize = 4096
	headerCopyAt      = 2048 // the second copy of the header
	headerBytes       = 48
	sealSize          = frameHeaderSize // kept free at the end of each segment

	segmentSuffix = ".seg"
	hintSuffix    = ".hint"
	tempSuffix    = ".tmp"
	sparePrefix   = "spare-"

	category = vfs.WriteCategoryUnspecified
)

// segment is one file of the log.
type segment struct {
	epoch   uint32
	version uint32 // of its format
	salt    uint64
	key     uint32 // initial state of the checksums: from salt and epoch
	path    string
	file    vfs.File // nil once closed
	size    int64    // no frame reaches beyond
	made    int64    // when, the server's time, Unix ms
	renamed bool     // path is that of a spare already

	pins   atomic.Int32 // reads under way; raised under index.mu only
	wanted atomic.Bool  // the keeper waits for pins to fall to 0

	// Guarded by index.mu.
	entries int   // live, with the record here
	claims  int   // held, on the evidence of an op here
	bytes   int64 // still needed, by estimate
	sealed  bool
	hinted  bool   // has a hint file, or is not worth one
	sealAt  int64  // once sealed: offset of the seal
	commit  uint64 // once sealed: the highest number in it
}

// idle reports whether nothing needs the segment, reads under way aside.
// Locked: index.mu.
func (s *segment) idle() bool { return s.sealed && s.entries == 0 && s.claims == 0 }

func segmentName(epoch uint32) string { return fmt.Sprintf("%010d", epoch) + segmentSuffix }
func hintName(epoch uint32) string    { return fmt.Sprintf("%010d", epoch) + hintSuffix }
func spareName(n uint64) string       { return fmt.Sprintf("%s%010d", sparePrefix, n) }

// parseName returns the number in a file name between prefix and suffix.
func parseName(name, prefix, suffix string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if digits, ok = strings.CutSuffix(digits, suffix); !ok || len(digits) != 10 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil
}

func isTemp(name string) bool { return strings.HasSuffix(name, tempSuffix) }

func segmentKey(salt uint64, epoch uint32) uint32 {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	binary.LittleEndian.PutUint32(b[8:], epoch)
	return crc32.Checksum(b[:], castagnoli)
}

// room returns the bytes that ops may still take in the segment when it is
// used up to offset end: none if it has an older format.
func (s *segment) room(end int64) int64 {
	if s.version != formatVersion {
		return 0
	}
	return s.size - sealSize - end
}

// rest returns the bytes at the end of the segment that puts and moves may use
// only once there is a next one.
func (s *segment) rest() int64 { return s.size / 16 }

// header returns the bytes of the segment's header block.
func (s *segment) header() []byte {
	b := make([]byte, segmentHeaderSize)
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], s.epoch)
	le.PutUint64(b[16:], s.salt)
	le.PutUint64(b[24:], uint64(s.size))
	le.PutUint64(b[32:], uint64(s.made))
	putHeaderCRC(b)
	copy(b[headerCopyAt:], b[:headerBytes])
	return b
}

// putHeaderCRC completes the header of a segment or hint.
func putHeaderCRC(b []byte) {
	binary.LittleEndian.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
}

// errBadHeader says that neither copy of a segment's header is intact.
var errBadHeader = errors.New("the segment's header does not check")

// readHeader fills s from its file, which must be open. It returns
// errBadHeader, a VersionError or a read error.
func (s *segment) readHeader() error {
	b := make([]byte, segmentHeaderSize)
	n, err := s.file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	clear(b[n:])
	for _, h := range [][]byte{b[:headerBytes], b[headerCopyAt : headerCopyAt+headerBytes]} {
		le := binary.LittleEndian
		if string(h[:8]) != segmentMagic || le.Uint32(h[44:]) != crc32.Checksum(h[:44], castagnoli) {
			continue
		}
		s.version = le.Uint32(h[8:])
		if s.version < 1 || s.version > formatVersion {
			return &VersionError{File: s.path, Version: s.version}
		}
		if le.Uint32(h[12:]) != s.epoch {
			continue // taken from the spares, but not prepared yet
		}
		s.salt, s.size = le.Uint64(h[16:]), int64(le.Uint64(h[24:]))
		s.made = int64(le.Uint64(h[32:]))
		s.key = segmentKey(s.salt, s.epoch)
		if s.size < segmentHeaderSize || s.size > maxSegmentSize {
			continue
		}
		return nil
	}
	return errBadHeader
}

// headerEpoch returns the epoch in an intact header of the file, or 0.
func (s *segment) headerEpoch() uint32 {
	b := make([]byte, segmentHeaderSize)
	n, _ := s.file.ReadAt(b, 0) // what cannot be read does not check
	clear(b[n:])
	for _, at := range []int{0, headerCopyAt} {
		h, le := b[at:at+headerBytes], binary.LittleEndian
		if string(h[:8]) == segmentMagic && le.Uint32(h[44:]) == crc32.Checksum(h[:44], castagnoli) {
			return le.Uint32(h[12:])
		}
	}
	return 0
}

// makeSegment turns the spare file at from into segment epoch and makes it
// durable. The rename is synced before anything is written, so that at no time
// a file has the name of one segment and bytes of another.
func (l *Log) makeSegment(from string, epoch uint32, size int64) (_ *segment, err error) {
	s := &segment{epoch: epoch, version: formatVersion, salt: rand.Uint64(), size: size, made: l.opts.Clock.Now(), path: l.join(segmentName(epoch))}
	s.key = segmentKey(s.salt, epoch)
	if err := l.fs.Rename(from, s.path); err != nil {
		return nil, fmt.Errorf("rename %s: %w", from, err)
	}
	if err := l.syncDir(); err != nil {
		return nil, err
	}
	if s.file, err = l.fs.OpenReadWrite(s.path, category); err != nil {
		return nil, fmt.Errorf("open %s: %w", s.path, err)
	}
	if err = s.writeHeader(l); err != nil {
		s.file.Close()
		return nil, err
	}
	l.state.begin(l, epoch)
	return s, nil
}

// writeHeader gives the file its full length, durably, and then its header: a
// file with a header that is shorter has been cut.
func (s *segment) writeHeader(l *Log) error {
	short, err := s.short()
	if err != nil {
		return err
	}
	if short >= 0 {
		if _, err := s.file.WriteAt([]byte{0}, s.size-1); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
		if err := s.file.SyncData(); err != nil {
			return fmt.Errorf("sync %s: %w", s.path, err) // nothing depends on it yet
		}
	}
	if _, err := s.file.WriteAt(s.header(), 0); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := s.file.SyncData(); err != nil {
		return l.fail(s.path, err)
	}
	return nil
}

// short returns the length of the file if that is less than the segment's size,
// and otherwise -1.
func (s *segment) short() (int64, error) {
	fi, err := s.file.Stat()
	if err != nil {
		return -1, fmt.Errorf("stat %s: %w", s.path, err)
	}
	if fi.Size() < s.size {
		return fi.Size(), nil
	}
	return -1, nil
}

// fullLength is the first format version whose segments have their full length
// from the start.
const fullLength = 4

// checkLength returns a CorruptError if the file, whose header is known, has
// been cut. used is how many bytes of it there must be in any case.
func (s *segment) checkLength(used int64) error {
	length, err := s.short()
	if err != nil || length < 0 || s.version < fullLength && length >= used {
		return err
	}
	want := used
	if s.version >= fullLength {
		want = s.size
	}
	return &CorruptError{File: s.path, Offset: length, Reason: fmt.Sprintf("the file ends here and had %d bytes", want)}
}

// MakeDir makes a directory and its parents, durably. What exists is synced,
// too: a process that made it may have been killed before it did.
func MakeDir(fs vfs.FS, dir string) error {
	var parents []string // of what is missing, and of dir
	for p := dir; ; {
		parent := fs.PathDir(p)
		parents = append(parents, parent)
		if _, err := fs.Stat(parent); err == nil || parent == p {
			break
		}
		p = parent
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	for _, p := range parents {
		d, err := fs.OpenDir(p)
		if err != nil {
			return fmt.Errorf("open %s: %w", p, err)
		}
		err = d.Sync()
		d.Close()
		if err != nil {
			return fmt.Errorf("sync %s: %w", p, err)
		}
	}
	return nil
}

// syncDir makes renames in the log's directory durable.
func (l *Log) syncDir() error {
	d, err := l.fs.OpenDir(l.dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return l.fail(l.dir, err)
	}
	return nil
}
