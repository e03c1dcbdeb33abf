package auth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xdg-go/scram"

	"github.com/homing-mq/homing/internal/mq"
)

// scramFile makes a users file: "carol" has a credential, "bob" (if any) a
// secret, "old" only a hash.
func scramFile(t testing.TB, more ...FileUser) *UsersFile {
	t.Helper()
	f := &UsersFile{Users: []FileUser{{Name: "old", Hash: string(dummyHash(4))}}}
	addSCRAM(t, f, "carol", "pencil")
	for _, u := range more {
		f.Set(u)
	}
	return f
}

func addSCRAM(t testing.TB, f *UsersFile, name, password string) {
	t.Helper()
	u := FileUser{Name: name, Hash: string(dummyHash(4))}
	if err := f.SetSCRAM(&u, []byte(password), MinIterations); err != nil {
		t.Fatal(err)
	}
	f.Set(u)
}

func scramAuth(t testing.TB, f *UsersFile, o Options) *Auth {
	t.Helper()
	o.UsersFile = filepath.Join(t.TempDir(), "users.yml")
	if err := f.Write(o.UsersFile); err != nil {
		t.Fatal(err)
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func begin(t testing.TB, a *Auth, c *mq.Credentials) *exchange {
	t.Helper()
	e, ok := a.Begin(t.Context(), "SCRAM-SHA-256", c)
	if !ok {
		t.Fatal("SCRAM-SHA-256 is not known")
	}
	if e.Principal() != nil {
		t.Fatal("there is a principal before the end")
	}
	return e.(*exchange)
}

var device = &mq.Credentials{ClientID: "dev1", Remote: netip.MustParseAddr("192.0.2.1")}

// converse runs a client against an exchange. It returns the server's first
// message and how it ended.
func converse(t testing.TB, e mq.Exchange, client *scram.ClientConversation) (challenge string, err error) {
	t.Helper()
	first, err := client.Step("")
	if err != nil {
		t.Fatal(err)
	}
	reply, done, err := e.Next([]byte(first))
	if err != nil || done {
		if done {
			t.Fatal("done after one message")
		}
		return "", err
	}
	proof, err := client.Step(string(reply))
	if err != nil {
		t.Fatal("the client refuses the challenge:", err)
	}
	challenge = string(reply)
	reply, done, err = e.Next([]byte(proof))
	if err != nil {
		if done || reply != nil || e.Principal() != nil {
			t.Fatal("failed, but", done, reply, e.Principal())
		}
		return challenge, err
	}
	if !done {
		t.Fatal("not done after two messages")
	}
	if _, err := client.Step(string(reply)); err != nil || !client.Valid() {
		t.Fatal("the client does not believe the server:", err)
	}
	return challenge, nil
}

func newClient(t testing.TB, user, password, authzID string) *scram.Client {
	t.Helper()
	c, err := scram.SHA256.NewClient(user, password, authzID)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryAs(t testing.TB, a *Auth, c *mq.Credentials, user, password string) error {
	t.Helper()
	_, err := converse(t, begin(t, a, c), newClient(t, user, password, "").NewConversation())
	return err
}

// The example of RFC 7677 section 3.
func TestSCRAMVector(t *testing.T) {
	const (
		first     = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
		challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
		proof     = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
		verifier  = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	)
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	c, err := makeKeys("pencil", scram.KeyFactors{Salt: string(salt), Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	u := FileUser{Name: "user", Hash: string(dummyHash(4)), SCRAM: formatSCRAM(&c)}
	a := scramAuth(t, &UsersFile{Users: []FileUser{u}}, Options{})
	e := begin(t, a, device)
	server, err := scram.SHA256.NewServer(e.credential)
	if err != nil {
		t.Fatal(err)
	}
	e.conv = server.WithNonceGenerator(func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" }).NewConversation()

	reply, done, err := e.Next([]byte(first))
	if string(reply) != challenge || done || err != nil {
		t.Fatalf("got %q, %v, %v", reply, done, err)
	}
	reply, done, err = e.Next([]byte(proof))
	if string(reply) != verifier || !done || err != nil {
		t.Fatalf("got %q, %v, %v", reply, done, err)
	}
	if got, want := named(e.Principal()), (mq.Principal{Kind: mq.KindUser, ClientID: "dev1", User: "user"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	// The same messages again are worth nothing: the nonce is another one.
	replayed := begin(t, a, device)
	if _, _, err := replayed.Next([]byte(first)); err != nil {
		t.Fatal(err)
	}
	_, done, err = replayed.Next([]byte(proof))
	wantCode(t, err, mq.NotAuthorized)
	if done || replayed.Principal() != nil {
		t.Error("a replayed proof was taken")
	}
	// And nothing comes after the end.
	_, done, err = e.Next([]byte(proof))
	wantCode(t, err, mq.NotAuthorized)
	if done || e.Principal() != nil {
		t.Error("an exchange that was over went on")
	}
}

func TestSCRAM(t *testing.T) {
	f := scramFile(t, FileUser{Name: "bob", Secret: "s3cret"}, FileUser{Name: "eve", Secret: "key 🔑"})
	addSCRAM(t, f, "a,b=c", "x")
	addSCRAM(t, f, "\ufb01sh", "I\u00adX\u2168") // fish with a ligature; SASLprep makes the password IXIX
	addSCRAM(t, f, "\ufb03", "one")              // both are ffi
	addSCRAM(t, f, "f\ufb01", "two")
	var log syncBuffer
	a := scramAuth(t, f, Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, tt := range []struct {
		user, password, authzID string
		as                      string // name in the file, if another
		code                    mq.Code
		log                     string
	}{
		{user: "carol", password: "pencil"},
		{user: "carol", password: "pencil", authzID: "carol"},
		{user: "carol", password: "pencil", authzID: "bob", code: mq.NotAuthorized, log: "authorization identity"},
		{user: "carol", password: "pen", code: mq.BadCredentials, log: "wrong password"},
		{user: "carol", password: "", code: mq.BadCredentials},
		{user: "bob", password: "s3cret"},
		{user: "bob", password: "s3cret", authzID: "bob"}, // from the cache
		{user: "bob", password: "nobody", code: mq.BadCredentials, log: "wrong password"},
		{user: "eve", password: "nobody", code: mq.BadCredentials, log: "secret cannot be used"},
		{user: "old", password: "pencil", code: mq.BadCredentials, log: "has no SCRAM credential"},
		{user: "old", password: "nobody", code: mq.BadCredentials},
		{user: "who", password: "nobody", code: mq.BadCredentials, log: "unknown user"},
		{user: "", password: "nobody", code: mq.BadCredentials},
		{user: "Signature|AK|i", password: "x", code: mq.BadCredentials},
		{user: "a,b=c", password: "x", authzID: "a,b=c"},
		{user: "\ufb01sh", password: "IXIX", as: "\ufb01sh"},
		{user: "fish", password: "I\u00adX\u2168", as: "\ufb01sh"},
		{user: "ffi", password: "one", code: mq.BadCredentials},
		{user: "ffi", password: "two", code: mq.BadCredentials},
	} {
		e := begin(t, a, device)
		_, err := converse(t, e, newClient(t, tt.user, tt.password, tt.authzID).NewConversation())
		name := fmt.Sprintf("%q %q %q", tt.user, tt.password, tt.authzID)
		var refused *mq.Error
		if errors.As(err, &refused); (refused == nil) != (tt.code == mq.OK) || refused != nil && refused.Code != tt.code {
			t.Errorf("%s: got %v, want %v", name, err, tt.code)
			continue
		}
		if log.count("reason=") > 0 != (err != nil) || log.count(tt.log) == 0 {
			t.Errorf("%s: logged %s", name, log.b.String())
		}
		log.b.Reset()
		if err != nil {
			continue
		}
		if tt.as == "" {
			tt.as = tt.user
		}
		if got, want := named(e.Principal()), (mq.Principal{Kind: mq.KindUser, ClientID: "dev1", User: tt.as}); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	// A client that could bind to a channel, but was not offered it, is fine.
	if _, err := converse(t, begin(t, a, device), newClient(t, "carol", "pencil", "").NewConversationAdvertisingChannelBinding()); err != nil {
		t.Error(err)
	}
}

func TestSCRAMIsKnown(t *testing.T) {
	users := scramAuth(t, scramFile(t), Options{})
	keys := newAuth(t, Options{AccessKeys: []AccessKey{{"AK", "XXXXX"}}})
	for _, tt := range []struct {
		a      *Auth
		method string
		want   bool
	}{
		{users, "SCRAM-SHA-256", true}, {users, "scram-sha-256", false}, {users, "SCRAM-SHA-256-PLUS", false}, {users, "SCRAM-SHA-1", false},
		{users, "", false}, {keys, "SCRAM-SHA-256", false}, {newAuth(t, Options{}), "SCRAM-SHA-256", false},
	} {
		if e, ok := tt.a.Begin(t.Context(), tt.method, device); ok != tt.want || (e != nil) != tt.want {
			t.Errorf("%q: got %v", tt.method, ok)
		}
	}
	group := scramAuth(t, scramFile(t), Options{GroupClientID: true})
	wantCode(t, tryAs(t, group, device, "carol", "pencil"), mq.BadClientID)
	wantCode(t, tryAs(t, group, &mq.Credentials{ClientID: "GID_a@@@1"}, "carol", "pencil"), mq.OK)
}

// The server's first message is of the same form for a user, for one who
// cannot log in by SCRAM and for nobody; the end is the same, byte for byte;
// and asking twice, after a restart or with the user gone gives the same salt.
func TestSCRAMHidesUsers(t *testing.T) {
	form := regexp.MustCompile(`^r=[!-+\--~]{60,80},s=([A-Za-z0-9+/]{22}==),i=(\d+)$`)
	f := scramFile(t, FileUser{Name: "bob", Secret: "s3cret"})
	ask := func(a *Auth, name string) (salt string) {
		t.Helper()
		challenge, err := converse(t, begin(t, a, device), newClient(t, name, "wrong", "").NewConversation())
		if err != errBadCredentials {
			t.Errorf("%s: got %v", name, err)
		}
		m := form.FindStringSubmatch(challenge)
		if m == nil || m[2] != "4096" {
			t.Fatalf("%s: challenge %q", name, challenge)
		}
		return m[1]
	}
	a := scramAuth(t, f, Options{})
	salts := make(map[string]string)
	for _, name := range []string{"carol", "bob", "old", "nobody", "nobody2"} {
		salts[name] = ask(a, name)
		for other, salt := range salts {
			if salt == salts[name] && other != name {
				t.Errorf("%s and %s have one salt", name, other)
			}
		}
	}
	f.Delete("bob")
	f.Delete("carol")
	addSCRAM(t, f, "nobody", "pencil")
	again := scramAuth(t, f, Options{})
	for name, salt := range salts {
		if got := ask(again, name); got != salt {
			t.Errorf("the salt of %s was %s and is %s", name, salt, got)
		}
	}
}

// With a secret in the file, whoever shows a first proof waits for keys to be
// made: users with and without a credential, and nobody.
func TestSCRAMWorkIsTheSame(t *testing.T) {
	for _, secrets := range []bool{true, false} {
		f := scramFile(t)
		if secrets {
			f.Set(FileUser{Name: "bob", Secret: "s3cret"})
		}
		a := scramAuth(t, f, Options{})
		for _, name := range []string{"carol", "bob", "old", "nobody"} {
			before := len(a.scram.made.now)
			for range 2 {
				wantCode(t, tryAs(t, a, device, name, "wrong"), mq.BadCredentials)
			}
			if worked := len(a.scram.made.now) - before; (worked == 1) != secrets || worked > 1 {
				t.Errorf("%s, secrets %v: made keys %d times", name, secrets, worked)
			}
		}
		// The work waits for its turn, and not forever.
		e := begin(t, a, device)
		a.passwords.queue = newHashQueue(0) // none is free
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		e.ctx = ctx
		_, err := converse(t, e, newClient(t, "late", "x", "").NewConversation())
		if secrets {
			wantCode(t, err, mq.Overloaded)
		} else {
			wantCode(t, err, mq.BadCredentials)
		}
	}
}

func TestSCRAMMalformed(t *testing.T) {
	a := scramAuth(t, scramFile(t), Options{FailuresPerMinute: 1000})
	left := func() float64 {
		f := a.policy.Load().failures
		_, used := f.used(digest{}, source(device.Remote), time.Now())
		return failuresInAll*f.perMinute - used
	}
	const nonce = "rOprNGfwEbeRWgbNEkqO"
	long := strings.Repeat("x", maxMessage)
	for _, tt := range []string{
		"", "n", "n,,", "n,,n=carol", "n,,n=carol,", "n,,n=carol,x=" + nonce, "n,,r=" + nonce + ",n=carol", "n,a,n=carol,r=" + nonce,
		"n,carol,n=carol,r=" + nonce, "x,,n=carol,r=" + nonce, ",,n=carol,r=" + nonce, "n,,m=x,n=carol,r=" + nonce,
		"n,,n=ca=rol,r=" + nonce, "n,a=ca=,n=carol,r=" + nonce, "n,,n=carol\x00,r=" + nonce, "n,,n=car\xffol,r=" + nonce,
		"p=tls-unique,,n=carol,r=" + nonce, "p=tls-exporter,,n=carol,r=" + nonce, "p=nonsense,,n=carol,r=" + nonce, "p",
		"n,a=bob,n=carol,r=" + nonce, "n,a=bob,n=nobody,r=" + nonce, "n,,n=" + long + ",r=" + nonce, "n,,n=carol,r=" + long,
	} {
		e := begin(t, a, device)
		reply, done, err := e.Next([]byte(tt))
		wantCode(t, err, mq.NotAuthorized)
		if reply != nil || done || e.Principal() != nil {
			t.Errorf("%.40q: %q %v", tt, reply, done)
		}
		_, _, err = e.Next([]byte("n,,n=carol,r=" + nonce))
		wantCode(t, err, mq.NotAuthorized) // for good
	}
	if left() != 1000*failuresInAll {
		t.Error("mistakes of form count as failed logins")
	}

	_, _, err := begin(t, a, device).Next([]byte("p=tls-exporter,,n=carol,r=" + nonce))
	if err == nil || !strings.Contains(err.Error(), "channel binding is not supported") {
		t.Errorf("got %v, want a word about channel binding", err)
	}

	// The second message: each is a right answer with something made wrong.
	client := newClient(t, "carol", "pencil", "")
	for _, tt := range []struct {
		make func(proof string) string
		code mq.Code
	}{
		{func(string) string { return "" }, mq.NotAuthorized},
		{func(string) string { return "n,,n=carol,r=" + nonce }, mq.NotAuthorized},
		{func(p string) string { return p + "\x00" }, mq.NotAuthorized},
		{func(p string) string { return p + ",x=\xff" }, mq.NotAuthorized},
		{func(p string) string { return p + "," + long }, mq.NotAuthorized},
		{func(p string) string { return p[:strings.LastIndex(p, ",")] }, mq.NotAuthorized},
		{func(p string) string { return p[:strings.LastIndex(p, ",")] + ",p=" }, mq.NotAuthorized},
		{func(p string) string { return p[:len(p)-8] }, mq.NotAuthorized},
		{func(p string) string { return p[:strings.LastIndex(p, ",")] + ",p=*" }, mq.NotAuthorized},
		{func(p string) string { return strings.Replace(p, "c=biws", "c=eSws", 1) }, mq.NotAuthorized}, // y,,
		{func(p string) string { return strings.Replace(p, "c=biws", "c=", 1) }, mq.NotAuthorized},
		{func(p string) string { return strings.Replace(p, ",r=", ",r=x", 1) }, mq.NotAuthorized},
		{func(p string) string { return strings.Replace(p, ",p=", ",x=y,p=", 1) }, mq.BadCredentials}, // not what was proved
		{func(p string) string {
			return p[:strings.LastIndex(p, ",")] + ",p=" + base64.StdEncoding.EncodeToString(make([]byte, sha256.Size))
		}, mq.BadCredentials},
	} {
		before := left()
		e, conv := begin(t, a, device), client.NewConversation()
		first, _ := conv.Step("")
		challenge, _, err := e.Next([]byte(first))
		if err != nil {
			t.Fatal(err)
		}
		proof, err := conv.Step(string(challenge))
		if err != nil {
			t.Fatal(err)
		}
		bad := tt.make(proof)
		reply, done, err := e.Next([]byte(bad))
		var refused *mq.Error
		if !errors.As(err, &refused) || refused.Code != tt.code || reply != nil || done || e.Principal() != nil {
			t.Errorf("%.60q: %q %v %v", bad, reply, done, err)
		}
		if n := before - left(); n < 0.5 {
			t.Errorf("%.60q: took %v tokens", bad, n)
		}
		_, done, err = e.Next([]byte(proof)) // the right one comes too late
		wantCode(t, err, mq.NotAuthorized)
		if done {
			t.Errorf("%.60q: a second answer was taken", bad)
		}
	}
}

func TestSCRAMFailuresLimited(t *testing.T) {
	f := scramFile(t)
	synctest.Test(t, func(t *testing.T) {
		a := scramAuth(t, f, Options{FailuresPerMinute: 3})
		from := func(id, password string) error {
			c := *device
			c.ClientID = id
			return tryAs(t, a, &c, "carol", password)
		}
		for range 100 { // successes cost nothing
			wantCode(t, from("known", "pencil"), mq.OK)
		}
		// Challenges that were asked for before the limit was reached.
		early, client := begin(t, a, device), newClient(t, "carol", "pencil", "").NewConversation()
		first, _ := client.Step("")
		challenge, _, err := early.Next([]byte(first))
		if err != nil {
			t.Fatal(err)
		}
		proof, _ := client.Step(string(challenge))

		for range 3 {
			wantCode(t, from("evil", "bad"), mq.BadCredentials)
		}
		wantCode(t, from("evil", "bad"), mq.TooManyAttempts)
		wantCode(t, from("evil", "pencil"), mq.TooManyAttempts) // no oracle
		_, _, err = early.Next([]byte(proof))
		wantCode(t, err, mq.TooManyAttempts)
		_, _, err = begin(t, a, device).Next([]byte(first)) // not even a challenge
		wantCode(t, err, mq.TooManyAttempts)
		_, err = a.Authenticate(t.Context(), login("evil", "carol", "pencil"))
		wantCode(t, err, mq.TooManyAttempts) // one limit for all ways

		// A device that was there before is let in, until somebody guesses.
		wantCode(t, from("known", "pencil"), mq.OK)
		wantCode(t, from("known", "bad"), mq.TooManyAttempts)
		wantCode(t, from("known", "pencil"), mq.TooManyAttempts)

		time.Sleep(21 * time.Second)
		wantCode(t, from("known", "pencil"), mq.OK)
		wantCode(t, from("evil", "bad"), mq.BadCredentials)
		wantCode(t, from("evil", "bad"), mq.TooManyAttempts)
	})
}

// A user who was changed or deleted during the exchange does not get in.
func TestSCRAMUserChanged(t *testing.T) {
	f := scramFile(t)
	a := scramAuth(t, f, Options{})
	for _, change := range []func(){
		func() { addSCRAM(t, f, "carol", "pencil2") },
		func() { f.Delete("carol") },
	} {
		e, client := begin(t, a, device), newClient(t, "carol", "pencil", "").NewConversation()
		first, _ := client.Step("")
		challenge, _, err := e.Next([]byte(first))
		if err != nil {
			t.Fatal(err)
		}
		proof, _ := client.Step(string(challenge))
		change()
		if err := f.Write(a.policy.Load().usersFile); err != nil {
			t.Fatal(err)
		}
		if err := a.Reload(); err != nil {
			t.Fatal(err)
		}
		_, _, err = e.Next([]byte(proof))
		wantCode(t, err, mq.BadCredentials)
		addSCRAM(t, f, "carol", "pencil")
		if err := f.Write(a.policy.Load().usersFile); err != nil {
			t.Fatal(err)
		}
		if err := a.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, tryAs(t, a, device, "carol", "pencil"), mq.OK)
}

func TestSCRAMCredentialMistakes(t *testing.T) {
	u := scramFile(t).Users[1]
	hash := "hash: " + u.Hash
	for _, tt := range []struct{ want, file string }{
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: x}\n"},
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: '" + u.SCRAM[:len(u.SCRAM)-8] + "'}\n"},
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: '" + u.SCRAM + "*'}\n"},
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: '" + strings.Replace(u.SCRAM, "256", "512", 1) + "'}\n"},
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: '" + strings.Replace(u.SCRAM, "$4096", "$x", 1) + "'}\n"},
		{"scram is not", "users:\n  - {name: a, " + hash + ", scram: '" + regexp.MustCompile(`4096:[^$]*`).ReplaceAllString(u.SCRAM, "4096:eHh4eA==") + "'}\n"},
		{"4095 SCRAM iterations", "users:\n  - {name: a, " + hash + ", scram: '" + strings.Replace(u.SCRAM, "4096", "4095", 1) + "'}\n"},
		{"1000001 SCRAM iterations", "users:\n  - {name: a, " + hash + ", scram: '" + strings.Replace(u.SCRAM, "4096", "1000001", 1) + "'}\n"},
		{"both scram and a secret", "users:\n  - {name: a, secret: b, scram: '" + u.SCRAM + "'}\n"},
		{"neither a hash nor a secret", "users:\n  - {name: a, scram: '" + u.SCRAM + "'}\n"},
		{"salt-key must be", "salt-key: eHh4eA==\nusers: []\n"},
		{"salt-key must be", "salt-key: '*'\nusers: []\n"},
	} {
		_, err := parseUsers([]byte(tt.file))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.file, err, tt.want)
		} else if strings.Contains(err.Error(), u.SCRAM[len(u.SCRAM)-20:]) {
			t.Errorf("the error shows the credential: %v", err)
		}
	}
	for _, password := range []string{"", "key 🔑", "\u00ad", "a\x00", "\xff"} {
		if err := new(UsersFile).SetSCRAM(&FileUser{Name: "a"}, []byte(password), MinIterations); !errors.Is(err, ErrNotPrepared) {
			t.Errorf("%q: got %v", password, err)
		}
	}
}

func TestSCRAMFileRoundTrip(t *testing.T) {
	want := scramFile(t, FileUser{Name: "bob", Secret: "s"})
	path := filepath.Join(t.TempDir(), "users.yml")
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadUsersFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.SaltKey == "" || got.Users[1].SCRAM == "" {
		t.Error("no salt key or no credential was written")
	}
	c, err := parseSCRAM(got.Users[1].SCRAM)
	if err != nil || formatSCRAM(&c) != got.Users[1].SCRAM {
		t.Error(c, err)
	}
}

// A file from before SCRAM goes on as it did; its secrets serve for SCRAM.
func TestSCRAMOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yml")
	text := "users:\n  - name: \"alice\"\n    hash: \"" + hashed(t, "alice", "wonder").Hash + "\"\n  - name: \"bob\"\n    secret: \"s3cret\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAuth(t, Options{UsersFile: path})
	for _, c := range []*mq.Credentials{login("c", "alice", "wonder"), login("c", "bob", "s3cret")} {
		_, err := a.Authenticate(t.Context(), c)
		wantCode(t, err, mq.OK)
	}
	wantCode(t, tryAs(t, a, device, "alice", "wonder"), mq.BadCredentials)
	wantCode(t, tryAs(t, a, device, "bob", "s3cret"), mq.OK)
	wantCode(t, tryAs(t, a, device, "bob", "secret"), mq.BadCredentials)
}

// Nobody gets in who does not know the password, whatever is sent; and the
// client whose answers are changed on the way does not, either.
func FuzzSCRAM(f *testing.F) {
	const first = "n,,n=carol,r=rOprNGfwEbeRWgbNEkqO"
	f.Add([]byte(first), []byte("c=biws,r=rOprNGfwEbeRWgbNEkqO,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), true)
	f.Add([]byte("y,a=bob,n=bob,r=x"), []byte("c=eSws,r=x,p="), true)
	f.Add([]byte("p=tls-exporter,,n=a=2Cb,r=x,x=y"), []byte(",,,"), false)
	f.Add([]byte("n,,n=\ufb01,r="), []byte("c=biws,r=,x=y,p=AAAA"), true)
	f.Add([]byte("n,,n=,r="), []byte("c=biws,r=,p="), true)
	file := scramFile(f, FileUser{Name: "bob", Secret: "s3cret"})
	a := scramAuth(f, file, Options{})
	f.Fuzz(func(t *testing.T, c1, c2 []byte, own bool) {
		e := begin(t, a, device)
		reply, done, err := e.Next(c1)
		switch {
		case done:
			t.Fatal("done after one message")
		case err == nil && (len(reply) == 0 || len(reply) > 2*maxMessage || !strings.HasPrefix(string(reply), "r=")):
			t.Fatalf("challenge %q", reply)
		case err != nil && reply != nil:
			t.Fatalf("refused with data %q", reply)
		}
		if err == nil && own { // get past the nonce
			nonce, _, _ := strings.Cut(string(reply), ",s=")
			cbind, _, _ := strings.Cut(string(c1), ",n=")
			c2 = fmt.Appendf(nil, "c=%s,%s,%s", base64.StdEncoding.EncodeToString([]byte(cbind+",")), nonce, c2)
		}
		for range 2 {
			reply, done, err = e.Next(c2)
			var refused *mq.Error
			if done || reply != nil || !errors.As(err, &refused) || e.Principal() != nil {
				t.Fatalf("%q %v %v %v", reply, done, err, e.Principal())
			}
			if refused.Code != mq.NotAuthorized && refused.Code != mq.BadCredentials {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkSCRAM(b *testing.B) {
	a := scramAuth(b, scramFile(b), Options{FailuresPerMinute: 60})
	client := newClient(b, "carol", "pencil", "")
	for b.Loop() {
		if _, err := converse(b, begin(b, a, device), client.NewConversation()); err != nil {
			b.Fatal(err)
		}
	}
}
