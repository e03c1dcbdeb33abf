package broker

import (
	"bytes"
	"encoding/binary"

	"github.com/homing-mq/homing/internal/mq"
)

// What waits in the store to be published knows on whose behalf: whether they
// still may is asked when the time has come. The form of a delayed message is
//
//	0xE1, client ID, user, access key (each with its length, uvarint), record
//
// and before this was kept, the record alone, whose first byte is another. It is
// published without asking.
const senderForm = 0xE1

// appendSender appends what comes before the record of a delayed message.
func appendSender(b []byte, p *mq.Principal) []byte {
	b = append(b, senderForm)
	for _, s := range []string{p.ClientID, p.User, p.AccessKey} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// senderSize is an upper bound of its length in bytes.
func senderSize(p *mq.Principal) int {
	return 1 + 3*binary.MaxVarintLen32 + len(p.ClientID) + len(p.User) + len(p.AccessKey)
}

// cutSender splits the form of a delayed message; sender is nil if it has none,
// and aliases b. It reports false if b is damaged.
func cutSender(b []byte) (sender, record []byte, ok bool) {
	if len(b) == 0 || b[0] != senderForm {
		return nil, b, true
	}
	at := 1
	for range 3 {
		n, size := binary.Uvarint(b[at:])
		if size <= 0 || n > uint64(len(b)-at-size) {
			return nil, nil, false
		}
		at += size + int(n)
	}
	return b[:at], b[at:], true
}

// behalf remembers the last sender: one after the other often has the same.
type behalf struct {
	form []byte
	who  *mq.Principal
}

// of returns the principal of what cutSender has found; nil: there was none.
func (l *behalf) of(sender []byte) *mq.Principal {
	if len(sender) == 0 {
		return nil
	}
	if l.who != nil && bytes.Equal(l.form, sender) {
		return l.who
	}
	p := new(mq.Principal)
	at := 1
	for _, s := range []*string{&p.ClientID, &p.User, &p.AccessKey} {
		n, size := binary.Uvarint(sender[at:])
		*s = string(sender[at+size:][:n])
		at += size + int(n)
	}
	l.form, l.who = bytes.Clone(sender), p
	return p
}

// decode makes the message of the entry that was read; behalf then has its sender.
func (f *flock) decode(m *mq.Message) bool {
	sender, record, ok := cutSender(f.entries[0].Record)
	f.sender = f.behalf.of(sender)
	return ok && mq.DecodeRecord(m, record) == nil
}

// permitted reports whether the sender of the entry that was read may publish it
// now. It was told OK, and cannot be told otherwise: that goes to the log.
func (f *flock) permitted(m *mq.Message) bool {
	b := f.q.b
	if f.sender == nil {
		return true
	}
	kind, _ := mq.ParseTopic(m.Topic)
	if _, code := b.permits(Source{Principal: f.sender}, m, kind); code != mq.NotAuthorized {
		return true
	}
	if f.warned != f.sender { // it may have sent thousands
		f.warned = f.sender
		b.log.Warn("delayed messages are not published: their sender may not publish there any more",
			"client", f.sender.ClientID, "user", f.sender.User, "access_key", f.sender.AccessKey, "topic", string(m.Topic))
	}
	return false
}
