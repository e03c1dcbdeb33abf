package auth

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/homing-mq/homing/internal/mq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newAuth(t *testing.T, o Options) *Auth {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// usersFile writes users whose hashes are cheap to check.
func usersFile(t *testing.T, users ...FileUser) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yml")
	if err := (&UsersFile{Users: users}).Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func hashed(t *testing.T, name, password string) FileUser {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return FileUser{Name: name, Hash: string(h)}
}

func login(clientID, user, password string) *mq.Credentials {
	return &mq.Credentials{
		ClientID: clientID, HasUsername: true, Username: user, HasPassword: true, Password: []byte(password),
		Remote: netip.MustParseAddr("192.0.2.1"),
	}
}

// wantCode fails unless err carries the code; ok stands for no error.
func wantCode(t *testing.T, err error, want mq.Code) {
	t.Helper()
	got := mq.OK
	var e *mq.Error
	if errors.As(err, &e) {
		got = e.Code
	} else if err != nil {
		t.Fatalf("error %v is no *mq.Error", err)
	}
	if got != want {
		t.Fatalf("got %v (%v), want %v", got, err, want)
	}
}

const vectorPassword = "vI009IZJZVGRwBwZvnbwjfuXxVM="

func TestSignVector(t *testing.T) {
	if got := Sign("XXXXX", "GID_Test@@@0001"); got != vectorPassword {
		t.Errorf("got %q, want %q", got, vectorPassword)
	}
}

func TestAuthenticate(t *testing.T) {
	const id = "GID_Test@@@0001"
	keys := []AccessKey{{"AK", "XXXXX"}, {"AK2", "other"}}
	users := usersFile(t, hashed(t, "alice", "wonder"), FileUser{Name: "bob", Secret: "XXXXX"})
	full := Options{AccessKeys: keys, UsersFile: users}
	withAnonymous := full
	withAnonymous.Anonymous = true
	group := Options{AccessKeys: keys, GroupClientID: true}

	nobody := &mq.Credentials{ClientID: id}
	emptyName := login(id, "", "")
	for _, tt := range []struct {
		name    string
		options Options
		c       *mq.Credentials
		code    mq.Code
		want    mq.Principal
		text    string // part of the error
	}{
		{name: "vector", options: full, c: login(id, "Signature|AK|inst", vectorPassword), want: mq.Principal{Kind: mq.KindKey, AccessKey: "AK"}},
		{name: "empty instance", options: full, c: login(id, "Signature|AK|", vectorPassword), want: mq.Principal{Kind: mq.KindKey, AccessKey: "AK"}},
		{name: "instance with |", options: full, c: login(id, "Signature|AK|a|b", vectorPassword), want: mq.Principal{Kind: mq.KindKey, AccessKey: "AK"}},
		{name: "no instance", options: full, c: login(id, "Signature|AK", vectorPassword), code: mq.BadCredentials, text: "Signature|{accessKey}|{instance}"},
		{name: "other key", options: full, c: login(id, "Signature|AK2|i", vectorPassword), code: mq.BadCredentials},
		{name: "unknown key", options: full, c: login(id, "Signature|AK3|i", vectorPassword), code: mq.BadCredentials},
		{name: "empty key", options: full, c: login(id, "Signature||i", vectorPassword), code: mq.BadCredentials},
		{name: "other client", options: full, c: login("GID_Test@@@0002", "Signature|AK|i", vectorPassword), code: mq.BadCredentials},
		{name: "no password", options: full, c: login(id, "Signature|AK|i", ""), code: mq.BadCredentials},
		{name: "lower case", options: full, c: login(id, "signature|AK|i", vectorPassword), code: mq.BadCredentials},
		{name: "token", options: full, c: login(id, "Token|AK|i", "R|x"), code: mq.BadCredentials, text: "token login is not configured"},
		{name: "device", options: full, c: login(id, "DeviceCredential|AK|i", vectorPassword), code: mq.BadCredentials, text: "device credential login is not configured"},
		{name: "signature without keys", options: Options{UsersFile: users}, c: login(id, "Signature|AK|i", vectorPassword), code: mq.BadCredentials, text: "signature login is not configured"},
		{name: "user without users", options: Options{AccessKeys: keys}, c: login(id, "alice", "wonder"), code: mq.BadCredentials, text: "no users"},

		{name: "user", options: full, c: login(id, "alice", "wonder"), want: mq.Principal{Kind: mq.KindUser, User: "alice"}},
		{name: "wrong password", options: full, c: login(id, "alice", "wander"), code: mq.BadCredentials},
		{name: "the hash is no secret", options: full, c: login(id, "alice", Sign("wonder", id)), code: mq.BadCredentials},
		{name: "unknown user", options: full, c: login(id, "carol", "wonder"), code: mq.BadCredentials},
		{name: "long password", options: full, c: login(id, "alice", strings.Repeat("x", 60000)), code: mq.BadCredentials},
		{name: "secret in clear", options: full, c: login(id, "bob", "XXXXX"), want: mq.Principal{Kind: mq.KindUser, User: "bob"}},
		{name: "secret signed", options: full, c: login(id, "bob", vectorPassword), want: mq.Principal{Kind: mq.KindUser, User: "bob"}},
		{name: "secret wrong", options: full, c: login(id, "bob", "XXXX"), code: mq.BadCredentials},
		{name: "secret empty", options: full, c: login(id, "bob", ""), code: mq.BadCredentials},

		{name: "nobody", options: full, c: nobody, code: mq.NotAuthorized, text: "needed"},
		{name: "empty name", options: full, c: emptyName, code: mq.NotAuthorized},
		{name: "nobody, anonymous", options: withAnonymous, c: nobody, want: mq.Principal{Kind: mq.KindAnonymous}},
		{name: "empty name, anonymous", options: withAnonymous, c: emptyName, want: mq.Principal{Kind: mq.KindAnonymous}},
		{name: "wrong, anonymous", options: withAnonymous, c: login(id, "alice", "x"), code: mq.BadCredentials},
		{name: "right, anonymous", options: withAnonymous, c: login(id, "alice", "wonder"), want: mq.Principal{Kind: mq.KindUser, User: "alice"}},

		{name: "open", options: Options{}, c: nobody},
		{name: "open, any user", options: Options{}, c: login(id, "who", "ever")},
		{name: "open, any signature", options: Options{}, c: login(id, "Signature|AK|i", "x")},
		{name: "open, anonymous said", options: Options{Anonymous: true}, c: login(id, "who", "ever")},
		{
			name: "open, no users file yet", options: Options{UsersFile: filepath.Join(t.TempDir(), "none"), UsersFileOptional: true},
			c: login(id, "who", "ever"),
		},

		{name: "group", options: group, c: login(id, "Signature|AK|inst", vectorPassword), want: mq.Principal{Kind: mq.KindKey, AccessKey: "AK"}},
		{name: "no group", options: group, c: login("dev", "Signature|AK|i", Sign("XXXXX", "dev")), code: mq.BadClientID, text: "GID_group@@@device"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := newAuth(t, tt.options).Authenticate(t.Context(), tt.c)
			wantCode(t, err, tt.code)
			if err != nil {
				if !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %q does not say %q", err, tt.text)
				}
				return
			}
			tt.want.ClientID = tt.c.ClientID
			if got := named(p); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	none := filepath.Join(t.TempDir(), "users.yml")
	empty := usersFile(t)
	for _, tt := range []struct {
		name            string
		options         Options
		open, anonymous bool
	}{
		{"nothing", Options{}, true, true},
		{"anonymous", Options{Anonymous: true}, true, true},
		{"no users file", Options{UsersFile: none, UsersFileOptional: true}, true, true},
		{"a users file without users", Options{UsersFile: empty}, false, false},
		{"key", Options{AccessKeys: []AccessKey{{"a", "b"}}}, false, false},
		{"key and anonymous", Options{AccessKeys: []AccessKey{{"a", "b"}}, Anonymous: true}, false, true},
	} {
		a := newAuth(t, tt.options)
		if a.Open() != tt.open || a.Anonymous() != tt.anonymous {
			t.Errorf("%s: open %v, anonymous %v", tt.name, a.Open(), a.Anonymous())
		}
	}
}

func TestNewMistakes(t *testing.T) {
	for _, tt := range []struct {
		want    string
		options Options
	}{
		{"has no secret", Options{AccessKeys: []AccessKey{{"a", ""}}}},
		{"cannot be an access key", Options{AccessKeys: []AccessKey{{"", "x"}}}},
		{"cannot be an access key", Options{AccessKeys: []AccessKey{{"a|b", "x"}}}},
		{"twice", Options{AccessKeys: []AccessKey{{"a", "x"}, {"a", "y"}}}},
		{"homing passwd", Options{UsersFile: filepath.Join(t.TempDir(), "none")}},
		{"cannot be a parent topic", Options{Topics: []string{"a/b"}}},
		{"cannot be a parent topic", Options{Topics: []string{"$SYS"}}},
		{"cannot be a parent topic", Options{Topics: []string{""}}},
		{"auth.rules[1]", Options{Rules: []Rule{{Allow: "pub", Topic: "a"}, {Topic: "a"}}}},
	} {
		a, err := New(tt.options)
		if err == nil {
			a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

func TestGroupClientID(t *testing.T) {
	long := "GID_g@@@" + strings.Repeat("d", 56)
	for id, want := range map[string]bool{
		"GID_Test@@@0001": true, "GID-Test@@@0001": true, "GID_test@@@d8_3b_da_4e_00_9c": true, "GID_x@@@y": true,
		long: true, long + "d": false,
		"": false, "GID_x": false, "GID_x@@@": false, "GID_@@@y": false, "@@@y": false, "gid_x@@@y": false, "x@@@y": false,
		"GID_x@@y": false, "GID_x@@@@y": false, "GID_x@@@y@@@z": false, "GID_x@@@y/z": false, "GID_x@@@y z": false,
		"GID_x@@@d8:3b": false, "GID_x@@@é": false, "GID_x@@@+": false, "GIDx@@@y": false,
	} {
		if got := validGroupClientID(id); got != want {
			t.Errorf("%q: got %v", id, got)
		}
	}
}

// A password is hashed once, also wrong and unknown ones are hashed.
func TestPasswordCache(t *testing.T) {
	a := newAuth(t, Options{UsersFile: usersFile(t, hashed(t, "alice", "wonder"))})
	full := newHashQueue(0) // no free core: whoever must hash waits for ctx
	a.passwords.queue = full
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	try := func(user, password string) error {
		_, err := a.Authenticate(ctx, login("c", user, password))
		return err
	}
	wantCode(t, try("alice", "wonder"), mq.Overloaded)
	a.passwords.queue = newHashQueue(1)
	_, err := a.Authenticate(t.Context(), login("c", "alice", "wonder"))
	wantCode(t, err, mq.OK)
	a.passwords.queue = full
	wantCode(t, try("alice", "wonder"), mq.OK)
	wantCode(t, try("alice", "wander"), mq.Overloaded)
	wantCode(t, try("bob", "wonder"), mq.Overloaded)
	wantCode(t, try("alice", strings.Repeat("x", 100)), mq.Overloaded)

	// Another hash of the same password is another thing.
	f := UsersFile{Users: []FileUser{hashed(t, "alice", "wonder")}}
	a.put(a.policy.Load().withUsers(newUserTable(&f, a.key)))
	wantCode(t, try("alice", "wonder"), mq.Overloaded)
}

func TestDummyHash(t *testing.T) {
	h := dummyHash(bcrypt.MinCost)
	if cost, err := checkHash(string(h)); err != nil || cost != bcrypt.MinCost {
		t.Fatal(cost, err)
	}
	// Any other error would come without the work.
	if err := bcrypt.CompareHashAndPassword(h, []byte("x")); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Fatal(err)
	}
}

func TestFailuresUnlimited(t *testing.T) {
	a := newAuth(t, Options{AccessKeys: []AccessKey{{"AK", "XXXXX"}}})
	for range 1000 {
		_, err := a.Authenticate(t.Context(), login("x", "Signature|AK|i", "bad"))
		wantCode(t, err, mq.BadCredentials)
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent[int, int](10)
	for i := range 1000 {
		r.put(i, i)
		if v, ok := r.get(0); !ok || v != 0 {
			t.Fatalf("0, which is used, was forgotten after %d", i)
		}
		if v, ok := r.get(i); !ok || v != i {
			t.Fatalf("%d is not there", i)
		}
		if n := len(r.now) + len(r.past); n > 20 {
			t.Fatalf("%d entries", n)
		}
	}
	if _, ok := r.get(1); ok {
		t.Error("1 was never forgotten")
	}
	r.remove(0)
	if _, ok := r.get(0); ok {
		t.Error("0 was not removed")
	}
}

func BenchmarkSignature(b *testing.B) {
	a, err := New(Options{AccessKeys: []AccessKey{{"AK", "XXXXX"}}, FailuresPerMinute: 60})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	c := login("GID_Test@@@0001", "Signature|AK|i", vectorPassword)
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
