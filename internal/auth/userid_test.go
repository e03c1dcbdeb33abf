package auth

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
)

func TestUserClientIDPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, user string
		match, not    []string
	}{
		{"%u", "ann", []string{"ann"}, []string{"", "an", "anna", "Ann", "ann-", "bob"}},
		{"%u-*", "ann", []string{"ann-", "ann-1", "ann-*", "ann--x"}, []string{"ann", "ann1", "x-ann-1", "bob-1"}},
		{"%u*", "ann", []string{"ann", "anna"}, []string{"an", "bann"}},
		{"app/%u/%u", "a", []string{"app/a/a"}, []string{"app/a/b", "app/b/a", "app/a/", "app//"}},
		{"100%%-%u", "a", []string{"100%-a"}, []string{"100%%-a", "100-a"}},
		{"shared-*", "a", []string{"shared-", "shared-x"}, []string{"share", "a"}},
		{"*", "a", []string{"", "x"}, nil},
		// A name is no pattern.
		{"%u", "*", []string{"*"}, []string{"", "x", "**"}},
		{"%u-*", "a*", []string{"a*-1"}, []string{"ab-1", "a-1"}},
		{"%u", "+", []string{"+"}, []string{"x"}},
		{"%u", "#", []string{"#"}, []string{"x", ""}},
		{"%u", "%u", []string{"%u"}, []string{"%u%u", "u", ""}},
		{"%u", ".*", []string{".*"}, []string{"ab"}},
	} {
		list, err := compilePatterns([]string{c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		for want, ids := range map[bool][]string{true: c.match, false: c.not} {
			for _, id := range ids {
				if got := list[0].matches(id, c.user); got != want {
					t.Errorf("%q of user %q, client ID %q: %v, want %v", c.pattern, c.user, id, got, want)
				}
			}
		}
		if n := testing.AllocsPerRun(10, func() { list[0].matches("ann-1", c.user) }); n != 0 {
			t.Errorf("%q: %v allocations", c.pattern, n)
		}
	}
	for _, bad := range []string{"", "%", "%c", "u%", "*-%u", "%u**", "%u-*-x"} {
		err := (&Options{UserClientIDs: []string{bad}}).Check()
		if err == nil || !strings.HasPrefix(err.Error(), "auth.client-id: ") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Users are bound to their client IDs, by whatever method they log in; access keys
// and anonymous clients are not.
func TestUserClientIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yml")
	if err := scramFile(t, hashed(t, "alice", "wonder"), FileUser{Name: "bob", Secret: "XXXXX"}).Write(path); err != nil {
		t.Fatal(err)
	}
	a := newAuth(t, Options{
		AccessKeys: []AccessKey{{"AK", "XXXXX"}}, Anonymous: true, UserClientIDs: []string{"%u", "%u-*"}, UsersFile: path,
	})
	for _, c := range []struct {
		name string
		c    *mq.Credentials
		code mq.Code
	}{
		{"own", login("alice", "alice", "wonder"), mq.OK},
		{"own, more", login("alice-1", "alice", "wonder"), mq.OK},
		{"another's", login("bob", "alice", "wonder"), mq.BadClientID},
		{"another's, wrong password", login("bob", "alice", "x"), mq.BadCredentials},
		{"own, wrong password", login("alice", "alice", "x"), mq.BadCredentials},
		{"signed with the secret", login("carl", "bob", Sign("XXXXX", "carl")), mq.BadClientID},
		{"signature", login("dev", "Signature|AK|i", Sign("XXXXX", "dev")), mq.OK},
		{"anonymous", &mq.Credentials{ClientID: "any"}, mq.OK},
		{"assigned", &mq.Credentials{ClientID: "auto-1", Assigned: true, HasUsername: true, Username: "alice", HasPassword: true, Password: []byte("wonder")}, mq.OK},
	} {
		_, err := a.Authenticate(t.Context(), c.c)
		t.Run(c.name, func(t *testing.T) { wantCode(t, err, c.code) })
	}
	for id, code := range map[string]mq.Code{"bob": mq.OK, "bob-1": mq.OK, "alice": mq.BadClientID} {
		_, err := converse(t, begin(t, a, &mq.Credentials{ClientID: id}), newClient(t, "bob", "XXXXX", "").NewConversation())
		t.Run("SCRAM as "+id, func(t *testing.T) { wantCode(t, err, code) })
	}
}
