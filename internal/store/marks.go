package store

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// marks remembers how far each log and manifest of the metadata is known to be
// on disk. Pebble takes whatever it cannot read at the end of such a file for
// the work of a crash, and starts without it; with the marks a file that is
// shorter than it was, unreadable where it once was on disk, or gone, is damage.
//
// They are a file of their own, meta.marks, beside the directory of the
// metadata. It has two slots of 512 bytes, one sector each, at 0 and 4096,
// written in turn; the valid one with the higher generation counts. All
// integers are little-endian:
//
//	 0  8 bytes "homingmk"
//	 8  u64     generation
//	16  u32     flags, see below
//	20  u32     n, number of marks
//	24  n times: u64 number of the file, bit 63 set for a manifest; u64 bytes on disk
//	508 u32     CRC-32C of bytes 0-507
//
// A mark is a promise about the past, so an old one is still true: it is
// written without a sync whenever a file was synced. Only before a file goes
// away must the marks be on disk without it.
type marks struct {
	path string
	dir  string // of the metadata

	mu    sync.Mutex // guards the rest
	file  vfs.File   // nil: in memory only
	gen   uint64
	flags marksFlag
	files map[string]*mark // by base name
	list  [][2]uint64      // of encode
	buf   []byte           // of encode
}

// mark says how much of a file there is.
type mark struct {
	promised int64 // bytes that somebody was told are as durable as the sync mode wants
	synced   int64 // bytes on disk
	// unnamed: the directory was not synced since the file was made, so a power
	// loss may take it. Of logs it was before anything was written.
	unnamed bool
}

type marksFlag uint32

const (
	// markLazy: the logs were not synced with each commit, so a record in one
	// may claim of others what holds for a kill only, not for a power loss.
	markLazy marksFlag = 1 << iota
	// markMeta: the database was opened once, so it is complete. Without it the
	// marks are those of a first start that did not end.
	markMeta
	// markInbox: the inbox log was opened once, so there is one.
	markInbox
)

const (
	marksName    = "meta.marks"
	marksMagic   = "homingmk"
	marksSlot    = 512
	marksSecond  = 4096 // offset of the second slot
	marksHeader  = 24
	maxMarks     = (marksSlot - 4 - marksHeader) / 16
	manifestBit  = 1 << 63
	manifestName = "MANIFEST-"
	logSuffix    = ".log"
)

// errMarksDamaged says that there is a file of marks that cannot be used.
var errMarksDamaged = errors.New("neither copy of the marks is intact")

// marked reports whether the file with that base name gets a mark.
func marked(base string) bool {
	_, ok := markNumber(base)
	return ok
}

// markNumber is what stands for a file in the marks.
func markNumber(base string) (n uint64, ok bool) {
	digits, manifest := strings.CutPrefix(base, manifestName)
	if !manifest {
		if digits, ok = strings.CutSuffix(base, logSuffix); !ok {
			return 0, false
		}
	}
	if digits == "" {
		return 0, false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' || n >= manifestBit/20 {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	if manifest {
		n |= manifestBit
	}
	return n, true
}

// markBase is the reverse of markNumber.
func markBase(n uint64) string {
	if n&manifestBit != 0 {
		return fmt.Sprintf("%s%06d", manifestName, n&^uint64(manifestBit))
	}
	return fmt.Sprintf("%06d%s", n, logSuffix)
}

// readMarks reads the marks of the store in dir. found is false if there is no
// file. With errMarksDamaged what it returns has no marks.
func readMarks(fsys vfs.FS, dir string) (k *marks, found bool, err error) {
	k = &marks{path: fsys.PathJoin(dir, marksName), dir: fsys.PathJoin(dir, metaName), files: map[string]*mark{}}
	f, err := fsys.Open(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open %s: %w", k.path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, true, fmt.Errorf("read %s: %w", k.path, err)
	}
	ok := k.decode(b, 0)
	if k.decode(b, marksSecond) || ok {
		return k, true, nil
	}
	if len(b) == 0 { // made, and not written before a crash
		return k, false, nil
	}
	return k, true, errMarksDamaged
}

// decode takes over the slot at off, if it is intact and newer.
func (k *marks) decode(b []byte, off int) bool {
	if len(b) < off+marksSlot {
		return false
	}
	b = b[off : off+marksSlot]
	n := int(binary.LittleEndian.Uint32(b[20:]))
	if string(b[:8]) != marksMagic || n > maxMarks ||
		binary.LittleEndian.Uint32(b[marksSlot-4:]) != crc32.Checksum(b[:marksSlot-4], castagnoli) {
		return false
	}
	gen := binary.LittleEndian.Uint64(b[8:])
	if gen < k.gen {
		return true
	}
	k.gen, k.flags = gen, marksFlag(binary.LittleEndian.Uint32(b[16:]))
	clear(k.files)
	for i := range n {
		e := b[marksHeader+16*i:]
		size := int64(binary.LittleEndian.Uint64(e[8:]))
		k.files[markBase(binary.LittleEndian.Uint64(e))] = &mark{promised: size, synced: size}
	}
	return true
}

// encode returns the slot, in memory that the next call uses again. k is locked.
func (k *marks) encode() []byte {
	k.list = k.list[:0]
	for base, f := range k.files {
		if n, _ := markNumber(base); !f.unnamed {
			k.list = append(k.list, [2]uint64{n, uint64(f.synced)})
		}
	}
	slices.SortFunc(k.list, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	newest := k.list[max(0, len(k.list)-maxMarks):] // fewer marks mean less is noticed
	b := append(k.buf[:0], marksMagic...)
	b = binary.LittleEndian.AppendUint64(b, k.gen)
	b = binary.LittleEndian.AppendUint32(b, uint32(k.flags))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(newest)))
	for _, m := range newest {
		b = binary.LittleEndian.AppendUint64(b, m[0])
		b = binary.LittleEndian.AppendUint64(b, m[1])
	}
	b = append(b, make([]byte, marksSlot-4-len(b))...)
	k.buf = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return k.buf
}

// open makes the marks durable from now on, beginning with what k has.
func (k *marks) open(fsys vfs.FS) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file, err = fsys.OpenReadWrite(k.path, vfs.WriteCategoryUnspecified); err != nil {
		return fmt.Errorf("open %s: %w", k.path, err)
	}
	if err := k.writeBoth(); err != nil {
		return err
	}
	return syncDirs(fsys, fsys.PathDir(k.path))
}

func (k *marks) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file == nil {
		return nil
	}
	err := k.writeBoth()
	err = errors.Join(err, k.file.Close())
	k.file = nil
	return err
}

// writeBoth writes and syncs both slots. k is locked.
func (k *marks) writeBoth() error {
	if k.file == nil {
		return nil
	}
	k.gen++
	b := k.encode()
	for _, off := range []int64{0, marksSecond} {
		if _, err := k.file.WriteAt(b, off); err != nil {
			return fmt.Errorf("write %s: %w", k.path, err)
		}
	}
	if err := k.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", k.path, err)
	}
	return nil
}

// note raises the mark of a file.
func (k *marks) note(base string, promised, synced int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.files[base]
	if f == nil {
		f = &mark{unnamed: strings.HasPrefix(base, manifestName)}
		k.files[base] = f
	}
	f.promised = max(f.promised, promised, synced)
	if synced <= f.synced {
		return
	}
	if f.synced = synced; !f.unnamed {
		k.write()
	}
}

// named is told that the directory was synced.
func (k *marks) named() {
	k.mu.Lock()
	defer k.mu.Unlock()
	news := false
	for _, f := range k.files {
		news = news || f.unnamed
		f.unnamed = false
	}
	if news {
		k.write()
	}
}

// write writes one slot. k is locked. If that fails, the other one has marks
// that are still true.
func (k *marks) write() {
	if k.file == nil {
		return
	}
	k.gen++
	off := int64(0)
	if k.gen%2 == 1 {
		off = marksSecond
	}
	_, _ = k.file.WriteAt(k.encode(), off)
}

// forget drops the mark of a file that is about to go away. It must not go
// unless forget succeeds.
func (k *marks) forget(base string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.files[base]
	if f == nil {
		return nil
	}
	delete(k.files, base)
	if err := k.writeBoth(); err != nil {
		k.files[base] = f
		return err
	}
	return nil
}

// set changes the flags, durably.
func (k *marks) set(flags marksFlag) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flags == flags {
		return nil
	}
	k.flags = flags
	return k.writeBoth()
}

// promises returns how many bytes of each file somebody relies on.
func (k *marks) promises() map[string]int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]int64, len(k.files))
	for base, f := range k.files {
		out[base] = f.promised
	}
	return out
}

// verify compares the files with their marks: each must be there, and readable
// as far as it was on disk. It returns what is not. Manifests before the one
// that is in use do not matter.
func (k *marks) verify(fsys vfs.FS, manifest string) (lost []*CorruptError, err error) {
	used, _ := markNumber(manifest)
	for _, base := range slices.Sorted(maps.Keys(k.files)) {
		if n, _ := markNumber(base); n&manifestBit != 0 && n < used {
			continue
		}
		path, want := fsys.PathJoin(k.dir, base), k.files[base].synced
		c, err := scanChunks(fsys, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			lost = append(lost, &CorruptError{File: path, Reason: fmt.Sprintf("the file is missing; %d bytes of it were on disk", want)})
		case err != nil:
			return lost, err
		case c.end < want:
			lost = append(lost, &CorruptError{File: path, Offset: c.end, Reason: fmt.Sprintf(
				"no intact record is here, but the file was on disk up to %d", want)})
		}
	}
	return lost, nil
}
