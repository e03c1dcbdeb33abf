package main

import (
	"strings"
	"testing"
)

// The server of --spawn takes the login of the flags, and no other.
func TestBenchLogin(t *testing.T) {
	t.Parallel()
	for _, login := range [][]string{
		{"--user", "alice", "--password", "secret"},
		{"--access-key", `A: "K`, "--secret", "x{y"},
	} {
		flags := benchFlags{}
		if login[0] == "--user" {
			flags.User, flags.Password = login[1], login[3]
		} else {
			flags.AccessKey, flags.Secret = login[1], login[3]
		}
		args, err := flags.admit(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		bench := []string{"bench", "connect", "--server", newServer(t, args...), "-n", "1", "-d", "50ms", "--warmup", "0s"}
		if got := homing(t, "", append(bench, login...)...); got.code != 0 || !strings.Contains(got.out, "login, ") {
			t.Errorf("%v: exit code %d %s%s", login, got.code, got.out, got.err)
		}
		wrong := append([]string{}, login...)
		wrong[3] = "another"
		for _, other := range [][]string{nil, wrong} {
			if got := homing(t, "", append(bench, other...)...); got.code != exitFailed || !strings.Contains(got.err, "refused the connection") {
				t.Errorf("%v with %v: exit code %d %s%s", login, other, got.code, got.out, got.err)
			}
		}
	}
}
