package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// Every setting can be found, set from everywhere, and explained.
func TestEverySetting(t *testing.T) {
	leaves, sections := settings()
	key := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)?$`)
	env := map[string]string{configEnv: "the file"}
	for _, s := range leaves {
		if !key.MatchString(s.path) {
			t.Errorf("%s: odd path", s.path)
		}
		if s.field.Tag.Get("doc") == "" {
			t.Errorf("%s has no comment", s.path)
		}
		if other, ok := env[s.env()]; ok {
			t.Errorf("%s and %s have the same environment variable", s.path, other)
		}
		env[s.env()] = s.path
		if serviceEnv.MatchString(s.env()) {
			t.Errorf("%s is taken for a variable of Kubernetes", s.env())
		}
		switch s.field.Type.Kind() {
		case reflect.Int, reflect.Int64:
			if s.field.Tag.Get("min") == "" {
				t.Errorf("%s has no lower bound", s.path)
			}
		case reflect.Slice:
			if s.field.Tag.Get("example") == "" {
				t.Errorf("%s has no example", s.path)
			}
			if e := s.field.Type.Elem(); e.Kind() == reflect.Struct {
				for i := range e.NumField() {
					if tag := e.Field(i).Tag; !key.MatchString(tag.Get("key")) || tag.Get("doc") == "" {
						t.Errorf("%s: field %s lacks a key or a comment", s.path, e.Field(i).Name)
					}
				}
			}
		}
		// The default obeys its own tags.
		d := Default()
		if s.isList() {
			continue
		}
		text := scalarText(s.value(d))
		if err := setScalar(s.value(d), s.field.Tag, text); err != nil {
			t.Errorf("default of %s: %v", s.path, err)
		}
	}
	for _, s := range sections {
		f, _ := reflect.TypeFor[Config]().FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, s) })
		if f.Tag.Get("doc") == "" {
			t.Errorf("section %s has no comment", s)
		}
	}
}

// The defaults that the contract promises (section 10).
func TestContractDefaults(t *testing.T) {
	const contract = `
auth:
  anonymous: false
  access-keys: []
  users-file: users.yml
  rules: []
topics: []
p2p:
  keep: either
  retention: 72h
  inbox-limit: 10000
  inbox-bytes: 64MiB
  inbox-policy: drop-oldest
  store-after: 20ms
store:
  sync: always
  sync-interval: 100ms
  disk-limit: 0
limits:
  packet-size: 4MiB
  topic-length: 65535
  inflight: 1000
  connections: 0
  connections-per-address: 0
client-id: any
`
	c, err := loadText(t, contract)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Default(), c, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func loadText(t interface {
	Helper()
	Fatal(...any)
	TempDir() string
}, text string,
) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "homing.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Sources{File: path})
}

func TestPrecedence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "homing.yml")
	text := "store: {sync: os, sync-interval: 1s, disk-limit: 1GiB}\np2p:\n  keep: never\n  retention: 1h\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Sources{
		File: path,
		Env: []string{
			"HOME=/root", "HOMING_STORE_SYNC_INTERVAL=2s", "HOMING_STORE_DISK_LIMIT=2GiB", "HOMING_P2P_KEEP=always",
			"HOMING_AUTH_ACCESS_KEYS=[{key: AK, secret: 0123}, {key: B, secret: 'x y'}]", "HOMING_TOPICS=[a, b]",
			"HOMING_CONFIG=elsewhere.yml", "HOMING_SERVICE_HOST=10.0.0.1", "HOMING_PORT_1883_TCP_ADDR=10.0.0.1", "HOMING_MQ_PORT=tcp://10.0.0.1:1883",
		},
		Set:   []string{"store.disk-limit=3GiB", "p2p.keep=target", "listen.mqtt=:1", "topics=[c]", "tls.cert=", "data=a=b"},
		Flags: []Flag{{"--mqtt", "listen.mqtt", "127.0.0.1:2"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Store = Store{Sync: "os", SyncInterval: 2 * time.Second, DiskLimit: 3 << 30}
	want.P2P.Keep, want.P2P.Retention = "target", time.Hour
	want.Auth.AccessKeys = []AccessKey{{Key: "AK", Secret: "0123"}, {Key: "B", Secret: "x y"}}
	want.Topics = []string{"c"}
	want.Listen.MQTT = "127.0.0.1:2"
	want.Data = "a=b"
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
}

func TestRulesFromFile(t *testing.T) {
	c, err := loadText(t, `
auth:
  access-keys:   # nothing yet
  rules:         # first match wins
    - deny: pub
      topic: deny/#
    - allow: all
      topic: "#"
      user: backend
    - {allow: sub, topic: %c/x, client: dev1, access-key: AK}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{
		{Deny: "pub", Topic: "deny/#"}, {Allow: "all", Topic: "#", User: "backend"},
		{Allow: "sub", Topic: "%c/x", Client: "dev1", AccessKey: "AK"},
	}
	if d := cmp.Diff(want, c.Auth.Rules); d != "" {
		t.Error(d)
	}
}

func TestStandardSettings(t *testing.T) {
	c, err := loadText(t, "mqtt: {response-topic: '', strict-utf8: true}\nlimits: {keep-alive: 65535s, qos: 1}\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.MQTT = MQTT{StrictUTF8: true}
	want.Limits.KeepAlive, want.Limits.QoS = 65535*time.Second, 1
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	if got := Default().MQTT.ResponseTopic; got != "response/p2p/%c" {
		t.Errorf("the default response topic is %s", got)
	}
}

// Each mistake's message, without the directory of the file. "^" stands for
// the caret: what it must point at follows.
func TestFileMistakes(t *testing.T) {
	for _, tt := range []struct{ file, want, at string }{
		{"p2p:\n  retension: 72h\n", `homing.yml:2:3: there is no setting "p2p.retension"; did you mean p2p.retention?`, "retension"},
		{"retention: 72h\n", `homing.yml:1:1: there is no setting "retention"; did you mean p2p.retention?`, "retention"},
		{"limit:\n  inflight: 1\n", `homing.yml:1:1: there is no setting "limit"; did you mean limits?`, "limit"},
		{"xyzzy: 1\n", `homing.yml:1:1: there is no setting "xyzzy"`, "xyzzy"},
		{"store:\n  sync: os\n  sync: os\n", `homing.yml:3:3: "sync" is there twice; remove one`, "sync"},
		{"store:\n  sync: never # no\n", `homing.yml:2:9: store.sync must be one of always, interval, os, not "never"`, "never"},
		{"store: os\n", `homing.yml:1:8: store must have settings below it, like "sync: ..."`, "os"},
		{"p2p:\n  inbox-bytes: 64M\n", `homing.yml:2:16: p2p.inbox-bytes must be a size like 512, 64KiB, 64MiB or 2GiB, not "64M"`, "64M"},
		{"p2p:\n  inbox-bytes: -1\n", `homing.yml:2:16: p2p.inbox-bytes must be a size`, "-1"},
		{"p2p:\n  inbox-bytes: 9999999999TiB\n", `homing.yml:2:16: p2p.inbox-bytes is too large: 9999999999TiB`, "9999999999TiB"},
		{"p2p:\n  retention: 3d\n", `homing.yml:2:14: p2p.retention must be a duration like 500ms, 20s or 72h, not "3d"`, "3d"},
		{"p2p:\n  retention: -1h\n", `homing.yml:2:14: p2p.retention must be at least 0s, not -1h`, "-1h"},
		{"p2p:\n  store-after: 11s\n", `homing.yml:2:16: p2p.store-after must be at most 10s, not 11s`, "11s"},
		{"limits:\n  inflight: 0\n", `homing.yml:2:13: limits.inflight must be at least 1, not 0`, "0"},
		{"limits:\n  inflight: many\n", `homing.yml:2:13: limits.inflight must be a whole number, not "many"`, "many"},
		{"limits:\n  inflight: [1]\n", `homing.yml:2:13: limits.inflight must be a single value`, "[1]"},
		{"auth:\n  anonymous: yes\n", `homing.yml:2:14: auth.anonymous must be true or false, not "yes"`, "yes"},
		{"auth:\n  users-file:\n", `homing.yml:2:15: auth.users-file has no value`, ""},
		{"auth:\n  rules:\n    - allow: all\n      topic: #\n", `homing.yml:4:14: auth.rules[0].topic has no value; give one, "" for an empty one, and put text with # in quotes`, "#"},
		{"auth:\n  rules:\n    - allow: read\n", `homing.yml:3:14: auth.rules[0].allow must be one of pub, sub, all, not "read"`, "read"},
		{"auth:\n  rules:\n    - alow: pub\n", `homing.yml:3:7: there is no setting "alow" in auth.rules[0]; did you mean allow?`, "alow"},
		{"auth:\n  rules:\n    - action: pub\n", `homing.yml:3:7: there is no setting "action" in auth.rules[0]; possible are allow, deny, topic, user, client, access-key`, "action"},
		{"auth:\n  rules:\n    - pub\n", `homing.yml:3:7: auth.rules[0] must have keys and values`, "pub"},
		{"auth:\n  rules: pub\n", `homing.yml:2:10: auth.rules must be a list`, "pub"},
		{"topics: @b\n", `homing.yml:1:9: '@' is a reserved character; check the indentation, and put text with special`, "@b"},
		{"topics: {a: b}\n", `homing.yml:1:9: topics must be a list`, "{a"},
		{"data: &x y\n", `homing.yml:1:7: data has an anchor`, "&x"},
		{"listen:\n  mqtt: [::]:1883\n", `homing.yml:2:13: value is not allowed in this context; check the indentation, and put text`, ":1883"},
		{"listen:\n\tmqtt: x\n", `homing.yml:2:1: found character '	' that cannot start any token; check the indentation`, "\tmqtt"},
		{"- a\n", `homing.yml:1:1: the file must have settings below it, like "data: ..."`, "- a"},
		{"data: a\n---\ndata: b\n", `homing.yml:2:1: a second document`, "---"},
		{"<<: {data: a}\n", `homing.yml:1:1: this form of YAML is not read`, "<<"},
		// Across settings: with the line, as far as a file is to blame.
		{"listen:\n  mqtt: 1883\n", `homing.yml:2: listen.mqtt must be HOST:PORT, like 127.0.0.1:1883, :1883 or [::1]:1883, not "1883"`, ""},
		{"listen:\n  mqtt: :mqtt\n", `homing.yml:2: listen.mqtt must end in a port from 0 to 65535, not "mqtt"`, ""},
		{"listen:\n  mqtt: :65536\n", `homing.yml:2: listen.mqtt must end in a port`, ""},
		{"listen:\n  ws: 127.0.0.1:1883\n", `homing.yml:2: listen.ws is 127.0.0.1:1883, as is listen.mqtt; give one of them another port`, ""},
		{"listen:\n  mqtts: :8883\n", `homing.yml:2: listen.mqtts needs a certificate; set tls.cert and tls.key`, ""},
		{"listen: {mqtt: '', ws: '', rocketmq: '', rocketmq-grpc: '', http: ''}\n", `homing.yml:1: listen.mqtt and all other listeners are off`, ""},
		{"tls:\n  cert: a.pem\n", `homing.yml:2: tls.cert needs its private key; set tls.key`, ""},
		{"tls:\n  key: a.pem\n", `homing.yml:2: tls.key needs its certificate; set tls.cert`, ""},
		{"data: ''\n", `homing.yml:1: data is empty`, ""},
		{"p2p:\n  inbox-bytes: 1MiB\n", `homing.yml:2: p2p.inbox-bytes must be at least limits.packet-size (4MiB), or 0, not 1MiB`, ""},
		{"limits:\n  packet-size: 16MiB\n", `limits.pending-bytes must be at least limits.packet-size (16MiB), not 8MiB`, ""},
		{"limits:\n  pending-bytes-total: 4MiB\n", `homing.yml:2: limits.pending-bytes-total must be at least limits.pending-bytes (8MiB)`, ""},
		{"limits:\n  keep-alive: 1500ms\n", `homing.yml:2: limits.keep-alive must be whole seconds, not 1.5s`, ""},
		{"limits:\n  keep-alive: 65536s\n", `homing.yml:2:15: limits.keep-alive must be at most 65535s, not 65536s`, "65536s"},
		{"sys:\n  interval: 10ms\n", `homing.yml:2: sys.interval must be at least 1s, or 0s, not 10ms`, ""},
		{"limits:\n  qos: 3\n", `homing.yml:2:8: limits.qos must be at most 2, not 3`, "3"},
		{"mqtt:\n  response-topic: answers\n", `homing.yml:2: mqtt.response-topic must have %c, which stands for the client ID, not "answers"`, ""},
		{"mqtt:\n  response-topic: answers/%c\n", `homing.yml:2: mqtt.response-topic must be PARENT/p2p/%c, more levels may follow, not "answers/%c": elsewhere nobody gets answers without subscribing`, ""},
		{"mqtt:\n  response-topic: $SYS/p2p/%c\n", `homing.yml:2: mqtt.response-topic must be PARENT/p2p/%c, more levels may follow, not "$SYS/p2p/%c": elsewhere nobody gets answers without subscribing`, ""},
		{"limits:\n  session-expiry: 1500ms\n", `homing.yml:2: limits.session-expiry must be whole seconds, not 1.5s: MQTT knows no others`, ""},
		{"mqtt:\n  response-topic: answers/+/%c\n", `homing.yml:2: mqtt.response-topic must be a topic name, without + and #, not "answers/+/%c"`, ""},
		{"store:\n  disk-limit: 1MiB\n", `homing.yml:2: store.disk-limit must be at least 16 times limits.packet-size`, ""},
	} {
		_, err := loadText(t, tt.file)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %v, want %q", tt.file, err, tt.want)
			continue
		}
		first, excerpt, _ := strings.Cut(e.Error(), "\n")
		if i := strings.Index(first, "homing.yml"); i >= 0 {
			first = first[i:]
		}
		if !strings.HasPrefix(first, tt.want) {
			t.Errorf("%q:\n got %s\nwant %s", tt.file, first, tt.want)
		}
		if tt.at == "" {
			continue
		}
		lines := strings.Split(excerpt, "\n")
		if len(lines) != 2 {
			t.Errorf("%q: excerpt %q", tt.file, excerpt)
			continue
		}
		caret := strings.IndexByte(lines[1], '^')
		if caret < 0 || caret > len(lines[0]) || !strings.HasPrefix(lines[0][caret:], tt.at) {
			t.Errorf("%q: the caret does not point at %q:\n%s", tt.file, tt.at, excerpt)
		}
	}
}

func TestOtherMistakes(t *testing.T) {
	for _, tt := range []struct {
		src  Sources
		want string
	}{
		{Sources{File: "does-not-exist.yml"}, "cannot read the configuration: open does-not-exist.yml"},
		{Sources{Set: []string{"store.sinc=os"}}, `--set store.sinc: there is no setting "store.sinc"; did you mean store.sync?`},
		{Sources{Set: []string{"store.sync"}}, `--set store.sync: write --set KEY=VALUE, like --set store.sync=os`},
		{Sources{Set: []string{"store=os"}}, `--set store: store is a section; give one of its settings, like store.sync`},
		{Sources{Set: []string{"store.sync=on"}}, `--set store.sync: store.sync must be one of always, interval, os, not "on"`},
		{Sources{Set: []string{"topics=a"}}, `--set topics: topics must be a list, like [a, b]`},
		{Sources{Set: []string{"topics="}}, `--set topics: topics must be a list, like [a, b]; write [] for an empty one`},
		{Sources{Set: []string{"topics=[a"}}, `--set topics: `},
		{Sources{Set: []string{"auth.rules=[{alow: pub}]"}}, `--set auth.rules: there is no setting "alow" in auth.rules[0]; did you mean allow?`},
		{Sources{Set: []string{"listen.mqtt=x"}}, `--set listen.mqtt: listen.mqtt must be HOST:PORT`},
		{Sources{Env: []string{"HOMING_STORE_SINC=os"}}, `HOMING_STORE_SINC: there is no setting for this environment variable; did you mean HOMING_STORE_SYNC?`},
		{Sources{Env: []string{"HOMING_STORE=os"}}, `HOMING_STORE: there is no setting`},
		{Sources{Env: []string{"HOMING_CONFG=os"}}, `HOMING_CONFG: there is no setting for this environment variable; did you mean HOMING_CONFIG?`},
		{Sources{Env: []string{"HOMING_LIMITS_INFLIGHT="}}, `HOMING_LIMITS_INFLIGHT: limits.inflight must be a whole number, not ""`},
		{Sources{Flags: []Flag{{"--mqtt", "listen.mqtt", "x"}}}, `--mqtt: listen.mqtt must be HOST:PORT`},
	} {
		_, err := Load(tt.src)
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v:\n got %v\nwant %s", tt.src, err, tt.want)
		}
	}
}

func TestListsCanBeEmptied(t *testing.T) {
	c, err := Load(Sources{Env: []string{"HOMING_TOPICS=[a]"}, Set: []string{"topics=[]"}})
	if err != nil || c.Topics != nil {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "store:\n", "store:\n  # sync: os\np2p:\n"} {
		c, err := loadText(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if d := cmp.Diff(Default(), c); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "512": 512, "1B": 1, "64KiB": 64 << 10, "64 MiB": 64 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40,
		"1KB": 1000, "1kB": 1000, "1MB": 1e6, "1GB": 1e9, "1TB": 1e12, "8388607TiB": 8388607 << 40,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "B", "KiB", "1.5MiB", "1K", "1 Mi", "-1", "+1", "1e3", "8388608TiB", "9223372036854775808", "1KiBB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int64Min(0).Draw(t, "size"))
		if rapid.Bool().Draw(t, "round") {
			s &^= 1<<20 - 1
		}
		if got, err := parseSize(s.String()); err != nil || got != s {
			t.Fatalf("%d is written %s, read as %d, %v", s, s, got, err)
		}
	})
}

func TestDurationText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 72 * time.Hour: "72h", time.Minute: "1m", 90 * time.Second: "1m30s", 20 * time.Millisecond: "20ms", 10*time.Hour + 10*time.Second: "10h0m10s",
		10 * time.Minute: "10m", 100 * time.Hour: "100h", 10 * time.Second: "10s",
	} {
		if got := durationText(d); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, err := parseDuration(durationText(d)); err != nil || got != d {
			t.Errorf("%v: %v, %v", d, got, err)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "ab", 0}, {"sync", "sinc", 1}, {"sync", "snyc", 1}, {"sync", "syncs", 1}, {"abc", "cab", 2}, {"os", "always", 5}} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: got %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := editDistance(tt.b, tt.a); got != tt.want {
			t.Errorf("%q, %q: got %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestDefaultYAML(t *testing.T) {
	text := string(Default().YAML())
	for line := range strings.SplitSeq(text, "\n") {
		if len(line) > 130 {
			t.Errorf("long line: %s", line)
		}
	}
	c, err := loadText(t, text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if d := cmp.Diff(Default(), c); d != "" {
		t.Error(d)
	}
	leaves, _ := settings()
	for _, s := range leaves {
		if !strings.Contains(text, s.field.Tag.Get("doc")) {
			t.Errorf("the comment of %s is not printed", s.path)
		}
	}
	// The examples are good, too: take the comment signs away.
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasSuffix(strings.TrimSpace(strings.Split(line, "#")[0]), "[]") {
			line = strings.Split(line, "[]")[0]
		}
		if i := strings.Index(line, "#   "); i >= 0 && strings.TrimSpace(line[:i]) == "" {
			line = line[:i] + "  " + line[i+4:]
		}
		lines = append(lines, line)
	}
	if c, err = loadText(t, strings.Join(lines, "\n")); err != nil || len(c.Auth.Rules) != 2 || len(c.Auth.AccessKeys) != 1 || len(c.Topics) != 2 {
		t.Errorf("examples: %v, %+v\n%s", err, c, strings.Join(lines, "\n"))
	}
}

// What is printed reads the same, whatever the values are.
func TestYAMLRoundTrip(t *testing.T) {
	leaves, _ := settings()
	dir := t.TempDir()
	path := filepath.Join(dir, "homing.yml")
	text := rapid.OneOf(
		rapid.StringOf(rapid.RuneFrom([]rune("abN0189.:/-_#%{}[],&*!|>'\"\\ ~?@`=+<\t\n\r\x00\x07\x1b\x7f\u0085\u2028é世😀"))),
		rapid.SampledFrom([]string{"", "null", "~", "true", "no", "0x10", "1e3", ".5", ".inf", ".NaN", "0o7", "1:30", "2001-01-01", "---", "...", "- a", "a: b", "a #b", "<<", "="}),
		rapid.String(),
	)
	rapid.Check(t, func(t *rapid.T) {
		want := Default()
		for i := range leaves {
			if !rapid.Bool().Draw(t, leaves[i].path+"?") {
				continue
			}
			drawSetting(t, &leaves[i], leaves[i].value(want), text)
		}
		if err := os.WriteFile(path, want.YAML(), 0o600); err != nil {
			t.Fatal(err)
		}
		l := newLoader()
		if err := l.file(path, want.YAML()); err != nil {
			t.Fatalf("%v\n%s", err, want.YAML())
		}
		if d := cmp.Diff(want, l.cfg, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%s\n%s", d, want.YAML())
		}
	})
}

func drawSetting(t *rapid.T, s *setting, v reflect.Value, text *rapid.Generator[string]) {
	enum := func(tag reflect.StructTag, v reflect.Value, label string) {
		if e := tag.Get("enum"); e != "" {
			v.SetString(rapid.SampledFrom(strings.Split(e, ",")).Draw(t, label))
			return
		}
		v.SetString(text.Draw(t, label))
	}
	switch v.Kind() {
	case reflect.String:
		enum(s.field.Tag, v, s.path)
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, s.path))
	case reflect.Slice:
		for range rapid.IntRange(0, 2).Draw(t, s.path) {
			item := reflect.New(v.Type().Elem()).Elem()
			if item.Kind() == reflect.String {
				item.SetString(text.Draw(t, s.path))
			} else {
				for j := range item.NumField() {
					if rapid.Bool().Draw(t, "field") {
						enum(item.Type().Field(j).Tag, item.Field(j), s.path)
					}
				}
			}
			if k, ok := item.Interface().(AccessKey); ok && k.SecretFile != "" {
				item.FieldByName("Secret").SetString("") // one of them is given
			}
			v.Set(reflect.Append(v, item))
		}
	default:
		low, high := parseBound(v.Type(), s.field.Tag.Get("min")), int64(1<<62)
		if m := s.field.Tag.Get("max"); m != "" {
			high = parseBound(v.Type(), m)
		}
		v.SetInt(rapid.Int64Range(low, high).Draw(t, s.path))
	}
}

func TestCheckExposure(t *testing.T) {
	for _, tt := range []struct {
		addr                string
		anonymous, insecure bool
		ok                  bool
	}{
		{"127.0.0.1:1883", true, false, true}, {"127.1.2.3:1883", true, false, true}, {"[::1]:1883", true, false, true}, {"localhost:1883", true, false, true},
		{"[::ffff:127.0.0.1]:1883", true, false, true},
		{":1883", true, false, false}, {"0.0.0.0:1883", true, false, false}, {"[::]:1883", true, false, false}, {"192.0.2.1:1883", true, false, false},
		{"example.org:1883", true, false, false}, {"localhost.example.org:1883", true, false, false},
		{":1883", false, false, true}, {":1883", true, true, true},
	} {
		for _, set := range []func(*Config){
			func(c *Config) { c.Listen.MQTT = tt.addr },
			func(c *Config) { c.Listen.MQTTS = tt.addr },
			func(c *Config) { c.Listen.WS = tt.addr },
			func(c *Config) { c.Listen.WSS = tt.addr },
			func(c *Config) { c.Listen.HTTP = tt.addr },
		} {
			c := Default()
			set(c)
			err := CheckExposure(c, tt.anonymous, tt.insecure)
			if (err == nil) != tt.ok {
				t.Errorf("%s, anonymous %v, insecure %v: %v", tt.addr, tt.anonymous, tt.insecure, err)
			}
		}
	}
	c := Default()
	c.Listen.WS = ":8083"
	want := `listen.ws is :8083, which other machines can reach, but no login is configured; ` +
		`add a user with "homing passwd NAME", or auth.access-keys, or listen on 127.0.0.1:8083, or start with --insecure`
	if err := CheckExposure(c, true, false); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// No file makes the loader panic, and what it accepts can be printed and read.
func FuzzFile(f *testing.F) {
	f.Add([]byte("store: {sync: os}\nauth:\n  rules:\n    - {allow: pub, topic: '#'}\n"))
	f.Add(Default().YAML())
	f.Add([]byte("a: &x !t 1\nb: *x\n<<: c\n? d\n"))
	f.Add([]byte("data: |\n  x\ntopics:\n- >-\n  y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLoader()
		if l.file("f", data) != nil {
			return
		}
		again := newLoader()
		if err := again.file("f", l.cfg.YAML()); err != nil {
			t.Fatalf("%v\n%s", err, l.cfg.YAML())
		}
		if d := cmp.Diff(l.cfg, again.cfg, cmpopts.EquateEmpty()); d != "" {
			t.Error(d)
		}
	})
}
