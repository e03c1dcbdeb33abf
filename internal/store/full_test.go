package store

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

func codeOf(err error) mq.Code {
	var e *mq.Error
	switch {
	case err == nil:
		return mq.OK
	case errors.As(err, &e):
		return e.Code
	}
	return 255
}

// At the disk limit of messages nothing new comes into the metadata, and what
// lets devices drain goes on.
func TestMetadataAtDiskLimit(t *testing.T) {
	const segment = 16 << 10
	s, err := Open(Options{Dir: testDir, FS: vfs.NewMem(), SegmentSize: segment, DiskLimit: 12 * segment})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	old := mq.Subscription{Filter: "old", QoS: 1}
	if err := s.PutSession("old", mq.SessionMeta{ExpirySeconds: 5}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutSubscriptions("old", []mq.Subscription{old}); err != nil {
		t.Fatal(err)
	}
	in, seq := s.Inbox("old"), uint64(0)
	eventually(t, "fill the log", func() error {
		seq++
		s.Submit(mq.Op{Kind: mq.OpPut, Inbox: in, Seq: seq, Record: make([]byte, 1000)})
		if codeOf(s.Admit(usualRecord)) != mq.StoreFull {
			return errors.New("not full yet")
		}
		return nil
	})
	for name, c := range map[string]struct {
		err  error
		want mq.Code
	}{
		"a new session":                 {s.PutSession("new", mq.SessionMeta{ExpirySeconds: 5}), mq.StoreFull},
		"a new session with a will":     {s.PutSession("new", mq.SessionMeta{Will: []byte("w")}), mq.StoreFull},
		"an old session leaves":         {s.PutSession("old", mq.SessionMeta{ExpirySeconds: 5, Deadline: 7}), mq.OK},
		"an old session with a will":    {s.PutSession("old", mq.SessionMeta{ExpirySeconds: 5, Will: []byte("w")}), mq.OK},
		"a new subscription":            {s.PutSubscriptions("old", []mq.Subscription{old, {Filter: "new"}}), mq.StoreFull},
		"a subscription that was there": {s.PutSubscriptions("old", []mq.Subscription{{Filter: "old", QoS: 2}}), mq.OK},
		"an end of a subscription":      {s.DeleteSubscriptions("old", []string{"other"}), mq.OK},
		"an end of a session":           {s.DeleteSession("other", nil), mq.OK},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	if err := s.Ready(); codeOf(err) != mq.StoreFull {
		t.Errorf("ready: %v", err)
	}
	if subs, err := s.Subscriptions("old"); err != nil || len(subs) != 1 || subs[0].QoS != 2 {
		t.Errorf("%+v %v", subs, err)
	}
}

// The size of the ballast follows the file system.
func TestBallastSize(t *testing.T) {
	for total, want := range map[uint64]int64{0: 0, 130 << 20: 0, 300 << 20: 9 << 20, 4 << 30: 64 << 20, 1 << 40: 64 << 20} {
		if got := ballastSize(total); got != want {
			t.Errorf("of %d MiB: %d MiB, want %d", total>>20, got>>20, want>>20)
		}
	}
}
