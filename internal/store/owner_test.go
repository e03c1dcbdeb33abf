package store

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"github.com/homing-mq/homing/internal/mq"
)

func ownersOf(t *testing.T, s *Store) map[string]mq.Owner {
	t.Helper()
	m := map[string]mq.Owner{}
	if err := s.Owners(func(id string, o mq.Owner) error { m[id] = o; return nil }); err != nil {
		t.Fatal(err)
	}
	return m
}

// Owners of sessions and inboxes are there after a power loss; the end of a session
// and the owner of its inbox are one unit.
func TestOwners(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, fs, SyncAlways)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ann, key, anyone := mq.Owner{Kind: mq.KindUser, Name: "ann"}, mq.Owner{Kind: mq.KindKey, Name: "a key/+#"}, mq.Owner{Kind: mq.KindAnonymous}
	sessions := map[string]mq.SessionMeta{
		"ann":    {ExpirySeconds: 60, Owner: ann},
		"key":    {Owner: key, Will: []byte("will"), WillDue: 5, Deadline: 7},
		"anyone": {ExpirySeconds: 1, Owner: anyone},
		"nobody": {ExpirySeconds: 1, Will: []byte("will")},
	}
	for id, m := range sessions {
		check(s.PutSession(id, m))
	}
	check(s.PutSession("ended", mq.SessionMeta{ExpirySeconds: 1, Owner: ann}))
	check(s.DeleteSession("ended", &ann))
	check(s.PutOwner("former", key))
	check(s.PutOwner("gone", ann))
	check(s.PutOwner("gone", mq.Owner{}))
	check(s.PutOwner("gone too", ann))
	check(s.DeleteSession("gone too", &mq.Owner{}))
	check(s.PutOwner("stays", anyone))
	check(s.DeleteSession("stays", nil))
	owners := map[string]mq.Owner{"ended": ann, "former": key, "stays": anyone}
	for range 2 {
		if d := cmp.Diff(sessions, sessionsOf(t, s)); d != "" {
			t.Errorf("sessions -want +got:\n%s", d)
		}
		if d := cmp.Diff(owners, ownersOf(t, s)); d != "" {
			t.Errorf("owners -want +got:\n%s", d)
		}
		check(s.Close())
		fs = fs.CrashClone(vfs.CrashCloneCfg{})
		s = open(t, fs, SyncAlways)
	}
	check(s.Close())
}

// A session of nobody has the form that older versions wrote and read.
func TestSessionOfNobodyHasTheOldForm(t *testing.T) {
	want := append([]byte{2, 0, 0, 0x0E, 0x10, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9}, "will"...)
	sm := mq.SessionMeta{ExpirySeconds: 3600, Deadline: 7, WillDue: 9, Will: []byte("will")}
	if v := sessionValue(&sm); string(v) != string(want) {
		t.Errorf("% x, want % x", v, want)
	}
	if got, ok := parseSession(want); !ok || cmp.Diff(sm, got) != "" {
		t.Errorf("%+v %v", got, ok)
	}
}

// What is damaged is an error that names the client, not an owner.
func TestDamagedOwners(t *testing.T) {
	whole := sessionValue(&mq.SessionMeta{Owner: mq.Owner{Kind: mq.KindUser, Name: "ann"}})
	session := func(owner ...byte) []byte { return append(append([]byte(nil), whole[:sessionSize]...), owner...) }
	owner := appendOwner([]byte{ownerVersion}, mq.Owner{Kind: mq.KindUser, Name: "ann"})
	for key, values := range map[string][][]byte{
		string(sessionKey("bad")): {
			whole[:sessionSize], whole[:len(whole)-1], session(0, 0), session(1, 1, 'x'), session(2, 0), session(4, 1, 'x'), session(2, 200), session(2, 0x80),
		},
		string(ownerKey("bad")): {
			{}, {ownerVersion}, {2, 2, 1, 'x'}, owner[:len(owner)-1], append(owner[:len(owner):len(owner)], 0), {ownerVersion, 0, 0}, {ownerVersion, 9, 1, 'x'},
		},
	} {
		for i, v := range values {
			if _, err := checkValue([]byte(key), v); err == nil || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("%q % x: %v", key, v, err)
			}
			if i > 0 { // one is enough to see that a start looks
				continue
			}
			fs := vfs.NewMem()
			s := open(t, fs, SyncAlways)
			if err := s.meta.current.Load().db.Set([]byte(key), v, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err := Open(Options{Dir: testDir, FS: fs, Sync: SyncAlways}); err == nil || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("%q % x: opens: %v", key, v, err)
				if err == nil {
					s.Close()
				}
			}
		}
	}
}

// A repair saves owners.
func TestRepairSavesOwners(t *testing.T) {
	fs := filled(t)
	s := open(t, fs, SyncAlways)
	ann := mq.Owner{Kind: mq.KindUser, Name: "ann"}
	for _, err := range []error{s.PutOwner("former", ann), s.PutSession("ann", mq.SessionMeta{ExpirySeconds: 9, Owner: ann}), s.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := salvageMeta(fs, fs.PathJoin(testDir, metaName))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.values[string(ownerKey("former"))]; !ok {
		t.Error("the owner of an inbox is lost")
	}
	sm, err := readSession("ann", r.values[string(sessionKey("ann"))])
	if err != nil || sm.Owner != ann {
		t.Errorf("%+v %v", sm, err)
	}
}
