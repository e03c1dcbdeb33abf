package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestLive: these settings count without a restart, and no others: each one here is
// put in force by the server's reloader.
func TestLive(t *testing.T) {
	want := []string{
		"topics", "client-id", "listen.ws-origins", "listen.hosts", "tls.cert", "tls.key", "auth.anonymous", "auth.access-keys", "auth.client-id",
		"auth.session-owner", "auth.users-file", "auth.hide-refusals", "auth.rules", "limits.failed-logins", "log.level",
	}
	var got []string
	leaves, _ := settings()
	for i := range leaves {
		if leaves[i].field.Tag.Get("live") != "" {
			got = append(got, leaves[i].path)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("live: %v, want %v", got, want)
	}
}

// TestChanged: each setting that differs is named, on the right side.
func TestChanged(t *testing.T) {
	leaves, _ := settings()
	for i := range leaves {
		s := &leaves[i]
		a, b := Default(), Default()
		switch v := s.value(b); v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		default:
			v.SetInt(v.Int() + 1)
		}
		live, restart := Changed(a, b)
		all := append(live, restart...)
		if len(all) != 1 || all[0] != s.path || (len(live) == 1) != (s.field.Tag.Get("live") != "") {
			t.Errorf("%s: %v, %v", s.path, live, restart)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "x", "EMPTY": "", "NESTED": "${A}"}
	for in, want := range map[string]string{
		"": "", "$SYS/#": "$SYS/#", "$share/g/a": "$share/g/a", "${A}": "x", "a${A}b${A}": "axbx", "${EMPTY}": "", "${NESTED}": "${A}", "$${A}": "${A}", "$$${A}": "$${A}",
		"$": "$", "$A": "$A",
	} {
		if got, err := expand(in, env); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${", "${}", "${A", "${B}"} {
		if got, err := expand(in, env); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// TestSecretFile: it is read beside the configuration, without its last line break, and
// what is printed names the file and not what is in it.
func TestSecretFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.yml")
	for name, text := range map[string]string{"ak": "s3cret\n", "c.yml": "auth:\n  access-keys:\n    - {key: AK, secret-file: ak}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(Sources{File: path})
	if err != nil || c.Auth.AccessKeys[0].Secret != "s3cret" {
		t.Fatalf("%+v, %v", c, err)
	}
	if text := string(c.YAML()); strings.Contains(text, "s3cret") || !strings.Contains(text, "secret-file: ") {
		t.Errorf("printed:\n%s", text)
	}
	if files := c.SecretFiles(path); len(files) != 1 || filepath.Base(files[0]) != "ak" {
		t.Errorf("files with secrets: %v", files)
	}
}
