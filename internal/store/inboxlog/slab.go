package inboxlog

// slab hands out small arrays of T from large chunks, so that millions of them
// cost the garbage collector nothing as long as T has no pointers. Each chunk
// holds arrays of one size class; a chunk whose arrays are all freed is given
// back. A ref is a chunk's number << bits | index in the chunk; 0 is none.
type slab[T any] struct {
	bits    uint
	classes []uint32 // sizes, ascending
	chunks  []chunk[T]
	unused  []uint32   // numbers of chunks without memory
	room    [][]uint32 // by class: numbers of chunks that have, or had, room
}

type chunk[T any] struct {
	data  []T
	free  []uint16 // arrays freed, counted in arrays
	fresh uint32   // arrays never given out start here
	used  uint32
	class uint8
	held  bool // is in room
}

// newSlab makes a slab whose chunks have 1<<bits elements (arrays larger than
// that get a chunk of their own) and whose size classes start with small.
func newSlab[T any](bits uint, small ...uint32) *slab[T] {
	s := &slab[T]{bits: bits, classes: small}
	for size := small[len(small)-1]; size < 1<<28; {
		half := size + size/2
		size *= 2
		s.classes = append(s.classes, half, size)
	}
	s.chunks = make([]chunk[T], 1)
	s.room = make([][]uint32, len(s.classes))
	return s
}

func (s *slab[T]) class(n int) uint8 {
	lo, hi := 0, len(s.classes)
	for lo < hi {
		if mid := (lo + hi) / 2; int(s.classes[mid]) < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint8(lo)
}

// array returns the array ref of the given class. It stays valid, also without
// the lock that guards the slab, until it is freed.
func (s *slab[T]) array(ref uint32, class uint8) []T {
	size := s.classes[class]
	i := ref & (1<<s.bits - 1)
	return s.chunks[ref>>s.bits].data[i : i+size : i+size]
}

// alloc returns an array of at least n elements. What is in it is arbitrary.
func (s *slab[T]) alloc(n int) (ref uint32, class uint8) {
	class = s.class(n)
	size := s.classes[class]
	if size > 1<<s.bits {
		id := s.add(class, size)
		s.chunks[id].fresh, s.chunks[id].used = 1, 1
		return id << s.bits, class
	}
	for room := s.room[class]; len(room) > 0; room = s.room[class] {
		id := room[len(room)-1]
		c := &s.chunks[id]
		if len(c.free) > 0 {
			i := c.free[len(c.free)-1]
			c.free = c.free[:len(c.free)-1]
			c.used++
			return id<<s.bits | uint32(i)*size, class
		}
		if (c.fresh+1)*size <= 1<<s.bits {
			c.fresh++
			c.used++
			return id<<s.bits | (c.fresh-1)*size, class
		}
		c.held = false
		s.room[class] = room[:len(room)-1]
	}
	id := s.add(class, 1<<s.bits)
	c := &s.chunks[id]
	c.fresh, c.used, c.held = 1, 1, true
	s.room[class] = append(s.room[class], id)
	return id << s.bits, class
}

func (s *slab[T]) add(class uint8, size uint32) uint32 {
	var id uint32
	if n := len(s.unused); n > 0 {
		id, s.unused = s.unused[n-1], s.unused[:n-1]
	} else {
		id = uint32(len(s.chunks))
		s.chunks = append(s.chunks, chunk[T]{})
	}
	s.chunks[id] = chunk[T]{data: make([]T, size), class: class}
	return id
}

// release frees an array.
func (s *slab[T]) release(ref uint32, class uint8) {
	id := ref >> s.bits
	c := &s.chunks[id]
	c.used--
	if c.used == 0 {
		s.drop(id)
		return
	}
	c.free = append(c.free, uint16((ref&(1<<s.bits-1))/s.classes[class]))
	if !c.held {
		c.held = true
		s.room[class] = append(s.room[class], id)
	}
}

// drop gives an empty chunk back, unless it is the last with room in its
// class: that one would be wanted again at once.
func (s *slab[T]) drop(id uint32) {
	c := &s.chunks[id]
	if c.held {
		room := s.room[c.class]
		if len(room) == 1 {
			c.free, c.fresh = c.free[:0], 0
			return
		}
		for i := range room {
			if room[i] == id {
				room[i] = room[len(room)-1]
				s.room[c.class] = room[:len(room)-1]
				break
			}
		}
	}
	s.chunks[id] = chunk[T]{}
	s.unused = append(s.unused, id)
}
