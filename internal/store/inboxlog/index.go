package inboxlog

import (
	"sync"
	"unsafe"

	"github.com/homing-mq/homing/internal/mq"
)

// index says which entries and claims each inbox has and where their records
// are. Nothing in it that grows with the number of inboxes has a pointer.
//
// Only the committer (and recovery, before there is one) changes entries and
// claims, so what it reads under mu stays true until it changes it itself.
// Inbox and Forget make slots and mark them; the committer frees them.
type index struct {
	mu      sync.Mutex // guards everything below, and the counters of segments
	slots   [][]slot   // chunks; slot 0 is never used
	top     uint32     // slots from here on were never used
	vacant  []uint32   // slots to use again
	names   *slab[byte]
	entries *slab[entry]
	claims  *slab[claim]
	table   *table
	shared  map[uint64]uint32 // records with several entries: place -> how many

	segs      []*segment // by epoch, without gaps; the last is the active one
	size      int64      // bytes of the segments' files
	live      int64      // bytes of segments still needed, by estimate
	sealed    int64      // bytes of frames in sealed segments
	entryN    int64
	holders   holders
	largest   uint32 // record found by recovery, in bytes
	expireAt  uint32 // slot where Expired goes on
	expireSeq uint64 // and the seq in it after which
}

const (
	slotBits   = 12
	entryBits  = 12
	nameBits   = 16
	claimBits  = 12
	liveExtra  = 24 // bytes of an entry on disk besides record and name
	claimBytes = 24 // the same of a claim
)

// slot is one inbox.
type slot struct {
	bytes   int64  // of live records
	next    uint64 // above every seq seen
	sent    uint64 // entries up to this seq have FlagSent
	name    uint32 // in names; 0: the slot is vacant
	hash    uint32
	array   uint32 // in entries; 0: none
	start   uint32 // first used element
	used    uint32 // elements from start on, dead ones included
	count   uint32 // live ones
	claims  uint32 // in claims; 0: none
	nclaims uint32
	gen     uint16 // counts Forgets
	nameLow uint16 // of the length of the name, bits 0-15

	arrayClass uint8
	nameClass  uint8
	claimClass uint8
	state      uint8 // the bits below
}

// Bits of slot.state.
const (
	slotHeld     = 0x01 // the caller has a handle
	slotLong     = 0x02 // bit 16 of the length of the name; so a slot fits a cache line
	slotPromised = 0x04 // see holders
)

func (s *slot) held() bool { return s.state&slotHeld != 0 }

// nameLen returns the length of the name in bytes.
func (s *slot) nameLen() int { return int(s.nameLow) | int(s.state&slotLong)<<15 }

func (s *slot) setNameLen(n int) {
	s.nameLow, s.state = uint16(n), s.state&^slotLong|uint8(n>>15)&slotLong
}

// entry is one stored message. Arrays of them are sorted by seq.
type entry struct {
	seq    uint64
	expiry int64  // Unix ms; 0: none
	offset uint32 // of the record
	size   uint32 // of the record
	put    uint32 // Unix seconds
	where  uint32 // low 24 bits of the segment's epoch << 8 | mq.Flags and the two below
}

const (
	entryShared = 0x20 // its record has other entries, too
	entryDead   = 0x40
)

func (e *entry) dead() bool                   { return e.where&entryDead != 0 }
func (e *entry) epoch24() uint32              { return e.where >> 8 }
func (e *entry) flags() mq.Flags              { return mq.Flags(e.where) & flagMask }
func (e *entry) has(f mq.Flags) bool          { return e.where&uint32(f) != 0 }
func (e *entry) place() uint64                { return uint64(e.epoch24())<<32 | uint64(e.offset) }
func whereOf(epoch uint32, f mq.Flags) uint32 { return epoch<<8 | uint32(f&flagMask) }

// claim is one packet identifier of a QoS 2 sender. Arrays are sorted by it.
type claim struct {
	packet uint16
	epoch  uint32
}

func newIndex() *index {
	return &index{
		slots:   [][]slot{make([]slot, 1<<slotBits)},
		top:     1,
		names:   newSlab[byte](nameBits, 8, 16, 24, 32, 40, 48, 64),
		entries: newSlab[entry](entryBits, 1, 2, 3, 4),
		claims:  newSlab[claim](claimBits, 1, 2, 4),
		table:   newTable(),
		shared:  map[uint64]uint32{},
	}
}

func (ix *index) slot(id uint32) *slot { return &ix.slots[id>>slotBits][id&(1<<slotBits-1)] }

// valid returns the slot of a handle, or nil.
func (ix *index) valid(id uint32) *slot {
	if id == 0 || id >= ix.top {
		return nil
	}
	if s := ix.slot(id); s.name != 0 {
		return s
	}
	return nil
}

// name returns the name of s. It is valid until the slot is freed.
func (ix *index) name(s *slot) []byte { return ix.names.array(s.name, s.nameClass)[:s.nameLen()] }

func asString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// make returns the slot of the inbox name and makes it if there is none.
func (ix *index) make(name string) uint32 {
	hash := ix.table.hash(name)
	if id := ix.find(hash, name); id != 0 {
		return id
	}
	var id uint32
	if n := len(ix.vacant); n > 0 {
		id, ix.vacant = ix.vacant[n-1], ix.vacant[:n-1]
	} else {
		id = ix.top
		if int(id>>slotBits) == len(ix.slots) {
			ix.slots = append(ix.slots, make([]slot, 1<<slotBits))
		}
		ix.top++
	}
	s := ix.slot(id)
	*s = slot{hash: hash, next: 1, gen: s.gen}
	s.setNameLen(len(name))
	s.name, s.nameClass = ix.names.alloc(len(name))
	copy(ix.name(s), name)
	ix.enter(id)
	return id
}

// free vacates slot id if nothing is in it and nobody has a handle.
func (ix *index) free(id uint32) {
	s := ix.slot(id)
	if s.name == 0 || s.held() || s.count > 0 || s.nclaims > 0 {
		return
	}
	ix.unpromise(id)
	ix.leave(id)
	ix.names.release(s.name, s.nameClass)
	*s = slot{gen: s.gen}
	ix.vacant = append(ix.vacant, id)
}

// seg returns the segment with the given low 24 bits of its epoch. There are
// never enough segments for these to be ambiguous.
func (ix *index) seg(epoch24 uint32) *segment {
	return ix.segs[(epoch24-ix.segs[0].epoch)&(1<<24-1)]
}

// view returns the used part of s's array, dead entries included.
func (ix *index) view(s *slot) []entry {
	if s.array == 0 {
		return nil
	}
	return ix.entries.array(s.array, s.arrayClass)[s.start : s.start+s.used]
}

// search returns the position in es of the first entry with at least seq.
func search(es []entry, seq uint64) int {
	if len(es) == 0 || seq <= es[0].seq {
		return 0
	}
	if d := seq - es[0].seq; d < uint64(len(es)) && es[d].seq == seq {
		return int(d) // without gaps, the usual case
	}
	lo, hi := 1, len(es)
	for lo < hi {
		if mid := (lo + hi) / 2; es[mid].seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// get returns the live entry seq of s, or nil.
func (ix *index) get(s *slot, seq uint64) *entry {
	es := ix.view(s)
	if i := search(es, seq); i < len(es) && es[i].seq == seq && !es[i].dead() {
		return &es[i]
	}
	return nil
}

// flagsOf returns the flags of an entry of s.
func (s *slot) flagsOf(e *entry) mq.Flags {
	f := e.flags()
	if e.seq <= s.sent {
		f |= mq.FlagSent
	}
	return f
}

// account adds (sign 1) or takes away (-1) a live entry of slot id, which is s,
// from the counters.
func (ix *index) account(id uint32, s *slot, e *entry, sign int) {
	seg := ix.seg(e.epoch24())
	bytes := int64(s.nameLen()) + liveExtra
	if e.where&entryShared == 0 {
		bytes += int64(e.size)
	} else {
		n := ix.shared[e.place()]
		if sign > 0 && n == 0 || sign < 0 && n == 1 {
			bytes += int64(e.size)
		}
		if n += uint32(sign); n == 0 {
			delete(ix.shared, e.place())
		} else {
			ix.shared[e.place()] = n
		}
	}
	seg.entries += sign
	seg.bytes += int64(sign) * bytes
	ix.live += int64(sign) * bytes
	ix.entryN += int64(sign)
	if sign > 0 && !s.counts() {
		ix.hold(id, s, mq.Nobody)
	}
	s.count += uint32(sign)
	if sign < 0 && !s.counts() {
		ix.let(id, s)
	}
	s.bytes += int64(sign) * int64(e.size)
}

// resize gives s an array with room for n more entries than are live, and
// leaves dead ones behind.
func (ix *index) resize(s *slot, n int) {
	old := ix.view(s)
	ref, class := ix.entries.alloc(int(s.count) + n)
	live := ix.entries.array(ref, class)[:0]
	for i := range old {
		if !old[i].dead() {
			live = append(live, old[i])
		}
	}
	if s.array != 0 {
		ix.entries.release(s.array, s.arrayClass)
	}
	s.array, s.arrayClass, s.start, s.used = ref, class, 0, uint32(len(live))
}

// pack moves the live entries of s to the start of its array.
func (ix *index) pack(s *slot) {
	all := ix.entries.array(s.array, s.arrayClass)
	live := all[:0]
	for _, e := range ix.view(s) {
		if !e.dead() {
			live = append(live, e)
		}
	}
	s.start, s.used = 0, uint32(len(live))
}

// grow makes room for one more entry after the last of s.
func (ix *index) grow(s *slot) {
	size := ix.entries.classes[s.arrayClass]
	switch {
	case s.array == 0:
		ix.resize(s, 1)
	case s.start+s.used < size:
	case s.count <= size/2:
		ix.pack(s)
	default:
		ix.resize(s, 1+int(s.count)/4)
	}
}

// shrink tidies the array of s after entries died.
func (ix *index) shrink(s *slot) {
	if s.count == 0 {
		ix.entries.release(s.array, s.arrayClass)
		s.array, s.arrayClass, s.start, s.used = 0, 0, 0, 0
		return
	}
	es := ix.view(s)
	for es[0].dead() {
		es = es[1:]
		s.start++
		s.used--
	}
	for es[len(es)-1].dead() {
		es = es[:len(es)-1]
		s.used--
	}
	if size := ix.entries.classes[s.arrayClass]; size >= 16 && s.count <= size/8 {
		ix.resize(s, int(s.count))
	} else if s.used >= 16 && s.count <= s.used/2 {
		ix.pack(s)
	}
}
