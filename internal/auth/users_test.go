package auth

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
)

func TestUsersFileMistakes(t *testing.T) {
	hash := hashed(t, "x", "y").Hash
	for _, tt := range []struct{ want, file string }{
		{"line 3", "users:\n  - name: a\n    hush: b\n"},
		{"line 1", "user: []\n"},
		{"line 2", "users:\n\t- name: a\n"},
		{"neither a hash nor a secret", "users:\n  - name: a\n"},
		{"both a hash and a secret", "users:\n  - {name: a, secret: b, hash: " + hash + "}\n"},
		{"not a bcrypt hash", "users:\n  - {name: a, hash: b}\n"},
		{"at most 14", "users:\n  - {name: a, hash: " + strings.Replace(hash, "$04$", "$31$", 1) + "}\n"},
		{"twice", "users:\n  - {name: a, secret: b}\n  - {name: a, secret: c}\n"},
		{"user name is empty", "users:\n  - {secret: b}\n"},
		{"cannot be a user name", "users:\n  - {name: 'a|b', secret: b}\n"},
	} {
		if _, err := parseUsers([]byte(tt.file)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.file, err, tt.want)
		}
	}
}

func TestUsersFileWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users.yml")
	want := &UsersFile{Users: []FileUser{hashed(t, "alice", "x"), {Name: "bob", Secret: "a\"b: #ü"}, {Name: "123", Secret: "no"}}}
	check := func(mode os.FileMode) {
		t.Helper()
		if err := want.Write(path); err != nil {
			t.Fatal(err)
		}
		got, err := ReadUsersFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("mode %v, want %v", info.Mode(), mode)
		}
	}
	check(0o600)
	for _, m := range [][2]os.FileMode{{0o640, 0o640}, {0o666, 0o640}, {0o600, 0o600}} {
		if err := os.Chmod(path, m[0]); err != nil {
			t.Fatal(err)
		}
		check(m[1])
	}
	if !want.Set(FileUser{Name: "bob", Secret: "new"}) || want.Set(FileUser{Name: "dave", Secret: "x"}) {
		t.Error("Set told a replacement from an addition wrongly")
	}
	check(0o600)
	for _, name := range []string{"alice", "bob", "123", "dave"} {
		if !want.Delete(name) || want.Delete(name) {
			t.Errorf("Delete %s", name)
		}
		check(0o600)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".users*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUsersFileRoundTrip(t *testing.T) {
	text := rapid.StringOf(rapid.Rune()).Filter(func(s string) bool { return s != "" && isText(s) })
	rapid.Check(t, func(t *rapid.T) {
		f := new(UsersFile)
		for range rapid.IntRange(0, 3).Draw(t, "users") {
			u := FileUser{Name: text.Draw(t, "name"), Secret: text.Draw(t, "secret")}
			if CheckUserName(u.Name) == nil {
				f.Set(u)
			}
		}
		got, err := parseUsers(f.marshal())
		if err != nil {
			t.Fatalf("%v\n%s", err, f.marshal())
		}
		if d := cmp.Diff(f, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// What is accepted is written as what reads the same.
func FuzzUsersFile(f *testing.F) {
	f.Add([]byte("users:\n  - name: a\n    secret: b\n"))
	f.Add([]byte("users: [{name: \"x\", hash: $2a$04$Q0Iy9oO1pGhaLh2mPp3eLuVYV6C4mCDBcAphX0xPMkXbNyJfWzGTa}]"))
	f.Add([]byte("# nothing\nusers:\n"))
	f.Add([]byte("users: &a\n- *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseUsers(data)
		if err != nil {
			return
		}
		again, err := parseUsers(file.marshal())
		if err != nil {
			t.Fatalf("%v\n%s", err, file.marshal())
		}
		if d := cmp.Diff(file, again, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
	})
}

// syncBuffer is a log that a test may read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) count(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.b.String(), text)
}

func TestUsersFileIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users.yml")
		var log syncBuffer
		a := newAuth(t, Options{
			UsersFile: path, UsersFileOptional: true, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		try := func(user, password string) error {
			_, err := a.Authenticate(t.Context(), login("c", user, password))
			return err
		}
		write := func(secret string) {
			t.Helper()
			if err := (&UsersFile{Users: []FileUser{{Name: "bob", Secret: secret}}}).Write(path); err != nil {
				t.Fatal(err)
			}
		}
		later := func() {
			time.Sleep(watchInterval + time.Second)
			synctest.Wait()
		}

		later()
		wantCode(t, try("bob", "anything"), mq.OK) // open: no file
		if n := log.count("level=ERROR"); n != 0 {
			t.Errorf("%d errors logged about a file that need not be there", n)
		}

		write("one")
		later()
		wantCode(t, try("bob", "one"), mq.OK)
		wantCode(t, try("bob", "anything"), mq.BadCredentials)

		write("two") // as long as the one before, in the same tick of the clock
		later()
		wantCode(t, try("bob", "two"), mq.OK)
		wantCode(t, try("bob", "one"), mq.BadCredentials)

		if err := os.WriteFile(path, []byte("users: [{name: bob}]"), 0o600); err != nil {
			t.Fatal(err)
		}
		later()
		later()
		wantCode(t, try("bob", "two"), mq.OK)
		if n := log.count("level=ERROR"); n != 1 {
			t.Errorf("%d errors logged, want 1", n)
		}
		if err := a.Reload(); err == nil {
			t.Error("Reload of a broken file gave no error")
		}

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		later()
		later()
		wantCode(t, try("bob", "two"), mq.OK)
		wantCode(t, try("bob", "anything"), mq.BadCredentials) // not open again
		if n := log.count("level=ERROR"); n != 2 {
			t.Errorf("%d errors logged, want 2", n)
		}

		write("three")
		if err := a.Reload(); err != nil {
			t.Fatal(err)
		}
		wantCode(t, try("bob", "three"), mq.OK)

		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := a.Reload(); err != nil || log.count("chmod 600") != 1 {
			t.Error(err, "want one warning about the file's mode")
		}
	})
}

// For the race detector: log-ins while the file changes.
func TestConcurrentLogins(t *testing.T) {
	alice := hashed(t, "alice", "wonder")
	path := usersFile(t, alice, FileUser{Name: "bob", Secret: "s"})
	a := newAuth(t, Options{UsersFile: path, AccessKeys: []AccessKey{{"AK", "XXXXX"}}, FailuresPerMinute: 1000})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				for _, c := range []*mq.Credentials{
					login("c", "alice", "wonder"), login("c", "bob", "s"), login("c", "Signature|AK|i", Sign("XXXXX", "c")),
				} {
					if _, err := a.Authenticate(t.Context(), c); err != nil {
						t.Error(err)
					}
				}
				_, _ = a.Authenticate(t.Context(), login("c", "bob", "wrong"))
			}
		})
	}
	for range 20 {
		if err := a.Reload(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
