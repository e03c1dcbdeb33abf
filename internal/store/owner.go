package store

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/homing-mq/homing/internal/mq"
)

func ownerKey(clientID string) []byte { return append([]byte{keyOwner}, clientID...) }

// ownerSize is how many bytes appendOwner appends at most.
func ownerSize(o mq.Owner) int { return 1 + binary.MaxVarintLen32 + len(o.Name) }

func appendOwner(v []byte, o mq.Owner) []byte {
	v = append(v, byte(o.Kind))
	v = binary.AppendUvarint(v, uint64(len(o.Name)))
	return append(v, o.Name...)
}

// cutOwner reads an owner that is known from the start of v. What it returns does
// not alias v, but rest.
func cutOwner(v []byte) (o mq.Owner, rest []byte, ok bool) {
	if len(v) == 0 {
		return o, nil, false
	}
	size, n := binary.Uvarint(v[1:])
	if n <= 0 || size > uint64(len(v)-1-n) {
		return o, nil, false
	}
	name := v[1+n:]
	o = mq.Owner{Kind: mq.PrincipalKind(v[0]), Name: string(name[:size])}
	return o, name[size:], o.Valid()
}

// PutOwner stores whom the messages belong to that wait in the inbox of a client
// without a session, or deletes that. It is not refused at the disk limit: there
// is one at most for each inbox with messages.
func (s *Store) PutOwner(clientID string, inbox mq.Owner) error {
	return s.meta.commit(func(_ *incarnation, b *pebble.Batch) error { return putOwner(b, clientID, inbox) })
}

func putOwner(b *pebble.Batch, clientID string, inbox mq.Owner) error {
	if inbox == (mq.Owner{}) {
		return b.Delete(ownerKey(clientID), nil)
	}
	return b.Set(ownerKey(clientID), appendOwner([]byte{ownerVersion}, inbox), nil)
}

// Owners calls yield for every owner of an inbox until it fails.
func (s *Store) Owners(yield func(clientID string, inbox mq.Owner) error) error {
	return s.meta.scan([]byte{keyOwner}, func(k, v []byte) error {
		id := string(k[1:])
		o, err := readOwner(id, v)
		if err != nil {
			return err
		}
		return yield(id, o)
	})
}

// readOwner is the reverse of putOwner.
func readOwner(clientID string, v []byte) (mq.Owner, error) {
	if len(v) > 0 && v[0] == ownerVersion {
		if o, rest, ok := cutOwner(v[1:]); ok && len(rest) == 0 {
			return o, nil
		}
	}
	return mq.Owner{}, metaError(fmt.Errorf("the owner of the inbox of %q has an unknown form", clientID))
}
