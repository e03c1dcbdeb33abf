package auth

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

// named is a principal without what only says that its login holds.
func named(p *mq.Principal) mq.Principal {
	out := *p
	out.Standing = nil
	return out
}

// who logs in and fails the test if it cannot.
func who(t *testing.T, a *Auth, id, user, password string) *mq.Principal {
	t.Helper()
	p, err := a.Authenticate(t.Context(), login(id, user, password))
	if err != nil {
		t.Fatalf("%s cannot log in: %v", user, err)
	}
	if p.Standing == nil || p.Standing.Ended() {
		t.Fatalf("%s logs in without standing", user)
	}
	return p
}

func apply(t *testing.T, a *Auth, o Options) {
	t.Helper()
	if err := a.Apply(o); err != nil {
		t.Fatal(err)
	}
}

func writeUsers(t *testing.T, path string, users ...FileUser) {
	t.Helper()
	if err := (&UsersFile{Users: users}).Write(path); err != nil {
		t.Fatal(err)
	}
}

// TestApplyStanding: a login holds while what was shown would let somebody in.
func TestApplyStanding(t *testing.T) {
	file := usersFile(t, FileUser{Name: "bob", Secret: "b"}, FileUser{Name: "ann", Secret: "a"})
	given := func(change func(*Options)) Options {
		o := Options{
			Anonymous: true, UsersFile: file,
			AccessKeys: []AccessKey{{"K1", "s1"}, {"K2", "s2"}},
			Rules:      []Rule{{Allow: "all", Topic: "#"}},
		}
		if change != nil {
			change(&o)
		}
		return o
	}
	other := func(users ...FileUser) func(*Options) {
		return func(o *Options) { o.UsersFile = usersFile(t, users...) }
	}
	ann := FileUser{Name: "ann", Secret: "a"}
	for _, tt := range []struct {
		name   string
		change func(*Options)
		ends   string // who must log in again
		rights bool   // whether rights differ
	}{
		{name: "nothing"},
		{name: "another limit", change: func(o *Options) { o.FailuresPerMinute = 7 }},
		{name: "a rule gone", change: func(o *Options) { o.Rules = nil }, rights: true},
		{name: "topics", change: func(o *Options) { o.Topics = []string{"a"} }, rights: true},
		{name: "a user deleted", change: other(ann), ends: "bob", rights: true},
		{name: "a user's secret changed", change: other(ann, FileUser{Name: "bob", Secret: "new"}), ends: "bob"},
		{name: "a user added", change: other(ann, FileUser{Name: "bob", Secret: "b"}, FileUser{Name: "eve", Secret: "e"}), rights: true},
		{name: "the users file gone", change: func(o *Options) { o.UsersFile = "" }, ends: "ann bob", rights: true},
		{name: "a key deleted", change: func(o *Options) { o.AccessKeys = o.AccessKeys[1:] }, ends: "K1", rights: true},
		{name: "a key's secret changed", change: func(o *Options) { o.AccessKeys[0].Secret = "new" }, ends: "K1"},
		{name: "anonymous off", change: func(o *Options) { o.Anonymous = false }, ends: "anonymous", rights: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAuth(t, given(nil))
			list := []struct {
				name string
				p    *mq.Principal
			}{
				{"ann", who(t, a, "1", "ann", "a")},
				{"bob", who(t, a, "2", "bob", "b")},
				{"K1", who(t, a, "3", SignatureUser("K1", "i"), Sign("s1", "3"))},
				{"K2", who(t, a, "4", SignatureUser("K2", "i"), Sign("s2", "4"))},
				{"anonymous", who(t, a, "5", "", "")},
			}
			version, told := a.Version(), 0
			a.Changed(func() { told++ })
			apply(t, a, given(tt.change))
			if told != 1 {
				t.Errorf("told %d times, want once", told)
			}
			if got := a.Version() != version; got != tt.rights {
				t.Errorf("version differs: %v, want %v", got, tt.rights)
			}
			ends := ""
			for _, l := range list {
				if l.p.Standing.Ended() {
					if ends != "" {
						ends += " "
					}
					ends += l.name
					if a.Allow(l.p, mq.Publish, []byte("x")) {
						t.Errorf("%s may publish still", l.name)
					}
				}
			}
			if ends != tt.ends {
				t.Errorf("the logins of %q ended, want %q", ends, tt.ends)
			}
		})
	}
}

// TestApplyAgain: who comes back has rights again, and old logins have none.
func TestApplyAgain(t *testing.T) {
	on := Options{AccessKeys: []AccessKey{{"K", "s"}, {"L", "s"}}}
	off := Options{AccessKeys: []AccessKey{{"L", "s"}}}
	a := newAuth(t, on)
	old := who(t, a, "1", SignatureUser("K", "i"), Sign("s", "1"))
	stored := &mq.Principal{ClientID: "1", AccessKey: "K"} // of no login
	for i := range 3 {
		apply(t, a, off)
		if a.Allow(old, mq.Publish, []byte("x")) || a.Grant(stored, []byte("x")) != mq.GrantNone {
			t.Fatalf("round %d: a deleted key has rights", i)
		}
		apply(t, a, on)
		if a.Allow(old, mq.Publish, []byte("x")) {
			t.Fatalf("round %d: a login from before has rights", i)
		}
		if a.Grant(stored, []byte("x")) != mq.GrantAll {
			t.Fatalf("round %d: what is stored for the key has no rights again", i)
		}
	}
}

// TestApplyStoredPrincipals: of what is stored only names are known.
func TestApplyStoredPrincipals(t *testing.T) {
	file := usersFile(t, FileUser{Name: "bob", Secret: "b"})
	a := newAuth(t, Options{UsersFile: file, AccessKeys: []AccessKey{{"K", "s"}}})
	for _, tt := range []struct {
		p    mq.Principal
		want bool
	}{
		{mq.Principal{User: "bob"}, true},
		{mq.Principal{User: "gone"}, false},
		{mq.Principal{AccessKey: "K"}, true},
		{mq.Principal{AccessKey: "gone"}, false},
		{mq.Principal{}, false},
	} {
		if got := a.Allow(&tt.p, mq.Subscribe, []byte("x")); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.p, got, tt.want)
		}
	}
}

// TestApplyMistake: a mistake leaves everything as it was, users too.
func TestApplyMistake(t *testing.T) {
	file := usersFile(t, FileUser{Name: "bob", Secret: "b"})
	good := Options{UsersFile: file, UsersFileOptional: true, Rules: []Rule{{Allow: "all", Topic: "#"}}}
	a := newAuth(t, good)
	p := who(t, a, "1", "bob", "b")
	version, told := a.Version(), 0
	a.Changed(func() { told++ })
	broken := filepath.Join(t.TempDir(), "users.yml")
	if err := os.WriteFile(broken, []byte("users: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(t.TempDir(), "none.yml")
	for name, change := range map[string]func(*Options){
		"rule":          func(o *Options) { o.Rules = []Rule{{Allow: "all"}} },
		"key":           func(o *Options) { o.AccessKeys = []AccessKey{{"a", ""}} },
		"topics":        func(o *Options) { o.Topics = []string{"a/b"} },
		"broken users":  func(o *Options) { o.UsersFile, o.Rules = broken, nil },
		"missing users": func(o *Options) { o.UsersFile, o.UsersFileOptional, o.Rules = none, false, nil },
		// A file that may be missing at start is missed once there were users.
		"default users": func(o *Options) { o.UsersFile, o.Rules = none, nil },
	} {
		o := good
		change(&o)
		if err := a.Apply(o); err == nil {
			t.Errorf("%s: no error", name)
		}
		if a.Version() != version || told != 0 || p.Standing.Ended() || !a.Allow(p, mq.Publish, []byte("x")) {
			t.Errorf("%s: something has changed", name)
		}
	}
	// The watched file is still the old one.
	writeUsers(t, file, FileUser{Name: "ann", Secret: "a"})
	a.reloadChanged()
	if !p.Standing.Ended() || told != 1 {
		t.Errorf("the users file is not watched any more")
	}
}

// TestApplyNeverOpens: a server that was secured does not let anybody in because
// its settings have gone.
func TestApplyNeverOpens(t *testing.T) {
	a := newAuth(t, Options{})
	anybody := who(t, a, "1", "x", "y")
	if !a.Open() {
		t.Fatal("not open")
	}
	apply(t, a, Options{AccessKeys: []AccessKey{{"K", "s"}}})
	if a.Open() || !anybody.Standing.Ended() {
		t.Error("a key does not end what came without a login")
	}
	apply(t, a, Options{})
	if _, err := a.Authenticate(t.Context(), login("2", "", "")); a.Open() || err == nil {
		t.Error("open again")
	}
}

// TestApplyUsersFile: another path is another file, which is watched from then on.
func TestApplyUsersFile(t *testing.T) {
	one := usersFile(t, FileUser{Name: "ann", Secret: "a"})
	two := usersFile(t, FileUser{Name: "ann", Secret: "a"}, FileUser{Name: "bob", Secret: "b"})
	a := newAuth(t, Options{UsersFile: one})
	ann := who(t, a, "1", "ann", "a")
	apply(t, a, Options{UsersFile: two})
	bob := who(t, a, "2", "bob", "b")
	writeUsers(t, two, FileUser{Name: "ann", Secret: "a"})
	a.reloadChanged()
	if ann.Standing.Ended() || !bob.Standing.Ended() {
		t.Error("ann is to stay, bob to go")
	}
}

// TestApplyWhole: one decision sees one policy. Two policies that each allow one
// topic are swapped: nobody is ever allowed both or none.
func TestApplyWhole(t *testing.T) {
	with := func(topic string) Options {
		return Options{
			AccessKeys: []AccessKey{{"K", "s"}},
			Topics:     []string{topic, "z"},
			Rules:      []Rule{{Deny: "all", Topic: "z/#"}, {Allow: "all", Topic: topic + "/#"}},
		}
	}
	a := newAuth(t, with("x"))
	p := who(t, a, "1", SignatureUser("K", "i"), Sign("s", "1"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// z is listed in both, and denied by the rules of both.
				if a.Allow(p, mq.Publish, []byte("z/1")) {
					t.Error("allowed what no policy allows")
					return
				}
			}
		})
	}
	for i := range 500 {
		topic, other := "x", "y"
		if i%2 == 0 {
			topic, other = other, topic
		}
		apply(t, a, with(topic))
		if !a.Allow(p, mq.Publish, []byte(topic+"/1")) || a.Allow(p, mq.Publish, []byte(other+"/1")) {
			t.Fatalf("change %d is not in force when Apply returns", i)
		}
	}
	close(stop)
	wg.Wait()
}
