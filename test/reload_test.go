package test

import (
	"crypto/tls"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mqtt"
)

// write replaces a file of the server at once, as a careful editor does.
func (s *server) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		s.t.Fatal(err)
	}
}

// lines counts the lines of the log that have a text.
func (s *server) says(text string) bool {
	return s.find(func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), text) })
}

// refusedAs logs in with an access key, and returns the code.
func (s *server) refusedAs(key, secret, id string) mqtt.ReasonCode {
	s.t.Helper()
	return s.refused(mqtt.V5, id, login(auth.SignatureUser(key, "i"), auth.Sign(secret, id)))
}

const reloadKeys = "auth:\n  access-keys:\n    - {key: AK, secret: XXXXX}\n    - {key: OLD, secret: YYYYY}\n"

// TestReload: SIGHUP and a changed file put rules, keys, parent topics and the log's
// level in force. A connection that is still allowed stays, and loses nothing; that of
// a deleted key ends. A mistake changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.config = reloadKeys + "  rules:\n    - {allow: all, topic: \"#\"}\n"
	s.start()
	stays := s.connect(mqtt.V5, "stays", login(auth.SignatureUser("AK", "i"), auth.Sign("XXXXX", "stays")))
	goes := s.connect(mqtt.V5, "goes", login(auth.SignatureUser("OLD", "i"), auth.Sign("YYYYY", "goes")))
	stays.subscribe(1, "news/#", "secret/#")
	n := 0
	both := func(wantSecret bool) {
		t.Helper()
		n++
		sender := s.connect(mqtt.V5, "sender", clean, login(auth.SignatureUser("AK", "i"), auth.Sign("XXXXX", "sender")))
		_ = sender.publish("secret/x", "secret", 1)
		if code := sender.publish("news/x", "news", 1); code != 0 {
			t.Fatalf("publish: %v", code)
		}
		sender.leave()
		if wantSecret {
			stays.wants("secret/x", "secret", 1)
		}
		stays.wants("news/x", "news", 1)
	}
	both(true)

	s.write("homing.yml", "auth:\n  access-keys:\n    - {key: AK, secret: XXXXX}\n    - {key: NEW, secret: ZZZZZ}\n  rules:\n    - {deny: all, topic: \"secret/#\"}\n    - {allow: all, topic: \"#\"}\nlog: {level: debug}\nstore: {sync: os}\n")
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	goes.disconnected(mqtt.CodeNotAuthorized)
	if !s.says("changed settings that need a restart: store.sync") || !s.says(`"changed":"auth.access-keys, auth.rules, log.level"`) {
		t.Errorf("the log does not say what has changed:\n%s", s.tail())
	}
	both(false)
	if code := s.refusedAs("OLD", "YYYYY", "goes"); code != mqtt.CodeBadUserNameOrPassword {
		t.Errorf("the old key: %v", code)
	}
	if code := s.refusedAs("NEW", "ZZZZZ", "new"); code != 0 {
		t.Errorf("the new key: %v", code)
	}

	for text, want := range map[string]string{
		"auth: {rulez: []}\n":                    "there is no setting",
		"auth:\n  access-keys: [{key: AK}]\n":    "has no secret",
		"auth: {users-file: none.yml}\n":         "does not exist",
		"auth: [\n":                              "the configuration was not read again",
		"listen: {mqtt: \"0.0.0.0:1\"}\nauth: {": "the old settings stay in force",
	} {
		s.write("homing.yml", text)
		_ = s.cmd.Process.Signal(syscall.SIGHUP)
		if !s.says(want) {
			t.Errorf("%q: the log does not say %q:\n%s", text, want, s.tail())
		}
		both(false)
	}

	// Without SIGHUP, the file is looked at.
	s.write("homing.yml", reloadKeys+"topics: [news]\n")
	eventually(t, "the changed file counts", func() bool { return s.refusedAs("OLD", "YYYYY", "goes") == 0 })
	if code := stays.publish("other/x", "x", 1); code != mqtt.CodeNotAuthorized {
		t.Errorf("a topic that is not in the list: %v", code)
	}
	both(false)
	if n != 8 {
		t.Errorf("%d messages arrived on the connection that stays, want 8", n)
	}
	stays.leave()
}

// TestReloadThroughLinks: a ConfigMap of Kubernetes is swapped by a symbolic link to a
// directory. A secret in a file of its own is read again when it changes.
func TestReloadThroughLinks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	config := "auth:\n  access-keys:\n    - {key: AK, secret-file: ak}\n"
	for version, secret := range map[string]string{"1": "XXXXX\n", "2": "YYYYY"} {
		dir := filepath.Join(s.dir, version)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"homing.yml": config, "ak": secret} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap := func(version string) {
		link := filepath.Join(s.dir, "data.link")
		if err := os.Symlink(version, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	swap("1")
	s.command = func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, "--config", "data.link/homing.yml") }
	s.start()
	p := s.connect(mqtt.V5, "dev", login(auth.SignatureUser("AK", "i"), auth.Sign("XXXXX", "dev")))
	swap("2")
	p.disconnected(mqtt.CodeNotAuthorized)
	if code := s.refusedAs("AK", "YYYYY", "dev"); code != 0 {
		t.Errorf("the new secret: %v", code)
	}
}

// TestSecuredStaysSecured: a server that has asked for a login does not open to
// everybody because its users file is not found.
func TestSecuredStaysSecured(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.passwd("alice", "wonder")
	s.start()
	s.connect(mqtt.V5, "a", login("alice", "wonder")).leave()
	s.stop()
	users := filepath.Join(s.dir, "users.yml")
	if err := os.Rename(users, users+".away"); err != nil {
		t.Fatal(err)
	}
	s.start()
	if !s.says("nobody can log in: this server has asked for a login before") {
		t.Errorf("the log does not say it:\n%s", s.tail())
	}
	for _, how := range []as{clean, login("alice", "wonder")} {
		if code := s.refused(mqtt.V5, "a", how); code == 0 {
			t.Error("somebody is let in")
		}
	}
	if err := os.Rename(users+".away", users); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the users file counts as soon as it is there", func() bool { return s.refused(mqtt.V5, "a", login("alice", "wonder")) == 0 })
	s.stop()
	if err := os.Remove(users); err != nil {
		t.Fatal(err)
	}
	s.settings = append(s.settings, "auth.anonymous=true")
	s.start()
	s.connect(mqtt.V5, "a").leave()
	s.stop()
}

// TestConfigShowsNoSecrets: they are masked, unless they are asked for; from the
// environment, from a file and in a mistake's line, too.
func TestConfigShowsNoSecrets(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	path := filepath.Join(dir, "homing.yml")
	run := func(text string, args ...string) (int, string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, append([]string{"config", "--config", path}, args...)...)
		cmd.Env = environ("THE_SECRET=s3cret")
		out, _ := cmd.CombinedOutput() // the exit code tells
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if err := os.WriteFile(filepath.Join(dir, "ak"), []byte("\xEF\xBB\xBFs3cret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"\xEF\xBB\xBFauth:\n  access-keys:\n    - {key: AK, secret: s3cret}\n", "auth:\n  access-keys:\n    - {key: AK, secret: \"${THE_SECRET}\"}\n",
		"auth:\n  access-keys:\n    - {key: AK, secret-file: ak}\n",
	} {
		code, out := run(text)
		if code != 0 || strings.Contains(out, "s3cret") || !strings.Contains(out, "key: AK") {
			t.Errorf("%q: exit code %d\n%s", text, code, out)
		}
		if code, out = run(text, "--show-secrets"); code != 0 || !strings.Contains(text, "secret-file") && !strings.Contains(out, "secret: s3cret") {
			t.Errorf("%q: exit code %d\n%s", text, code, out)
		}
	}
	for text, want := range map[string]string{
		"auth:\n  access-keys:\n    - {key: AK, secret: s3cret, secrat: x}\n":       "there is no setting",
		"auth:\n  access-keys:\n    - {key: AK, secret: \"${NO_SUCH}\"}\n":          "environment variable NO_SUCH, which is not set",
		"auth:\n  access-keys:\n    - {key: AK, secret: s3cret, secret-file: ak}\n": "give one of them",
		"auth:\n  access-keys:\n    - {key: AK, secret-file: none}\n":               "cannot read the secret-file",
		"\xFF\xFEa\x00": "save it as UTF-8",
	} {
		if code, out := run(text); code != 2 || !strings.Contains(out, want) || strings.Contains(out, "s3cret") {
			t.Errorf("%q: exit code %d\n%s", text, code, out)
		}
	}
}

// TestReloadCertificate: another certificate counts for new connections, also under
// another path; a connection that is open stays. A wrong one leaves all as it was.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	writeCertificate(t, s.dir, 1)
	two := filepath.Join(s.dir, "two")
	if err := os.Mkdir(two, 0o700); err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, two, 2)
	s.addr["mqtts"] = "127.0.0.1:0"
	s.config = "tls: {cert: cert.pem, key: key.pem}\n"
	s.start()
	serial := func() int64 {
		conn, err := tls.Dial("tcp", s.addr["mqtts"], &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // made by the test
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	old := s.connectOver("mqtts", mqtt.V5, "old")
	s.write("homing.yml", "tls: {cert: two/cert.pem, key: key.pem}\n") // do not belong together
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	if !s.says("the old settings stay in force") {
		t.Errorf("the log does not say it:\n%s", s.tail())
	}
	if n := serial(); n != 1 {
		t.Errorf("serial number %d after a mistake, want 1", n)
	}
	s.write("homing.yml", "tls: {cert: two/cert.pem, key: two/key.pem}\n")
	_ = s.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the other certificate counts", func() bool { return serial() == 2 })
	sender := s.connect(mqtt.V5, "sender")
	if code := sender.publish(topicOf("old"), "after", 1); code != 0 {
		t.Fatal(code)
	}
	old.wants(topicOf("old"), "after", 1)
}
