package broker

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"

	"github.com/homing-mq/homing/internal/mq"
)

// PublishLater accepts m now and publishes it at a time of day, Unix ms on the wall
// clock: if that jumps forward m comes early, if it jumps back m comes late. A
// time that has passed means at once. m.Expiry is a time of day like at.
//
// The source may publish m if it may now, with the checks and codes of Publish,
// and if it may then: else m is dropped, as not authorized. done is told OK when m is stored, whatever its QoS, or
// why it was refused. m is borrowed until PublishLater returns. What becomes of m
// later is counted, and told to nobody.
//
// Once published it is safe as any other: QoS 1 may be published again after a
// crash, QoS 2 and 0 are not. From one goroutine to one target, messages come in
// the order of their times, those of the same time in the order of the calls.
func (b *Broker) PublishLater(src Source, m *mq.Message, at int64, done Completer, token uint64, batch *Batch) mq.Code {
	return b.publishAt(ofDay, src, m, at, done, token, batch)
}

// PublishAfter is PublishLater for a message that is published when so many
// milliseconds have passed, whatever the wall clock does meanwhile. m.Expiry is in
// the server's time, as for Publish.
func (b *Broker) PublishAfter(src Source, m *mq.Message, delay int64, done Completer, token uint64, batch *Batch) mq.Code {
	return b.publishAt(passing, src, m, b.Now(batch)+delay, done, token, batch)
}

// Wall returns the wall clock's time in Unix ms: what PublishLater goes by.
func (b *Broker) Wall() int64 { return b.delays.wall() }

func (b *Broker) publishAt(by timing, src Source, m *mq.Message, at int64, done Completer, token uint64, batch *Batch) mq.Code {
	d := &delivery{m: m, origin: done, token: token, from: src.Principal}
	kind, _ := mq.ParseTopic(m.Topic)
	if why, code := b.permits(src, m, kind); code != mq.OK {
		return b.refuse(d, why, code, batch)
	}
	if err := b.store.Admit(mq.RecordSize(m)); err != nil {
		return b.refuse(d, dropOf(err), codeOf(err), batch)
	}
	at = max(at, 1)
	if m.Expiry != 0 {
		at = min(at, m.Expiry) // then it is dropped
	}
	record := make([]byte, 0, senderSize(src.Principal)+mq.RecordSize(m))
	record = mq.AppendRecord(appendSender(record, src.Principal), m)
	op := mq.Op{Kind: mq.OpPut, Flags: mq.Flags(m.QoS), Expiry: at, Record: record}
	switch code := b.delays.put(&later{by, d.by(), done, token}, op); code {
	case mq.DelayedFull:
		return b.refuse(d, mq.DropDelayedFull, code, batch)
	case mq.DelayedBytes:
		return b.refuse(d, mq.DropDelayedBytes, code, batch)
	}
	return mq.OK
}

// later is the owner of the store's op: who is told.
type later struct {
	by     timing
	owner  mq.Account
	origin Completer
	token  uint64
}

// laterDone goes on when the store has a delayed message, or failed to.
func (b *Broker) laterDone(l *later, op *mq.Op, err error, batch *Batch) {
	if err == nil {
		b.Stats.Stored.Add(1)
		b.delays.enqueue(l.by, newDue(op.Expiry, op.Seq, l.owner))
	} else {
		b.delays.give(l.owner, len(op.Record))
		b.drop(dropOf(err))
	}
	batch.complete(l.origin, l.token, codeIf(err))
}

// delays has the messages that wait for their time: each is an entry of one of
// delayedInboxes inboxes, named mq.DelayedInbox and two hexadecimal digits, and
// in memory only its time and its seq. Seqs are given out over all of them, so
// they are the order in which messages came; together with its timing they say
// which inbox has the entry: those from 40 on have what is by the server's time.
//
// An entry goes when its message has been published and is safe, or was dropped.
type delays struct {
	b     *Broker
	wall  func() int64  // Unix ms
	wake  chan struct{} // capacity 1
	held  atomic.Bool   // the server is about to close: nothing is begun
	going atomic.Bool   // something is being handed over

	mu      sync.Mutex // before the store's locks, and no others
	boxes   [timings * delayedInboxes]mq.Inbox
	nextSeq uint64
	count   mq.Quota                    // of messages accepted and not published
	bytes   mq.Quota                    // of their records
	queues  [timings]*btree.BTreeG[due] // what is in the store and not being published
	busy    int                         // being published, and answered soon
	rest    time.Time                   // nothing is begun before
}

// timing is which clock says that a message is due. It is part of the form on disk.
type timing uint8

const (
	ofDay   timing = iota // the wall clock: the sender named a time of day
	passing               // the server's time: the sender said for how long
	timings
)

// due is when an entry is to be published. There may be millions: its seq and on
// whose account it is are in one word.
type due struct {
	at  int64  // Unix ms
	tag uint64 // the seq << accountBits | account
}

const accountBits = 16

func newDue(at int64, seq uint64, owner mq.Account) due {
	return due{at: at, tag: seq<<accountBits | uint64(owner)}
}

func (d due) seq() uint64       { return d.tag >> accountBits }
func (d due) owner() mq.Account { return mq.Account(d.tag) }
func (d due) before(o due) bool { return d.at < o.at || d.at == o.at && d.tag < o.tag }

const (
	// delayedInboxes is how many inboxes share the entries: the store copies the
	// index of an inbox now and then, and everybody waits meanwhile. It is part of
	// the form on disk.
	delayedInboxes = 64
	// listSize is how many entries are asked for at a time at start-up.
	listSize = 100
	// maxFlying is how many messages are being published at a time.
	maxFlying = 1000
	// maxFlock is how many are taken from the queue at a time.
	maxFlock = 100
	// delayRetry is when a message is tried again that the store could not read or
	// take, milliseconds; delayRest is after how long others are tried.
	delayRetry = 10_000
	delayRest  = 10 * time.Millisecond
	// clockCheck is how often the clock is looked at for a jump.
	clockCheck = time.Second
)

func (q *delays) init(b *Broker) {
	q.b, q.wall = b, b.opt.wall
	if q.wall == nil {
		q.wall = b.clock.Wall
	}
	q.wake = make(chan struct{}, 1)
	q.nextSeq = 1
	for by := range q.queues {
		q.queues[by] = btree.NewBTreeGOptions(due.before, btree.Options{NoLocks: true})
	}
}

func delayedInbox(i int) string { return fmt.Sprintf("%s%02x", mq.DelayedInbox, i) }

// load finds what waits after a restart. It reads nothing from disk.
func (q *delays) load() error {
	var list []mq.Entry
	for i := range q.boxes {
		in, ok := q.b.store.Lookup(delayedInbox(i))
		if !ok {
			continue
		}
		q.boxes[i] = in
		q.nextSeq = max(q.nextSeq, q.b.store.NextSeq(in))
		for after := uint64(0); ; after = list[len(list)-1].Seq {
			if list = q.b.store.List(in, after, listSize, list[:0]); len(list) == 0 {
				break
			}
			for _, e := range list {
				if e.Seq%delayedInboxes != uint64(i%delayedInboxes) {
					return fmt.Errorf("delayed message %d is in inbox %d of %d", e.Seq, i, len(q.boxes))
				}
				q.queues[i/delayedInboxes].Set(newDue(e.Expiry, e.Seq, mq.Nobody))
			}
			q.count.Add(mq.Nobody, int64(len(list)))
		}
		q.bytes.Add(mq.Nobody, q.b.store.Stats(in).Bytes)
		q.publishStats()
	}
	return nil
}

// box returns the inbox that has or will have an entry. q is locked.
func (q *delays) box(by timing, seq uint64) mq.Inbox {
	i := uint64(by)*delayedInboxes + seq%delayedInboxes
	if q.boxes[i] == mq.NoInbox {
		q.boxes[i] = q.b.store.Inbox(delayedInbox(int(i)))
	}
	return q.boxes[i]
}

// enqueue lets a stored message wait for its time.
func (q *delays) enqueue(by timing, d due) {
	q.mu.Lock()
	first, some := q.queues[by].Min()
	q.queues[by].Set(d)
	q.mu.Unlock()
	if !some || d.before(first) {
		q.poke()
	}
}

// poke makes run look again.
func (q *delays) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run is the goroutine that publishes what is due.
func (q *delays) run() {
	f := flock{q: q}
	var list []*flight
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-q.wake:
		case <-q.b.stop:
			return
		}
		for list = q.take(list[:0]); len(list) > 0; list = q.take(list[:0]) {
			q.b.store.Throttle()
			f.publish(list)
			q.going.Store(false)
		}
		timer.Reset(q.idle())
	}
}

// now is what the clocks say.
func (q *delays) now() [timings]int64 {
	return [timings]int64{ofDay: q.wall(), passing: q.b.clock.Now()}
}

// first returns what is due before all else, and in how many ms. q is locked.
func (q *delays) first(now [timings]int64) (by timing, d due, in int64, some bool) {
	for t, queue := range q.queues {
		if one, ok := queue.Min(); ok {
			left := one.at - now[t]
			if !some || left < in || left == in && one.tag < d.tag {
				by, d, in, some = timing(t), one, left, true
			}
		}
	}
	return by, d, in, some
}

// take moves what is due, in order, from the queue to dst.
func (q *delays) take(dst []*flight) []*flight {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held.Load() || time.Until(q.rest) > 0 {
		return dst
	}
	for q.busy < maxFlying && len(dst) < maxFlock {
		by, d, in, ok := q.first(now)
		if !ok || in > 0 {
			break
		}
		q.queues[by].PopMin()
		q.busy++
		dst = append(dst, &flight{q: q, by: by, in: q.box(by, d.seq()), seq: d.seq(), owner: d.owner(), soon: true})
	}
	q.going.Store(len(dst) > 0)
	return dst
}

// hold makes sure that nothing is begun from now on, and waits for what was, at
// most until a time. What is due is published after the next start.
func (q *delays) hold(end time.Time) {
	q.mu.Lock()
	q.held.Store(true)
	q.mu.Unlock()
	for q.going.Load() && time.Now().Before(end) {
		time.Sleep(100 * time.Microsecond)
	}
}

// idle is for how long there is nothing to do, unless poked.
func (q *delays) idle() time.Duration {
	now := q.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	_, _, in, ok := q.first(now)
	switch {
	case !ok, q.busy >= maxFlying, q.held.Load():
		return math.MaxInt64
	case in >= clockCheck.Milliseconds():
		return clockCheck
	}
	return max(time.Duration(in)*time.Millisecond, time.Until(q.rest), 0)
}

// again reports whether a publish that was not possible may be later.
func again(code mq.Code) bool {
	return code == mq.StoreFull || code == mq.StoreFailed || code == mq.ShuttingDown
}

// flight is an entry that is being published: what is told the outcome.
type flight struct {
	q   *delays
	by  timing
	in  mq.Inbox
	seq uint64
	// What it counts in delays: on whose account, and the size of its record.
	owner mq.Account
	size  int
	// soon: it is answered soon, and counts in delays.busy until then.
	soon bool
}

// Complete implements Completer: the message is safe, or was refused.
func (f *flight) Complete(_ uint64, code mq.Code, _ *Batch) {
	if again(code) {
		f.retry()
		return
	}
	f.q.b.store.Submit(f.ack())
	f.end()
}

func (f *flight) ack() mq.Op { return mq.Op{Kind: mq.OpAck, Inbox: f.in, Seq: f.seq} }

// end is called when the entry is gone from the store.
func (f *flight) end() {
	f.q.give(f.owner, f.size)
	f.land()
}

// retry lets the message wait again.
func (f *flight) retry() {
	q := f.q
	f.land()
	q.mu.Lock()
	q.rest = time.Now().Add(delayRest)
	q.mu.Unlock()
	q.enqueue(f.by, newDue(q.now()[f.by]+delayRetry, f.seq, f.owner))
}

// land gives up the place among those that are being published.
func (f *flight) land() {
	if !f.soon {
		return
	}
	f.soon = false
	q := f.q
	q.mu.Lock()
	full := q.busy >= maxFlying
	q.busy--
	q.mu.Unlock()
	if full {
		q.poke()
	}
}

// flock is what the goroutine publishes together: about readBytes, or one message.
type flock struct {
	q       *delays
	flights []*flight
	msgs    []mq.Message // of flights; alias buf
	buf     []byte
	entries []mq.Entry
	acks    []mq.Op
	behalf  behalf
	sender  *mq.Principal // of the entry that was read; nil: not known
	warned  *mq.Principal // the last one of whom the log says that it may not
	batch   Batch
}

// publish publishes what is in the list, in order, until delays.held.
func (f *flock) publish(list []*flight) {
	b := f.q.b
	for len(list) > 0 && !f.q.held.Load() {
		list = f.read(list)
		settled := f.settle()
		f.batch.Begin()
		for i, one := range f.flights {
			m := &f.msgs[i]
			switch {
			case m.QoS > 0:
				one.publish(m, &f.batch)
			case settled:
				b.release(&delivery{m: m, delayed: true, account: one.owner}, &f.batch)
				one.end()
			default:
				one.retry()
			}
		}
		f.batch.Flush()
		if cap(f.buf) > maxScratch+readBytes {
			*f = flock{q: f.q}
		}
	}
}

// read reads the next messages of the list, deals with those that cannot be
// published, and returns the rest of the list.
func (f *flock) read(list []*flight) []*flight {
	f.flights, f.msgs, f.buf = f.flights[:0], f.msgs[:0], f.buf[:0]
	for len(list) > 0 && len(f.buf) < readBytes {
		var m mq.Message
		if f.fetch(list[0], &m) {
			f.flights, f.msgs = append(f.flights, list[0]), append(f.msgs, m)
		}
		list = list[1:]
	}
	return list
}

// fetch reads the message of an entry. It reports false if there is nothing to
// publish now.
func (f *flock) fetch(one *flight, m *mq.Message) bool {
	b, now := f.q.b, f.q.now()
	if seq, size, ok := b.store.Oldest(one.in, one.seq-1); ok && seq == one.seq {
		one.size = size
	}
	var err error
	f.entries, f.buf, err = b.store.Read(one.in, one.seq-1, one.seq, 1, f.entries[:0], f.buf)
	switch {
	case err != nil:
		if _, giveUp, _ := b.judge(delayedInbox(int(one.seq%delayedInboxes)), err); !giveUp {
			one.retry()
			break
		}
		b.drop(mq.DropStoreFailed)
		one.Complete(0, mq.OK, &f.batch)
	case len(f.entries) == 0:
		one.end()
	case !f.decode(m):
		b.log.Error("a delayed message cannot be decoded; it is dropped", "seq", one.seq)
		b.drop(mq.DropStoreFailed)
		one.Complete(0, mq.OK, &f.batch)
	case !f.permitted(m):
		b.drop(mq.DropNotAuthorized)
		one.Complete(0, mq.OK, &f.batch)
	case m.Expired(now[one.by]):
		b.drop(mq.DropExpired)
		one.Complete(0, mq.OK, &f.batch)
	default:
		if m.Expiry != 0 { // from now on in the server's time, whatever it was in
			m.Expiry += now[passing] - now[one.by]
		}
		return true
	}
	return false
}

// settle removes the QoS 0 messages of what was read from the store before they
// are published: after a crash they must not come twice. It reports whether that
// is done.
func (f *flock) settle() bool {
	f.acks = f.acks[:0]
	for i, one := range f.flights {
		if f.msgs[i].QoS == 0 {
			f.acks = append(f.acks, one.ack())
		}
	}
	return len(f.acks) == 0 || f.q.b.wait(f.acks...) == nil
}

// publish publishes a message with QoS 1 or 2.
func (f *flight) publish(m *mq.Message, batch *Batch) {
	if !f.q.b.answersSoon(m.Topic) {
		f.land() // it need not be: the memory of its target bounds it
	}
	d := &delivery{m: m, origin: f, delayed: true, account: f.owner}
	if m.QoS == 2 {
		d.along = f.ack()
	}
	f.q.b.release(d, batch)
}

// release is publish for a message that is permitted.
func (b *Broker) release(d *delivery, batch *Batch) {
	kind, target := mq.ParseTopic(d.m.Topic)
	b.route(Source{}, d, kind, target, batch)
}
