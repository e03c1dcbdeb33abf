package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"github.com/homing-mq/homing/internal/mqtt"
)

const (
	fuzzLoad      = 12 * time.Second // of all rounds, per `make test`
	fuzzRounds    = 3
	fuzzRoundMax  = time.Minute
	fuzzAttackers = 12
	fuzzPace      = 3 * time.Millisecond // between the beginnings of connections
	fuzzExpiry    = 2 * time.Second      // of sessions
	fuzzJournal   = 1500                 // scripts that are written down after a failure

	// What a round may leave behind that the first one has not.
	fuzzGoroutines = 8
	fuzzFiles      = 12
	fuzzHeap       = 10 << 20 // bytes
	fuzzEach       = 256      // and for each connection: stored and retained messages have an index
)

// TestFuzzLive: random and mutated packet sequences over many connections, slow
// ones, floods and aborts among them, while witnesses use the server as one
// should. The server does not panic or log an error, sends nothing that it must
// not, serves the witnesses to the letter, keeps nothing of what is gone
// (goroutines, file descriptors, sessions, memory), ends in good order in the
// middle of it, and its store is whole.
//
// HOMING_FUZZ=10m goes on for that long. HOMING_TEST_SEED repeats what is sent,
// though not when. After a failure the last connections are in a file;
// HOMING_FUZZ_REPLAY plays them.
func TestFuzzLive(t *testing.T) {
	t.Parallel()
	f := newFuzz(t)
	f.start()
	if f.replay != nil {
		f.playAgain()
		f.settle()
		f.end()
		return
	}
	first := f.settle()
	t.Logf("at first: %v", first)
	for i := range f.rounds {
		f.round(f.load / time.Duration(f.rounds))
		now := f.settle()
		t.Logf("round %d, %d connections: %v", i+1, f.count.Load(), now)
		if i == 0 { // buffers are in their pools, caches filled
			first.heap = now.heap
		}
		f.compare(first, now)
	}
	f.reached()
	f.end()
}

// fuzz is one run of TestFuzzLive.
type fuzz struct {
	t      testing.TB
	s      *server
	seed   uint64
	load   time.Duration
	rounds int
	replay []*script // nil: new ones
	limits fuzzLimits
	scram  *scram.Client
	count  atomic.Uint64 // scripts
	passes int           // rounds, for names
	began  time.Time

	mu       sync.Mutex
	journal  []played // the last ones
	failed   bool
	stopping bool // connections may fail
}

// played is a script that was begun.
type played struct {
	number uint64
	at     time.Duration
}

func newFuzz(t *testing.T) *fuzz {
	f := &fuzz{t: t, seed: rand.Uint64(), load: fuzzLoad, rounds: fuzzRounds}
	if text := os.Getenv("HOMING_TEST_SEED"); text != "" {
		f.must(fmt.Sscan(text, &f.seed))
	}
	if testing.Short() {
		f.load /= 3
	}
	if text := os.Getenv("HOMING_FUZZ"); text != "" {
		d, err := time.ParseDuration(text)
		f.must(0, err)
		f.load = d
		f.rounds = max(fuzzRounds, int(d/fuzzRoundMax))
	}
	if name := os.Getenv("HOMING_FUZZ_REPLAY"); name != "" {
		text, err := os.ReadFile(name)
		f.must(0, err)
		f.seed, f.replay, err = parseScripts(string(text))
		f.must(0, err)
	}
	var err error
	f.scram, err = scram.SHA256.NewClient(fuzzUser, fuzzPassword, "")
	f.must(0, err)
	f.scram.WithNonceGenerator(func() string { return scramNonce })
	f.s = f.server()
	t.Logf("seed %d", f.seed)
	return f
}

func (f *fuzz) must(_ int, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// server is one with narrow limits, so that they are met.
func (f *fuzz) server() *server {
	r := rand.New(rand.NewPCG(f.seed, 0))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	f.limits.inflight = 1 + r.IntN(40)
	s := newServer(f.t, "tls.cert=cert.pem", "tls.key=key.pem", "store.sync="+pick("always", "interval", "os"),
		"p2p.store-after="+pick("0s", "5ms", "20ms", "200ms"), "p2p.inbox-policy="+pick("drop-oldest", "reject"), "p2p.inbox-limit=300", "p2p.retention=30s",
		"limits.packet-size=64KiB", "limits.topic-length=255", "limits.outbox="+pick("16KiB", "64KiB", "1MiB"),
		"limits.pending-bytes="+pick("64KiB", "1MiB"), fmt.Sprint("limits.inflight=", f.limits.inflight),
		fmt.Sprint("limits.receive-maximum=", 10+r.IntN(100)), "limits.connect-timeout=1s", "limits.session-expiry="+fuzzExpiry.String(),
		"limits.keep-alive=1m", "limits.retained=100", "sys.interval=1s", "limits.failed-logins=0", "mqtt.strict-utf8="+pick("true", "false"))
	s.config = "auth:\n  anonymous: true\n  rules:\n    - deny: pub\n      topic: secret/#\n    - allow: sub\n      topic: $SYS/#\n    - allow: all\n      topic: \"#\"\n"
	writeCertificate(f.t.(*testing.T), s.dir, 1)
	s.passwd(fuzzUser, fuzzPassword)
	s.addr["mqtts"], s.addr["wss"] = "127.0.0.1:0", "127.0.0.1:0"
	// Else up to 32 MiB of garbage lie about, and what is kept cannot be told from it.
	s.command = func(cmd *exec.Cmd) { cmd.Env = environ("GOGC=50") }
	return s
}

func (f *fuzz) start() {
	f.s.start()
	f.began = time.Now()
}

// fail notes a failure; the first one writes the last scripts down. Any
// goroutine may call it.
func (f *fuzz) fail(format string, args ...any) {
	f.t.Errorf("seed %d: "+format, append([]any{f.seed}, args...)...)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed || f.replay != nil {
		f.failed = true
		return
	}
	f.failed = true
	name := filepath.Join(os.TempDir(), fmt.Sprintf("homing-fuzz-%d.txt", f.seed))
	var b strings.Builder
	fmt.Fprintln(&b, "seed", f.seed)
	for _, p := range f.journal {
		s := newScript(f.seed, p.number)
		s.at = p.at
		b.WriteString(s.String())
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		f.t.Error(err)
	}
	f.t.Logf("the last connections are in %[1]s; play them, or the lines of it that matter, with\n"+
		"\tHOMING_FUZZ_REPLAY=%[1]s go test -count 1 -run '^TestFuzzLive$' ./test\nor begin again with HOMING_TEST_SEED=%[2]d", name, f.seed)
}

// round is load for some time, with witnesses.
func (f *fuzz) round(d time.Duration) {
	stop := make(chan struct{})
	f.passes++
	var all sync.WaitGroup
	for _, kind := range witnessKinds {
		w := &witness{s: f.s, kind: kind, name: fmt.Sprintf("%s-%d", kind.name, f.passes), lifetime: fuzzExpiry}
		all.Go(func() {
			if err := w.run(stop); err != nil {
				f.fail("%v", err)
			}
		})
	}
	all.Go(func() {
		if err := f.farewells(stop); err != nil {
			f.fail("witness of wills and retained messages: %v", err)
		}
	})
	f.attack(stop, &all)
	select {
	case <-time.After(d):
	case <-f.s.done:
		f.fail("the server has ended:\n%s", f.s.tail())
	}
	close(stop)
	all.Wait()
	f.listen()
}

// attack plays scripts until stop is closed.
func (f *fuzz) attack(stop <-chan struct{}, all *sync.WaitGroup) {
	pace := make(chan struct{})
	all.Go(func() {
		defer close(pace)
		for tick := time.NewTicker(fuzzPace); !isClosed(stop); <-tick.C {
			select {
			case pace <- struct{}{}:
			case <-stop:
			}
		}
	})
	for range fuzzAttackers {
		all.Go(func() {
			for range pace {
				p := played{f.count.Add(1), time.Since(f.began)}
				f.mu.Lock()
				if f.journal = append(f.journal, p); len(f.journal) > 2*fuzzJournal {
					f.journal = append(f.journal[:0], f.journal[fuzzJournal:]...)
				}
				f.mu.Unlock()
				f.play(newScript(f.seed, p.number))
			}
		})
	}
}

func (f *fuzz) play(s *script) {
	a := &attacker{script: s, limits: f.limits, scram: f.scram}
	err := a.play(f.s)
	f.mu.Lock()
	stopping := f.stopping
	f.mu.Unlock()
	if err != nil && !stopping {
		f.fail("connection %d (%s, %v): %v", s.number, s.transport, s.version, err)
	}
}

// playAgain plays what a file says, each script at its time.
func (f *fuzz) playAgain() {
	var all sync.WaitGroup
	for _, s := range f.replay {
		time.Sleep(s.at - f.replay[0].at - time.Since(f.began))
		all.Go(func() { f.play(s) })
	}
	all.Wait()
	f.listen()
}

// listen looks for what the server must not say.
func (f *fuzz) listen() {
	for _, l := range f.s.output() {
		if containsAny(l, "panic", "DATA RACE", "fatal error", `"level":"ERROR"`) {
			f.fail("the server says\n%s\n...\n%s", l, f.s.tail())
			break
		}
	}
	if isClosed(f.s.done) {
		f.t.FailNow()
	}
	if n := f.s.metric("homing_panics_total"); n > 0 {
		f.fail("%v panics", n)
	}
}

// usage is what the server holds.
type usage struct {
	goroutines, files, heap int64
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d KiB of heap", u.goroutines, u.files, u.heap>>10)
}

// settle waits until nothing is left of the clients, and returns what the
// server holds then, after a collection of garbage.
func (f *fuzz) settle() usage {
	f.t.Helper()
	for _, name := range []string{"homing_connections", "homing_clients_connected", "homing_sessions", "homing_subscriptions", "homing_pending_bytes", "homing_store_queued_bytes"} {
		var n float64
		for end := time.Now().Add(5 * fuzzExpiry); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if n = f.s.metric(name); n == 0 {
				break
			}
		}
		if n != 0 {
			f.fail("%s stays at %v when everybody has left", name, n)
		}
	}
	u := usage{f.lowest("go_goroutines"), f.lowest("process_open_fds"), 0}
	for range 3 { // what finalizers and pools hold goes with the next collections
		f.collect()
	}
	u.heap = int64(f.s.metric("go_memstats_heap_alloc_bytes"))
	return u
}

// lowest is the least value of a metric in a short time: others come and go.
func (f *fuzz) lowest(name string) int64 {
	n := f.s.metric(name)
	for range 10 {
		time.Sleep(10 * time.Millisecond)
		n = min(n, f.s.metric(name))
	}
	return int64(n)
}

// collect makes the server collect garbage: it makes some.
func (f *fuzz) collect() {
	before := f.s.metric("go_memstats_last_gc_time_seconds")
	for range 3000 {
		if f.s.metric("go_memstats_last_gc_time_seconds") != before {
			return
		}
	}
}

func (f *fuzz) compare(first, now usage) {
	heap := first.heap + fuzzHeap + fuzzEach*int64(f.count.Load())
	if now.goroutines > first.goroutines+fuzzGoroutines || now.files > first.files+fuzzFiles || now.heap > heap {
		f.fail("the server keeps something: first %v, now %v\n%s", first, now, f.metrics())
	}
}

func (f *fuzz) metrics() string {
	_, page := f.s.get("/metrics")
	return homingMetrics(page)
}

// reached checks that the load is one: every packet type came and went, and
// what only happens to clients that misbehave has happened. A busy machine
// plays too few scripts to be sure of that.
func (f *fuzz) reached() {
	if f.count.Load() < 1500 {
		return
	}
	names := []string{
		"homing_connections_taken_over_total", "homing_messages_resent_total", "homing_messages_stored_total",
		`homing_connections_refused_total{reason="credentials"}`, `homing_connections_refused_total{reason="other"}`,
	}
	for p := mqtt.CONNECT; p <= mqtt.AUTH; p++ {
		names = append(names, fmt.Sprintf("homing_packets_total{direction=\"in\",type=%q}", p.String()))
		if p != mqtt.CONNECT && p != mqtt.SUBSCRIBE && p != mqtt.UNSUBSCRIBE && p != mqtt.PINGREQ {
			names = append(names, fmt.Sprintf("homing_packets_total{direction=\"out\",type=%q}", p.String()))
		}
	}
	for _, why := range []string{"bad_topic", "no_subscriber", "not_authorized", "offline"} {
		names = append(names, fmt.Sprintf("homing_messages_dropped_total{reason=%q}", why))
	}
	for _, name := range names {
		if f.s.metric(name) == 0 {
			f.fail("the load does not reach %s", name)
		}
	}
}

// farewells makes a client with a will vanish again and again: the will comes,
// and is retained.
func (f *fuzz) farewells(stop <-chan struct{}) error {
	w := &witness{s: f.s}
	topic := fmt.Appendf(nil, "farewell/%d", f.passes)
	watcher, err := w.wire("mqtt", mqtt.V5, &mqtt.Connect{ClientID: []byte("watcher"), CleanStart: true})
	if err != nil {
		return err
	}
	defer watcher.close()
	ask := &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Filter{{Topic: topic}}}
	if err := watcher.send(ask); err != nil {
		return err
	}
	if _, err := await[*mqtt.Suback](watcher); err != nil {
		return err
	}
	for k := 0; !isClosed(stop); k++ {
		v := []mqtt.Version{mqtt.V31, mqtt.V311, mqtt.V5}[k%3]
		will := mqtt.Will{Topic: topic, Payload: fmt.Append(nil, k), QoS: byte(k % 3), Retain: true}
		l, err := w.wire("mqtt", v, &mqtt.Connect{ClientID: []byte("mortal"), CleanStart: true, HasWill: true, Will: will})
		if err != nil {
			return err
		}
		l.close()
		if err := told(watcher, k, false); err != nil {
			return fmt.Errorf("the will: %w", err)
		}
		late, err := w.wire("mqtt", mqtt.V311, &mqtt.Connect{ClientID: []byte("late"), CleanStart: true})
		if err != nil {
			return err
		}
		err = errors.Join(late.send(ask), skip[*mqtt.Suback](late), told(late, k, true))
		late.close()
		if err != nil {
			return fmt.Errorf("the retained will: %w", err)
		}
		dawdle(10*time.Millisecond, 30*time.Millisecond)
	}
	return nil
}

func skip[T any](l *wire) error {
	_, err := await[T](l)
	return err
}

func told(l *wire, k int, retained bool) error {
	m, err := await[*mqtt.Publish](l)
	if err == nil && (string(m.Payload) != strconv.Itoa(k) || m.Retain != retained) {
		err = fmt.Errorf("%v retain %v, want %d", show([]any{m}), m.Retain, k)
	}
	return err
}

// end ends the server while clients are at it, and looks at what it leaves.
func (f *fuzz) end() {
	const messages = 50
	sender := f.s.connect(mqtt.V5, "last-sender", persistent)
	for k := range messages {
		if code := sender.publish("fuzz/p2p/last", strconv.Itoa(k), byte(1+k%2)); code != 0 {
			f.fail("message %d to keep: %v", k, code)
		}
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	f.attack(stop, &all)
	begun := f.count.Load()
	eventually(f.t, "clients are at it", func() bool { return f.count.Load() >= begun+100 })
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
	began := time.Now()
	code := f.s.stop()
	if took := time.Since(began); code != 0 || took > 10*time.Second {
		f.fail("the server ended with %d after %v:\n%s", code, took, f.s.tail())
	}
	close(stop)
	all.Wait()
	if code, out := homing(f.t, "store", "check", "--data", f.s.dir+"/data"); code != 0 {
		f.fail("homing store check: exit code %d\n%s", code, out)
	}
	f.s.start()
	target := f.s.connect(mqtt.V5, "last")
	for k := range messages {
		target.wants("fuzz/p2p/last", strconv.Itoa(k), byte(1+k%2))
	}
	f.listen()
	if code := f.s.stop(); code != 0 {
		f.fail("the server ended with %d after the restart", code)
	}
	runtime.KeepAlive(sender)
}
