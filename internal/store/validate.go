package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/homing-mq/homing/internal/mq"
)

// contents counts what is in the metadata.
type contents struct {
	sessions, subscriptions int
}

// validate reads all of the metadata: each block that is needed must match its
// checksum, and each value have a form that is known. It takes a second for a
// million sessions.
func validate(db *pebble.DB) (c contents, err error) {
	err = eachKey(db, false, func(k, v []byte) error {
		kind, err := checkValue(k, v)
		switch kind {
		case keySession:
			c.sessions++
		case keySubscription:
			c.subscriptions++
		}
		return err
	})
	return c, err
}

// checkValue reports the kind of a key, and whether its value can be read.
func checkValue(k, v []byte) (kind byte, err error) {
	switch kind = k[0]; kind {
	case keySession:
		_, err = readSession(string(k[1:]), v)
	case keyOwner:
		_, err = readOwner(string(k[1:]), v)
	case keySubscription:
		if len(k) < 3 || len(k) < 3+int(binary.BigEndian.Uint16(k[1:])) {
			return kind, metaError(fmt.Errorf("the key %q of a subscription has an unknown form", k))
		}
		id := 3 + int(binary.BigEndian.Uint16(k[1:]))
		_, err = readSubscription(string(k[3:id]), string(k[id:]), v)
	}
	return kind, err
}

// validate is the same of an open store, with an error that says what to do. It
// returns the number of sessions.
func (m *meta) validate() (sessions int, err error) {
	in := m.current.Load() // nobody else uses it
	c, err := validate(in.db)
	if e := in.failed.Load(); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, openError(fmt.Errorf("read metadata in %s: %w", m.o.dir, err))
	}
	return c.sessions, nil
}

// openError adds to an error of opening the metadata what helps, if it is not
// one of the moment.
func openError(err error) error {
	var known *mq.Error
	var corrupt *CorruptError
	var errno syscall.Errno
	if errors.As(err, &known) && known.Code == mq.StoreFull || errors.As(err, &corrupt) || errors.As(err, &errno) && errno != syscall.ENOENT {
		return err
	}
	return fmt.Errorf("%w; `homing store check` shows all damage, `homing store repair` moves what is damaged aside and saves the rest", err)
}
