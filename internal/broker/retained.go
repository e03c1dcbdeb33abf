package broker

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"

	"github.com/homing-mq/homing/internal/mq"
)

// retainedSet holds the retained message of every topic, whatever becomes of its
// sender's session [MQTT-3.3.1-5] [MQTT3-3.3.1-5] [MQTT3-3.1.2-7]. Each is
// the one entry of an inbox of its own in the store, so it is written together
// with what the same publish leaves in the inboxes of subscribers, and expires
// like any other; in memory is only where it is.
//
// Its lock comes before sessions. The order of topics is that of their levels,
// so that a filter with wildcards finds its matches by skipping what lies
// between; see key.go.
type retainedSet struct {
	mu     sync.Mutex
	topics btree.Map[string, retained] // by levelKey
	size   atomic.Int64                // of topics
	count  mq.Quota                    // of what is shown, but the server's own
	bytes  mq.Quota                    // of their records and topic names
}

// retained is the current message of a topic.
type retained struct {
	in   mq.Inbox
	size uint32 // bytes that it counts in retainedSet.bytes
	seq  uint64
	rec  []byte // until the store has it, and for the server's own topics
	ops  int32  // that the store has not done yet
	// gone: it was removed, but the inbox is in use while there are ops.
	gone bool
	by   mq.Account // on whose account it counts
}

func (r *retainedSet) set(key string, v retained) {
	r.topics.Set(key, v)
	r.size.Store(int64(r.topics.Len()))
}

// tally counts a message of clients that is shown from now on, or with sign -1 no
// more. The lock is held.
func (b *Broker) tally(v *retained, sign int64) {
	r := &b.retained
	r.count.Add(v.by, sign)
	r.bytes.Add(v.by, sign*int64(v.size))
	b.Stats.Retained.Store(r.count.Used())
	b.Stats.RetainedBytes.Store(r.bytes.Used())
}

// retainedSize is what a retained message counts, bytes: its topic is in memory.
func retainedSize(topic, record int) uint32 { return uint32(topic + record) }

// retain makes the message, of any QoS, the retained one of its topic
// [MQTT3-3.3.1-7] [MQTT3-3.3.1-10] [MQTT3-3.3.1-11], or with an empty
// payload removes that [MQTT-3.3.1-6] [MQTT-3.3.1-7]. f waits for it. The ops of
// a grouped delivery are submitted by the caller, who holds the lock until then.
func (b *Broker) retain(d *delivery, f *fanout) {
	r := &b.retained
	key := levelKey(string(d.m.Topic))
	now, had := r.topics.Get(key)
	old, shown := now.seq, had && !now.gone
	note := &retainNote{key: key, f: f}
	var ops []mq.Op
	switch {
	case len(d.m.Payload) > 0:
		if now.in == mq.NoInbox {
			now.in = b.store.Inbox(mq.RetainedInbox + string(d.m.Topic))
		}
		if shown {
			b.tally(&now, -1)
		}
		now.seq, now.rec, now.gone = max(old+1, b.store.NextSeq(now.in)), d.record(), false
		now.size, now.by = retainedSize(len(d.m.Topic), len(now.rec)), d.by()
		b.tally(&now, 1)
		ops = append(ops, mq.Op{
			Kind: mq.OpPut, Inbox: now.in, Seq: now.seq, Flags: mq.Flags(d.m.QoS), Expiry: d.m.Expiry, Record: now.rec, Owner: note,
		})
		if shown {
			ops = append(ops, mq.Op{Kind: mq.OpAck, Inbox: now.in, Seq: old})
		}
	case shown || had && now.ops > 0: // also while it is being removed: that is not safe yet
		if shown {
			b.tally(&now, -1)
		}
		now.gone, now.rec = true, nil
		ops = append(ops, mq.Op{Kind: mq.OpAck, Inbox: now.in, Seq: old, Owner: note})
	default:
		return
	}
	note.in, note.seq = now.in, now.seq
	now.ops++
	r.set(key, now)
	if f != nil {
		f.left.Add(1)
	}
	b.submitted(1)
	if d.grouped {
		d.group = append(d.group, ops...)
		return
	}
	b.store.SubmitGroup(ops)
}

// mayRetain says whether the message can be retained, before anything is done.
// The lock is held.
func (b *Broker) mayRetain(d *delivery) mq.Code {
	m, r := d.m, &b.retained
	if len(m.Payload) == 0 {
		return mq.OK
	}
	by, more := d.by(), int64(1)
	wider := int64(retainedSize(len(m.Topic), len(d.record())))
	if old, had := r.topics.Get(levelKey(string(m.Topic))); had && !old.gone {
		more, wider = 0, wider-int64(old.size) // it takes the place of another
	}
	switch {
	case !r.count.Fits(by, more):
		return mq.RetainedFull
	case !r.bytes.Fits(by, wider):
		return mq.RetainedBytes
	}
	if err := b.store.Admit(mq.RecordSize(m)); err != nil {
		return codeOf(err)
	}
	return mq.OK
}

// ackBelow removes what a retained inbox has below a seq.
func (b *Broker) ackBelow(in mq.Inbox, below uint64) {
	for after := uint64(0); ; {
		seq, _, ok := b.store.Oldest(in, after)
		if !ok || seq >= below {
			return
		}
		b.store.Submit(mq.Op{Kind: mq.OpAck, Inbox: in, Seq: seq})
		after = seq
	}
}

// retainNote is the owner of the store's op.
type retainNote struct {
	key string
	in  mq.Inbox
	seq uint64
	f   *fanout // nil: nobody waits
}

// retainDone goes on when the store has done an op, or failed to.
func (b *Broker) retainDone(n *retainNote, err error, batch *Batch) {
	r := &b.retained
	r.mu.Lock()
	now, _ := r.topics.Get(n.key)
	now.ops--
	if err != nil && n.f != nil {
		stop(senderOf(n.f))
	}
	switch {
	case now.seq != n.seq:
	case err != nil:
		now.rec = nil
		b.drop(dropOf(err))
		b.reload(n.key, &now)
	default:
		// What failed before may have left something behind.
		now.rec = nil
		below := now.seq
		if now.gone {
			below++
		}
		b.ackBelow(now.in, below)
	}
	if now.gone && now.ops == 0 {
		r.topics.Delete(n.key)
		r.size.Store(int64(r.topics.Len()))
		b.store.Forget(now.in)
	} else {
		r.set(n.key, now)
	}
	r.mu.Unlock()
	if n.f != nil {
		n.f.Complete(0, codeIf(err), batch)
	}
}

// reload makes current what the store has, after it has failed.
func (b *Broker) reload(key string, now *retained) {
	if !now.gone {
		b.tally(now, -1)
	}
	if last := b.store.Stats(now.in).Last; last > 0 {
		now.seq, now.gone = last, false
		now.size, now.by = b.storedSize(key, now), mq.Nobody
		b.tally(now, 1)
	} else {
		now.gone = true
	}
}

// storedSize is the retainedSize of the message that the store has.
func (b *Broker) storedSize(key string, now *retained) uint32 {
	_, size, _ := b.store.Oldest(now.in, now.seq-1)
	return retainedSize(len(key), size)
}

// loadRetained finds the retained messages after a restart. Of two for one topic
// the older was about to be removed.
func (b *Broker) loadRetained() error {
	return b.store.Names(mq.RetainedInbox, func(name string) error {
		in := b.store.Inbox(name)
		st := b.store.Stats(in)
		if st.Count == 0 {
			return nil
		}
		b.ackBelow(in, st.Last)
		v := retained{in: in, seq: st.Last}
		key := levelKey(name[len(mq.RetainedInbox):])
		v.size = b.storedSize(key, &v)
		b.retained.set(key, v)
		b.tally(&v, 1)
		return nil
	})
}

// expireRetained removes a message whose expiry is over [MQTT-3.3.2-5].
func (b *Broker) expireRetained(name string, seq uint64) {
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	b.removeRetained(levelKey(name[len(mq.RetainedInbox):]), seq, mq.DropExpired)
}

// removeRetained removes the retained message of a key, if it is still that with
// the seq. The lock is held.
func (b *Broker) removeRetained(key string, seq uint64, why mq.DropReason) {
	r := &b.retained
	now, ok := r.topics.Get(key)
	if !ok || now.gone || now.seq != seq || now.ops > 0 {
		return
	}
	b.drop(why)
	b.tally(&now, -1)
	now.gone = true
	now.ops++
	r.set(key, now)
	b.submitted(1)
	b.store.Submit(mq.Op{Kind: mq.OpAck, Inbox: now.in, Seq: seq, Owner: &retainNote{key: key, in: now.in, seq: seq}})
}

// setSystem sets the value of one of the server's own topics, which is in
// memory only.
func (r *retainedSet) setSystem(topic string, rec []byte) {
	r.mu.Lock()
	r.set(levelKey(topic), retained{rec: rec})
	r.mu.Unlock()
}

// found is a retained message that matches a filter.
type found struct {
	key string
	retained
}

// matches reports whether a filter has retained messages, or may have.
func (r *retainedSet) matches(filter string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, next := r.find(filter, "", 1, nil)
	return len(list) > 0 || next != ""
}

// maxSteps bounds how many keys one find looks at: the lock is held.
const maxSteps = 200

// find appends to dst the retained messages that match the filter, or may where
// the key has not all of the topic name, in order of their keys from the first at or above from, at most limit. next is where to go
// on, "" at the end. The lock is held.
func (r *retainedSet) find(filter, from string, limit int, dst []found) (list []found, next string) {
	if !strings.ContainsAny(filter, "+#") {
		key := levelKey(filter)
		if v, ok := r.topics.Get(key); ok && !v.gone && key >= from {
			dst = append(dst, found{key, v})
		}
		return dst, ""
	}
	levels := strings.Split(filter, "/")
	it := r.topics.Iter()
	ok := it.Seek(max(from, firstKey(levels)))
	for steps := 0; ok; steps++ {
		key := it.Key()
		if len(dst) >= limit || steps == maxSteps {
			return dst, key
		}
		match, skipTo := compare(levels, key)
		if v := it.Value(); match && !v.gone {
			dst = append(dst, found{key, v})
		}
		switch {
		case !match && skipTo == "":
			return dst, ""
		case skipTo > key:
			ok = it.Seek(skipTo)
		default:
			ok = it.Next()
		}
	}
	return dst, ""
}
