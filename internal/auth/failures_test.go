package auth

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/homing-mq/homing/internal/mq"
)

// TestRightSecretIsNotLimited: whatever others at an address have tried, who signs
// rightly is let in, over MQTT and as a RocketMQ client, also when the server has
// just started.
func TestRightSecretIsNotLimited(t *testing.T) {
	a := newAuth(t, Options{
		AccessKeys: []AccessKey{{"AK", "XXXXX"}}, UsersFile: usersFile(t, hashed(t, "alice", "wonder")), FailuresPerMinute: 3,
	})
	for i := range 60 {
		for _, c := range []*mq.Credentials{
			login("evil", "Signature|AK|i", "bad"), login("evil", "alice", "bad"), login("evil", fmt.Sprint("user", i), "bad"),
		} {
			if _, err := a.Authenticate(t.Context(), c); err == nil {
				t.Fatal("a wrong secret is let in")
			}
		}
		if code, _ := requestCode(t, a, signed{"AK", "bad"}, nil, "192.0.2.1"); code != mq.BadCredentials {
			t.Fatalf("a wrong signature: %v", code)
		}
	}
	_, err := a.Authenticate(t.Context(), login("dev", "Signature|AK|i", Sign("XXXXX", "dev")))
	wantCode(t, err, mq.OK)
	if code, p := requestCode(t, a, signed{"AK", "XXXXX"}, nil, "192.0.2.1"); code != mq.OK || p.AccessKey != "AK" {
		t.Errorf("a right signature: %v", code)
	}
	_, err = a.Authenticate(t.Context(), login("evil", "Signature|AK|i", "bad"))
	wantCode(t, err, mq.BadCredentials)
}

// TestFailuresLimited: a user who guesses is refused, with the right password too;
// others at his address are not, and he is not at others.
func TestFailuresLimited(t *testing.T) {
	path := usersFile(t, hashed(t, "alice", "wonder"), hashed(t, "bob", "builder"))
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, Options{UsersFile: path, FailuresPerMinute: 3})
		from := func(addr, user, password string) error {
			c := login("dev", user, password)
			c.Remote = netip.MustParseAddr(addr)
			_, err := a.Authenticate(t.Context(), c)
			return err
		}
		for range 3 {
			wantCode(t, from("192.0.2.1", "alice", "bad"), mq.BadCredentials)
		}
		wantCode(t, from("192.0.2.1", "alice", "bad"), mq.TooManyAttempts)
		wantCode(t, from("192.0.2.1", "alice", "wonder"), mq.TooManyAttempts) // no oracle
		wantCode(t, from("::ffff:192.0.2.1", "alice", "wonder"), mq.TooManyAttempts)
		wantCode(t, from("192.0.2.1", "bob", "builder"), mq.OK)
		wantCode(t, from("192.0.2.2", "alice", "wonder"), mq.OK)
		wantCode(t, from("192.0.2.1", "alice", "wonder"), mq.OK) // it was right before: nobody guesses

		time.Sleep(21 * time.Second) // a third of a minute: one try
		wantCode(t, from("192.0.2.1", "alice", "bad"), mq.BadCredentials)
		wantCode(t, from("192.0.2.1", "alice", "bad"), mq.TooManyAttempts)
		time.Sleep(time.Hour)
		for range 3 {
			wantCode(t, from("192.0.2.1", "alice", "bad"), mq.BadCredentials)
		}
		wantCode(t, from("192.0.2.1", "alice", "bad"), mq.TooManyAttempts)

		for i := range 3 { // one /64
			wantCode(t, from([]string{"2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:1"}[i], "bob", "bad"), mq.BadCredentials)
		}
		wantCode(t, from("2001:db8::9", "bob", "bad"), mq.TooManyAttempts)
		wantCode(t, from("2001:db8:0:1::9", "bob", "bad"), mq.BadCredentials)
	})
}

// TestGuessesAreBounded: an attacker at one address who goes through users, who are
// there or not, has the tries that the comment on failures says and no more; a fleet
// behind that address gets in with its own passwords all the time, also right after
// a start of the server.
func TestGuessesAreBounded(t *testing.T) {
	const n = 6
	users := make([]FileUser, 0, 50)
	one := hashed(t, "", "right")
	for i := range cap(users) {
		users = append(users, FileUser{Name: fmt.Sprint("user", i), Hash: one.Hash})
	}
	path := usersFile(t, users...)
	for _, attack := range []struct {
		name  string
		user  func(i int) string
		tries int // in the first minute at once
	}{
		{"one user", func(int) string { return "user0" }, n},
		{"four users", func(i int) string { return fmt.Sprint("user", i%4) }, failuresAtOnce * n},
		{"many users in turn", func(i int) string { return fmt.Sprint("user", i%49) }, failuresInAll * n},
		{"names that are not there", func(i int) string { return fmt.Sprint("nobody", i) }, failuresInAll * n},
	} {
		t.Run(attack.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAuth(t, Options{UsersFile: path, FailuresPerMinute: n})
				looked, in, i := 0, 0, 0
				minute := func() {
					for range 400 {
						c := login("evil", attack.user(i), "wrong")
						i++
						_, err := a.Authenticate(t.Context(), c)
						if e := err.(*mq.Error); e.Code == mq.BadCredentials {
							looked++
						}
						if _, err := a.Authenticate(t.Context(), login("dev", "user49", "right")); err == nil {
							in++
						}
					}
				}
				minute()
				if looked > attack.tries || looked < min(attack.tries, failuresAtOnce*n) {
					t.Errorf("%d tries in the first minute, want %d", looked, attack.tries)
				}
				for range 9 {
					time.Sleep(time.Minute)
					minute()
				}
				if most := 10 * attack.tries; looked > most {
					t.Errorf("%d tries in ten minutes, want %d at most", looked, most)
				}
				if in != 4000 {
					t.Errorf("an innocent user got in %d times of 4000", in)
				}
			})
		})
	}
}

// TestFailuresMemory: addresses without end do not fill memory.
func TestFailuresMemory(t *testing.T) {
	f := newFailures(60, newDigestKey())
	var b [16]byte
	b[0] = 0x20
	for i := range uint64(4 * maxFailures) {
		binary.BigEndian.PutUint64(b[2:], i<<16)
		f.add("user", netip.AddrFrom16(b), time.Unix(0, 0))
	}
	if n := len(f.users.now) + len(f.users.past) + len(f.addrs.now) + len(f.addrs.past); n > 4*maxFailures {
		t.Errorf("%d entries", n)
	}
}

// TestSignaturesHaveOneMeaning: no text that is signed in one place counts in another.
func TestSignaturesHaveOneMeaning(t *testing.T) {
	texts := []string{
		"20261201T093000Z", "20261201T093000z", "20261201t093000Z", "2026120AT093000Z", "99999999T999999Z", "020261201T093000Z",
		"dev1", "GID_Test@@@0001", "a{b}", `AK{"clientID":"x"}`, "AK\x01", "WAIT\x01true\x02", "", "é", strings.Repeat("x", 1000),
	}
	a := newAuth(t, Options{AccessKeys: []AccessKey{{"AK", "XXXXX"}}, UsersFile: usersFile(t, FileUser{Name: "alice", Secret: "XXXXX"})})
	for _, text := range texts {
		doors := 0
		for _, user := range []string{"Signature|AK|i", "alice"} {
			_, err := a.Authenticate(context.Background(), login(text, user, Sign("XXXXX", text)))
			if err == nil && user != "alice" {
				doors++
			}
			if (err == nil) == mq.SignedElsewhere([]byte(text)) {
				t.Errorf("client ID %q of %s: %v", text, user, err)
			}
		}
		if mq.IsSignedDate([]byte(text)) {
			doors++
		}
		if mq.IsSignedRequest([]byte(text)) {
			doors++
		}
		if doors != 1 {
			t.Errorf("%q counts at %d doors", text, doors)
		}
	}
}
