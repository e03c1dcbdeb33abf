package broker

import (
	"encoding/binary"
	"errors"

	"github.com/homing-mq/homing/internal/mq"
)

// Will is the message to publish when a connection ends without a proper
// DISCONNECT [MQTT-3.1.2-8] [MQTT3-3.1.2-8]. It is stored before CONNECT is accepted
// [MQTT-3.1.2-7], so it is published also after a crash of the server: then
// its delay counts from the restart.
type Will struct {
	Message   mq.Message   // Expiry is 0: it begins when the will is published
	Principal mq.Principal // whose rules hold; its client ID need not be set
	Delay     uint32       // seconds [MQTT-3.1.3-9]
	Expires   bool
	Expiry    uint32 // seconds from publication, if Expires

	size  int64 // bytes that it counts in Broker.willed; 0: it does not
	due   int64 // Unix ms when it is published; 0: the client is connected
	left  bool  // its message is in the store only: it may wait for years
	timer timer // in Broker.wills from then on
}

const willForm = 1

var errWillForm = errors.New("a stored will has an unknown form")

// encode returns the form that the store keeps:
//
//	1, delay u32, expires 0 or 1, expiry u32, user, access key (each with its length, uvarint), record
func (w *Will) encode() []byte {
	if w == nil {
		return nil
	}
	b := make([]byte, 0, w.formSize())
	b = append(b, willForm)
	b = binary.BigEndian.AppendUint32(b, w.Delay)
	b = append(b, 0)
	if w.Expires {
		b[len(b)-1] = 1
	}
	b = binary.BigEndian.AppendUint32(b, w.Expiry)
	for _, s := range []string{w.Principal.User, w.Principal.AccessKey} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return mq.AppendRecord(b, &w.Message)
}

// formSize is an upper bound of the size of what encode returns, bytes.
func (w *Will) formSize() int {
	return 16 + len(w.Principal.User) + len(w.Principal.AccessKey) + mq.RecordSize(&w.Message)
}

// decodeWill is the reverse; the will aliases b.
func decodeWill(b []byte, clientID string) (*Will, error) {
	if len(b) < 10 || b[0] != willForm {
		return nil, errWillForm
	}
	w := &Will{timer: timer{id: clientID}, Delay: binary.BigEndian.Uint32(b[1:]), Expires: b[5] != 0, Expiry: binary.BigEndian.Uint32(b[6:])}
	w.Principal.ClientID = clientID
	b = b[10:]
	for _, s := range []*string{&w.Principal.User, &w.Principal.AccessKey} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return nil, errWillForm
		}
		*s = string(b[size : size+int(n)])
		b = b[size+int(n):]
	}
	if err := mq.DecodeRecord(&w.Message, b); err != nil {
		return nil, errWillForm
	}
	return w, nil
}

// leave gives up the memory of a will that the store has.
func (w *Will) leave() { w.Message, w.left = mq.Message{}, true }

// stored returns the form of a will that the store has, or is to have.
func (b *Broker) stored(w *Will) ([]byte, error) {
	if !w.left {
		return w.encode(), nil
	}
	meta, _, err := b.store.Session(w.timer.id)
	return meta.Will, err
}

// message returns the message of a will as it is to be published at now.
func (b *Broker) message(w *Will, now int64) (m mq.Message, err error) {
	if m = w.Message; w.left {
		var form []byte
		var full *Will
		if form, err = b.stored(w); err == nil {
			full, err = decodeWill(form, w.timer.id)
		}
		if err != nil {
			return m, err
		}
		m = full.Message
	}
	if w.Expires {
		m.Expiry = now + int64(w.Expiry)*1000
	}
	return m, nil
}

// takeWill removes the will of the session, which is locked, and returns it if
// it is to be published.
func (s *Session) takeWill(publish bool) *Will {
	w := s.will
	s.will = nil
	if w != nil && w.due != 0 {
		s.b.wills.remove(&w.timer)
	}
	if !publish {
		s.b.willed.drop(w)
		return nil
	}
	return w
}

// delayWill lets the will of a session that is now offline wait for its time.
// s is locked.
func (s *Session) delayWill(now int64) {
	s.will.due = now + int64(min(s.will.Delay, s.expiry))*1000
	s.will.timer.id = s.id
	s.b.wills.set(&s.will.timer, s.will.due)
}

// publishWill publishes w, if there is one, and waits until it is safe or
// refused. It reports false if the store must not forget it: the server closes,
// or could not store it. No lock may be held, and the batch is flushed.
func (b *Broker) publishWill(w *Will, batch *Batch) (settled bool) {
	batch.Flush()
	if w == nil {
		return true
	}
	batch.Begin()
	m, err := b.message(w, b.Now(batch))
	if err != nil {
		b.log.Error("cannot read a will", "client", w.Principal.ClientID, "error", err)
		b.drop(mq.DropStoreFailed)
		return false
	}
	done := make(answer, 1)
	// On behalf of the name: its connection may have been closed because the login
	// had ended.
	who := w.Principal
	who.Standing = nil
	code := b.Publish(Source{Principal: &who}, &m, done, 0, batch)
	batch.Flush()
	if m.QoS > 0 && b.answersSoon(m.Topic) {
		select {
		case code = <-done:
		case <-b.stop:
			return false
		}
	}
	if code != mq.OK && code != mq.NoTarget {
		b.log.Warn("a will was not published", "client", w.Principal.ClientID, "topic", string(m.Topic), "reason", code.String())
	}
	if code == mq.ShuttingDown || code == mq.StoreFull || code == mq.StoreFailed {
		return false
	}
	b.willed.drop(w)
	return true
}

// answersSoon reports whether a publish to the topic is answered without the
// target: it is, unless it is never stored.
func (b *Broker) answersSoon(topic []byte) bool {
	kind, _ := mq.ParseTopic(topic)
	return kind != mq.TopicP2P || b.opt.Keep != KeepNever
}

// answer is a Completer whose publisher waits. Its capacity must be 1.
type answer chan mq.Code

// Complete implements Completer.
func (a answer) Complete(_ uint64, code mq.Code, _ *Batch) { a <- code }

// fireWills publishes the wills of offline sessions whose delay is over.
func (b *Broker) fireWills(now int64) {
	for {
		t := b.wills.next(now)
		if t == nil {
			return
		}
		s := b.lockedIfKnown([]byte(t.id))
		if s == nil {
			continue
		}
		switch {
		case s.will == nil || t != &s.will.timer:
			s.unlock()
		case s.busy != nil || s.will.due > now || s.deadline != 0 && s.deadline <= now: // the last: its end publishes it
			b.wills.set(&s.will.timer, max(s.will.due, now+200))
			s.mu.Unlock()
		default:
			w := s.takeWill(true)
			s.occupy()
			s.mu.Unlock()
			b.background(func(batch *Batch) {
				settled := b.publishWill(w, batch)
				if settled {
					s.keepMeta()
				}
				s.mu.Lock()
				if !settled { // the store may take it later
					s.retryWill(w, b.Now(batch))
				}
				s.vacate()
				s.unlock()
			})
		}
	}
}

// retryWill puts back a will that the store could not take. s is locked and busy.
func (s *Session) retryWill(w *Will, now int64) {
	s.will, w.due = w, now+willRetry
	w.timer.id = s.id
	s.b.wills.set(&w.timer, w.due)
}

// willRetry is when a will that could not be stored is tried again,
// milliseconds.
const willRetry = 10_000

// background runs f, which may wait for the store, beside the housekeeping. It
// waits itself while many run.
func (b *Broker) background(f func(*Batch)) {
	b.slots <- struct{}{}
	b.wg.Go(func() {
		defer func() { <-b.slots }()
		var batch Batch
		batch.Begin()
		f(&batch)
		batch.Flush()
	})
}

// backgroundSlots bounds what runs in the background at a time.
const backgroundSlots = 64
