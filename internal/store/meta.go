package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/homing-mq/homing/internal/mq"
)

// Keys of the metadata. The first byte is the kind, so that one kind is one
// range; a client ID inside a key has its length in front, so that what belongs
// to one client is one range, too, and no ID is the prefix of another's.
//
//	's' clientID                              session: version 3, expiry u32 BE, deadline i64 BE,
//	                                          time the will is due i64 BE, owner, will (empty: none)
//	'f' len(clientID) u16 BE, clientID, filter  subscription: version 1, options, ID uvarint
//	'o' clientID                              whose messages wait in the inbox of a client without session:
//	                                          version 1, owner
//
// An owner is its kind, one byte, and the length of its name, uvarint, and the
// name.
//
// Version 2 of a session has no owner, and is written for one that belongs to
// nobody. Version 1 ends after the deadline besides. It is read, not written.
//
// Taken for later: 'u' user (credentials), 'd' device key (device credentials),
// 'v' (version of this key space, absent: 1).
const (
	keySession      = 's'
	keySubscription = 'f'
	keyOwner        = 'o'

	subscriptionVersion = 1
	sessionVersion      = 3
	sessionUnowned      = 2
	ownerVersion        = 1

	sessionSize1 = 1 + 4 + 8        // of a session of version 1, in bytes
	sessionSize  = sessionSize1 + 8 // of one without owner and will
)

// Bits of a subscription's options byte.
const (
	subQoS               = 0x03
	subNoLocal           = 0x04
	subRetainAsPublished = 0x08
	subRetainHandling    = 0x30
	subRetainShift       = 4
	subRetainedOwed      = 0x40
	subReader            = 0x80
)

func sessionKey(clientID string) []byte { return append([]byte{keySession}, clientID...) }

// subscriptionKey returns the key of a subscription, or with an empty filter
// the prefix of all of the client's.
func subscriptionKey(clientID, filter string) []byte {
	k := make([]byte, 0, 3+len(clientID)+len(filter))
	k = append(k, keySubscription)
	k = binary.BigEndian.AppendUint16(k, uint16(len(clientID)))
	k = append(k, clientID...)
	return append(k, filter...)
}

// after returns the first key that does not start with prefix. Its last byte
// is not 0xFF forever, because the first is a kind.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; ; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
}

// PutSession stores what outlives a restart of a session. At the disk limit it
// refuses a session that is new with StoreFull; others may come and go.
func (s *Store) PutSession(clientID string, sm mq.SessionMeta) error {
	if full := s.full(); full != nil {
		if known, err := s.meta.has(sessionKey(clientID)); err != nil || !known {
			return cmp.Or(err, full)
		}
	}
	return s.meta.commit(func(_ *incarnation, b *pebble.Batch) error {
		return b.Set(sessionKey(clientID), sessionValue(&sm), nil)
	})
}

func sessionValue(sm *mq.SessionMeta) []byte {
	v := make([]byte, 0, sessionSize+ownerSize(sm.Owner)+len(sm.Will))
	v = append(v, sessionVersion)
	if sm.Owner == (mq.Owner{}) {
		v[0] = sessionUnowned
	}
	v = binary.BigEndian.AppendUint32(v, sm.ExpirySeconds)
	v = binary.BigEndian.AppendUint64(v, uint64(sm.Deadline))
	v = binary.BigEndian.AppendUint64(v, uint64(sm.WillDue))
	if v[0] == sessionVersion {
		v = appendOwner(v, sm.Owner)
	}
	return append(v, sm.Will...)
}

// parseSession is the reverse of sessionValue, and reads older versions. What
// it returns does not alias v.
func parseSession(v []byte) (sm mq.SessionMeta, ok bool) {
	switch {
	case len(v) == sessionSize1 && v[0] == 1:
	case len(v) >= sessionSize && (v[0] == sessionVersion || v[0] == sessionUnowned):
		sm.WillDue = int64(binary.BigEndian.Uint64(v[sessionSize1:]))
		rest := v[sessionSize:]
		if v[0] == sessionVersion {
			if sm.Owner, rest, ok = cutOwner(rest); !ok {
				return mq.SessionMeta{}, false
			}
		}
		if len(rest) > 0 {
			sm.Will = bytes.Clone(rest)
		}
	default:
		return sm, false
	}
	sm.ExpirySeconds = binary.BigEndian.Uint32(v[1:])
	sm.Deadline = int64(binary.BigEndian.Uint64(v[5:]))
	return sm, true
}

// DeleteSession removes a session and its subscriptions and, if inbox is not nil,
// puts whom the inbox belongs to, as one unit.
func (s *Store) DeleteSession(clientID string, inbox *mq.Owner) error {
	return s.meta.commit(func(in *incarnation, b *pebble.Batch) error {
		if err := b.Delete(sessionKey(clientID), nil); err != nil { // fails for a closed batch only
			return err
		}
		if inbox != nil {
			if err := putOwner(b, clientID, *inbox); err != nil {
				return err
			}
		}
		// One by one: most sessions have few, and a range tombstone for each
		// session that ends would cost every later reader.
		return in.scan(subscriptionKey(clientID, ""), func(k, _ []byte) error { return b.Delete(k, nil) })
	})
}

// Sessions calls yield for every session until it fails.
func (s *Store) Sessions(yield func(clientID string, sm mq.SessionMeta) error) error {
	return s.meta.scan([]byte{keySession}, func(k, v []byte) error {
		id := string(k[1:])
		sm, err := readSession(id, v)
		if err != nil {
			return err
		}
		return yield(id, sm)
	})
}

// Session returns the metadata of one session, and whether there is any.
func (s *Store) Session(clientID string) (sm mq.SessionMeta, ok bool, err error) {
	ok, err = s.meta.get(sessionKey(clientID), func(v []byte) (err error) {
		sm, err = readSession(clientID, v)
		return err
	})
	return sm, ok && err == nil, err
}

// readSession is parseSession with an error that names the client.
func readSession(clientID string, v []byte) (mq.SessionMeta, error) {
	sm, ok := parseSession(v)
	if !ok {
		return sm, metaError(fmt.Errorf("session %q has an unknown form", clientID))
	}
	return sm, nil
}

// full returns the error of what makes the store grow if it is at its disk limit,
// which is that of messages.
func (s *Store) full() error {
	err := s.Admit(usualRecord)
	if err == nil { // before anything is allocated
		return nil
	}
	var e *mq.Error
	if errors.As(err, &e) && e.Code == mq.StoreFull {
		return err
	}
	return nil
}

// PutSubscriptions adds subscriptions of a session, or changes their options. At
// the disk limit it refuses new ones with StoreFull.
func (s *Store) PutSubscriptions(clientID string, subs []mq.Subscription) error {
	if full := s.full(); full != nil {
		for i := range subs {
			if known, err := s.meta.has(subscriptionKey(clientID, subs[i].Filter)); err != nil || !known {
				return cmp.Or(err, full)
			}
		}
	}
	return s.meta.commit(func(_ *incarnation, b *pebble.Batch) error {
		for i := range subs {
			if err := b.Set(subscriptionKey(clientID, subs[i].Filter), subscriptionValue(&subs[i]), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func subscriptionValue(sub *mq.Subscription) []byte {
	o := byte(sub.QoS)&subQoS | sub.RetainHandling<<subRetainShift&subRetainHandling
	if sub.NoLocal {
		o |= subNoLocal
	}
	if sub.RetainAsPublished {
		o |= subRetainAsPublished
	}
	if sub.RetainedOwed {
		o |= subRetainedOwed
	}
	if sub.Reader != nil {
		o |= subReader
	}
	v := binary.AppendUvarint([]byte{subscriptionVersion, o}, uint64(sub.ID))
	if sub.Reader != nil {
		for _, s := range []string{sub.Reader.User, sub.Reader.AccessKey} {
			v = binary.AppendUvarint(v, uint64(len(s)))
			v = append(v, s...)
		}
	}
	return v
}

// cutReader reads who subscribed from the end of a subscription's value.
func cutReader(v []byte, clientID string) (*mq.Principal, bool) {
	p := &mq.Principal{ClientID: clientID}
	for _, s := range []*string{&p.User, &p.AccessKey} {
		size, n := binary.Uvarint(v)
		if n <= 0 || size > uint64(len(v)-n) {
			return nil, false
		}
		*s = string(v[n : n+int(size)])
		v = v[n+int(size):]
	}
	return p, len(v) == 0
}

// DeleteSubscriptions removes subscriptions by their filters.
func (s *Store) DeleteSubscriptions(clientID string, filters []string) error {
	return s.meta.commit(func(_ *incarnation, b *pebble.Batch) error {
		for _, f := range filters {
			if err := b.Delete(subscriptionKey(clientID, f), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// Subscriptions returns the subscriptions of a session by filter.
func (s *Store) Subscriptions(clientID string) ([]mq.Subscription, error) {
	var subs []mq.Subscription
	prefix := subscriptionKey(clientID, "")
	err := s.meta.scan(prefix, func(k, v []byte) error {
		sub, err := readSubscription(clientID, string(k[len(prefix):]), v)
		subs = append(subs, sub)
		return err
	})
	if err != nil {
		return nil, err
	}
	return subs, nil
}

// readSubscription is the reverse of subscriptionValue.
func readSubscription(clientID, filter string, v []byte) (mq.Subscription, error) {
	if len(v) < 3 || v[0] != subscriptionVersion {
		return mq.Subscription{}, metaError(fmt.Errorf("subscription of %q has an unknown form", clientID))
	}
	id, n := binary.Uvarint(v[2:])
	if n <= 0 {
		return mq.Subscription{}, metaError(fmt.Errorf("subscription of %q has a malformed identifier", clientID))
	}
	var reader *mq.Principal
	if v[1]&subReader != 0 {
		var ok bool
		if reader, ok = cutReader(v[2+n:], clientID); !ok {
			return mq.Subscription{}, metaError(fmt.Errorf("subscription of %q has a malformed reader", clientID))
		}
	}
	return mq.Subscription{
		Reader:            reader,
		Filter:            filter,
		QoS:               mq.QoS(v[1] & subQoS),
		NoLocal:           v[1]&subNoLocal != 0,
		RetainAsPublished: v[1]&subRetainAsPublished != 0,
		RetainHandling:    v[1] & subRetainHandling >> subRetainShift,
		ID:                uint32(id),
		RetainedOwed:      v[1]&subRetainedOwed != 0,
	}, nil
}
