package broker

import "github.com/homing-mq/homing/internal/mq"

type state uint8

const (
	pending  state = iota // in memory only
	writing               // submitted to the store
	durable               // committed
	volatile              // never stored
	acked                 // done with; waits for earlier entries to leave
)

// inflight is an entry of the window: sent on this connection, QoS 1 or 2, and
// there until PUBACK or PUBCOMP [MQTT-4.3.2-3] [MQTT-4.3.3-3] [MQTT-4.3.3-5].
type inflight struct {
	seq    uint64
	rec    []byte // the record, while not durable
	origin Completer
	token  uint64
	sentAt int64 // batch.mono of sending, microseconds
	due    int64 // pending: when to store, batch.mono
	size   uint32
	state  state
	flags  mq.Flags
	lent   bool // by a shared subscription
	nokeep bool // pending: to be dropped, not stored, when the connection ends
}

// packetID is the packet identifier that follows from a seq; see identifiers for
// those that have another.
// [MQTT-2.2.1-4] [MQTT-4.3.2-1] [MQTT-4.3.3-1] [MQTT3-2.3.1-1] [MQTT3-2.3.1-4]
func packetID(seq uint64) uint16 { return uint16(seq%65535) + 1 }

// window is a ring of inflight entries in order of seq. Its memory is in
// proportion to the entries that are not acknowledged.
type window struct {
	ring  []inflight
	head  int
	n     int // entries, acked ones in the middle included
	unack int // entries that are not acked: what Receive Maximum counts
	ids   *identifiers
}

func (w *window) at(i int) *inflight { return &w.ring[(w.head+i)&(len(w.ring)-1)] }

// room reports whether another entry may be sent under the receive maximum.
// [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2]
func (w *window) room(receiveMax int32) bool { return w.unack < int(receiveMax) }

// free reports whether nobody has the packet identifier that follows from a seq,
// which is above those in the window.
func (w *window) free(seq uint64) bool {
	if w.ids == nil && (w.n == 0 || seq-w.at(0).seq < 65535) {
		return true // nearly always
	}
	return w.unused(packetID(seq))
}

// unused reports whether no entry has the packet identifier, one that waits to be
// sent again included.
func (w *window) unused(pid uint16) bool { return !w.ids.has(pid) && w.find(pid) == nil }

func (w *window) push(e inflight) *inflight {
	if w.n == len(w.ring) {
		w.grow()
	}
	w.n++
	w.unack++
	p := w.at(w.n - 1)
	*p = e
	return p
}

// grow makes place for another entry: acknowledged ones in the middle leave, or
// the ring becomes larger.
func (w *window) grow() {
	size := max(4, len(w.ring))
	for size < 2*w.unack {
		size *= 2
	}
	for size > 16 && size > 8*w.unack { // it was larger for a while
		size /= 2
	}
	ring, n := make([]inflight, size), 0
	for i := range w.n {
		if e := w.at(i); e.state != acked {
			ring[n] = *e
			n++
		}
	}
	w.ring, w.head, w.n = ring, 0, n
}

// find returns the unacknowledged entry with a packet identifier, or nil. What has
// it is usually the last seq, or the only one in the window, from which it follows.
func (w *window) find(pid uint16) *inflight {
	if w.n == 0 || pid == 0 {
		return nil
	}
	if seq, ok := w.ids.seq(pid); ok {
		return w.live(seq)
	}
	first, last := w.at(0).seq, w.at(w.n-1).seq
	back := (last%65535 + 65535 - uint64(pid-1)) % 65535
	if back > last-first {
		return nil
	}
	seq := last - back
	if e := w.follows(seq); e != nil {
		return e
	}
	// Further back, where some have not been acknowledged for long: there are few
	// of them, or few seqs that it can be.
	if old := w.search(seq); uint64(old) <= (seq-first)/65535 {
		for i := old - 1; i >= 0; i-- {
			if s := w.at(i).seq; packetID(s) == pid {
				if e := w.follows(s); e != nil {
					return e
				}
			}
		}
		return nil
	}
	for ; seq-first >= 65535; seq -= 65535 {
		if e := w.follows(seq - 65535); e != nil {
			return e
		}
	}
	return nil
}

// live returns the unacknowledged entry with a seq, or nil.
func (w *window) live(seq uint64) *inflight {
	if e := w.findSeq(seq); e != nil && e.state != acked {
		return e
	}
	return nil
}

// follows is live, of an entry whose packet identifier follows from the seq.
func (w *window) follows(seq uint64) *inflight {
	if _, other := w.ids.of(seq); other {
		return nil
	}
	return w.live(seq)
}

// findSeq returns the entry with a seq, or nil.
func (w *window) findSeq(seq uint64) *inflight {
	i := w.search(seq)
	if i < w.n && w.at(i).seq == seq {
		return w.at(i)
	}
	return nil
}

// search returns the index of the first entry with seq or above. Sequences are
// nearly always without gaps, so the guess mostly hits.
func (w *window) search(seq uint64) int {
	if w.n == 0 || seq <= w.at(0).seq {
		return 0
	}
	if d := seq - w.at(0).seq; d < uint64(w.n) && w.at(int(d)).seq == seq {
		return int(d)
	}
	// Behind one that is not acknowledged for long, from the other end.
	last := w.at(w.n - 1).seq
	if seq > last {
		return w.n
	}
	if d := last - seq; d < uint64(w.n) && w.at(w.n-1-int(d)).seq == seq {
		return w.n - 1 - int(d)
	}
	lo, hi := 0, w.n
	for lo < hi {
		mid := (lo + hi) / 2
		if w.at(mid).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// finish marks e acknowledged and lets the acknowledged head leave.
func (w *window) finish(e *inflight) {
	*e = inflight{seq: e.seq, state: acked}
	w.unack--
	for w.n > 0 && w.at(0).state == acked {
		w.head = (w.head + 1) & (len(w.ring) - 1)
		w.n--
	}
}

// reset empties the window. Packet identifiers stay with their entries, which may
// be sent again.
func (w *window) reset() { *w = window{ids: w.ids} }

// queued is an entry of the tail: not sent on this connection yet.
type queued struct {
	seq    uint64 // QoS 0: the last seq before it
	rec    []byte
	origin Completer
	token  uint64
	state  state // writing, durable, volatile; acked: gone, skip it
	flags  mq.Flags
	qos0   bool
}

// tail is a first-in first-out ring of queued entries in order of seq.
type tail struct {
	ring  []queued
	head  int
	n     int
	bytes int64 // of records held
}

func (t *tail) at(i int) *queued { return &t.ring[(t.head+i)&(len(t.ring)-1)] }

func (t *tail) push(e queued) {
	if t.n == len(t.ring) {
		ring := make([]queued, max(4, 2*len(t.ring)))
		for i := range t.n {
			ring[i] = *t.at(i)
		}
		t.ring, t.head = ring, 0
	}
	t.n++
	*t.at(t.n - 1) = e
	t.bytes += int64(len(e.rec))
}

func (t *tail) pop() queued {
	e := *t.at(0)
	*t.at(0) = queued{}
	t.head = (t.head + 1) & (len(t.ring) - 1)
	t.n--
	t.bytes -= int64(len(e.rec))
	if t.n == 0 && len(t.ring) > 16 {
		*t = tail{}
	}
	return e
}

// kill turns an entry into a gap that is skipped.
func (t *tail) kill(e *queued) {
	t.bytes -= int64(len(e.rec))
	*e = queued{seq: e.seq, state: acked}
}

// find returns the entry with a seq that is not QoS 0, or nil.
func (t *tail) find(seq uint64) *queued {
	lo, hi := 0, t.n
	for lo < hi {
		mid := (lo + hi) / 2
		if t.at(mid).seq < seq {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for ; lo < t.n && t.at(lo).seq == seq; lo++ {
		if e := t.at(lo); !e.qos0 && e.state != acked {
			return e
		}
	}
	return nil
}
