package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

const (
	killsPerMode = 15 // per `make test`, in each of the three sync modes

	lifeTime  = 700 * time.Millisecond // the longest that a server lives
	downTime  = 60 * time.Millisecond  // the longest that it is away
	drainTime = 60 * time.Second       // the longest without any progress at the end
	soonTime  = 10 * time.Second       // the longest that what must be at once may take
)

// TestKill: the server is killed with -9 at random moments, again and again,
// while senders publish QoS 0, 1 and 2 to online and offline targets. At the
// end everything is drained and the ledger closed: nothing that was
// acknowledged is lost, QoS 2 does not come twice, the first deliveries from
// each sender to each target are in the order sent.
//
// HOMING_TORTURE=10m goes on for that long, in each mode. HOMING_TEST_SEED repeats the random
// choices, though not the races.
func TestKill(t *testing.T) {
	for _, mode := range syncModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := newCrash(t, mode)
			c.run(c.startSenders)
		})
	}
}

var syncModes = []string{"always", "interval", "os"}

// crash is one run of TestKill.
type crash struct {
	t      testing.TB
	mode   string
	seed   uint64
	s      *server
	addrs  map[string]string // by transport
	ids    []string          // of the targets
	ledger *ledger

	targetKinds []targetKind
	senderKinds []senderKind
	kills       int           // in `make test`
	torture     time.Duration // how long instead; 0: kills
	refuses     bool          // the server may refuse messages, also for good
	tolerated   string        // in a line of the server's log: that is no error here
	census      func()        // called now and then before a server ends; nil: nothing
	drained     func()        // called when all is delivered, before the last kill; nil: nothing
	takeovers   atomic.Int64  // connections that took the place of one to the same server
	thrown      atomic.Int64  // senders that a living server has closed
	watching    atomic.Value  // <-chan struct{}: the life in which the witness is there

	up        gate          // open while the server should be there
	producing chan struct{} // closed: senders send no new messages
	draining  chan struct{} // closed: targets stay connected and acknowledge at once
	over      chan struct{} // closed: everybody goes home
	senders   sync.WaitGroup
	targets   sync.WaitGroup
}

// newCrash prepares a run, in any of the sync modes if none is given. Beside MQTT
// the server listens for the transports.
func newCrash(t *testing.T, mode string, transports ...string) *crash {
	seed := rand.Uint64()
	if text := os.Getenv("HOMING_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	c := &crash{
		t: t, mode: mode, seed: seed, ledger: newLedger(),
		targetKinds: targetKinds, senderKinds: senderKinds, kills: killsPerMode,
		producing: make(chan struct{}), draining: make(chan struct{}), over: make(chan struct{}),
	}
	if text := os.Getenv("HOMING_TORTURE"); text != "" {
		var err error
		if c.torture, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if mode == "" {
		c.mode = syncModes[c.random(2).IntN(len(syncModes))]
	}
	// An own limit would push messages out; a short store-after stores more.
	storeAfter := []string{"1ms", "20ms", "300ms"}[c.random(0).IntN(3)]
	c.s = newServer(t, "store.sync="+c.mode, "store.sync-interval=20ms", "p2p.store-after="+storeAfter,
		"p2p.inbox-limit=0", "p2p.inbox-bytes=0")
	for _, transport := range transports {
		c.s.addr[transport] = ""
	}
	c.s.fixPorts()
	c.addrs = maps.Clone(c.s.addr)
	t.Logf("store.sync %s, store-after %s, seed %d", c.mode, storeAfter, seed)
	return c
}

// random is a source of random choices, the same for the same seed and stream.
func (c *crash) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(c.seed, stream)) }

func (c *crash) run(startSenders func()) {
	c.launch()
	c.startTargets()
	startSenders()
	kills := c.massacre()
	close(c.producing)
	c.settle(kills)
}

func (c *crash) startTargets() {
	for i, kind := range c.targetKinds {
		id := fmt.Sprintf("target-%d-%s", i, kind.name)
		c.ids = append(c.ids, id)
		c.targets.Go(newCrashTarget(c, id, kind, c.random(uint64(100+i))).run)
	}
}

// startSenders starts those of TestKill. Each sends to each target.
func (c *crash) startSenders() {
	for i, kind := range c.senderKinds {
		c.senders.Go(newCrashSender(c, fmt.Sprintf("sender-%d-%s", i, kind.name), kind, c.ids, c.random(uint64(200+i))).run)
	}
}

// massacre kills and restarts the server, and returns how often.
func (c *crash) massacre() int {
	r := c.random(1)
	limit := func(kills int, _ time.Time) bool { return kills < c.kills }
	if testing.Short() {
		limit = func(kills int, _ time.Time) bool { return kills < 2 }
	}
	if c.torture > 0 {
		limit = func(_ int, began time.Time) bool { return time.Since(began) < c.torture }
	}
	kills := 0
	for began := time.Now(); limit(kills, began); {
		c.pause(time.Duration(r.Int64N(int64(lifeTime))))
		if c.census != nil && r.IntN(2) == 0 {
			c.census()
		}
		if r.IntN(6) == 0 {
			c.terminate()
			continue
		}
		c.kill()
		kills++
		c.pause(time.Duration(r.Int64N(int64(downTime))))
		c.s.launch()
		if r.IntN(8) > 0 { // else it may be killed while it starts
			c.awaitUp()
		}
	}
	return kills
}

// pause is the random moment: nothing is waited for.
func (c *crash) pause(d time.Duration) { time.Sleep(d) }

func (c *crash) launch() {
	c.s.launch()
	c.awaitUp()
}

func (c *crash) awaitUp() {
	if !c.s.listening() {
		c.t.Fatalf("seed %d: the server does not start after a kill:\n%s", c.seed, c.s.tail())
	}
	c.up.open()
}

func (c *crash) kill() {
	c.up.shut()
	c.s.process.kill()
	for _, line := range c.s.output() {
		if containsAny(line, "panic", "DATA RACE", `"level":"ERROR"`) && (c.tolerated == "" || !strings.Contains(line, c.tolerated)) {
			c.t.Errorf("seed %d: the server said %s\nits log ends with\n%s", c.seed, line, c.s.tail())
			break
		}
	}
}

// terminate ends the server in good order, which must not lose anything
// either, and starts it again.
func (c *crash) terminate() {
	c.awaitUp()
	if code := c.s.stop(); code != 0 {
		c.t.Errorf("seed %d: the server ended with %d:\n%s", c.seed, code, c.s.tail())
	}
	c.up.shut()
	c.launch()
}

// settle drains everything, checks the ledger and looks once more after a last
// kill: nothing may come again.
func (c *crash) settle(kills int) {
	c.awaitUp()
	close(c.draining)
	c.progress("the senders have their acknowledgements", waitGroup(&c.senders))
	c.progress("everything acknowledged is delivered", c.when(func() bool { return c.ledger.missing() == 0 }))
	if c.drained != nil {
		c.drained()
	}
	c.kill()
	c.s.launch()
	c.awaitUp()
	c.progress("the targets are back", c.mark())
	close(c.over)
	c.targets.Wait()
	c.report(kills + 1)
	eventually(c.t, "no delayed message waits", func() bool { return c.s.metric("homing_messages_delayed") == 0 })
	if code := c.s.stop(); code != 0 {
		c.t.Errorf("the server ended with %d:\n%s", code, c.s.tail())
	}
	if code, out := homing(c.t, "store", "check", "--data", c.s.dir+"/data"); code != 0 {
		c.t.Errorf("homing store check: exit code %d\n%s", code, out)
	}
}

// mark sends each target a last message, which comes behind everything that
// waits for it.
func (c *crash) mark() <-chan struct{} {
	sender := c.s.connect(mqtt.V5, "marker", persistent)
	for _, id := range c.ids {
		if code := sender.publish("kill/p2p/"+id, "mark last", 1); code != 0 {
			c.t.Errorf("the mark for %s: %v", id, code)
		}
	}
	return c.when(func() bool { return c.ledger.marked("last") == len(c.ids) })
}

// when is closed once the ledger satisfies ok.
func (c *crash) when(ok func() bool) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		for {
			news := c.ledger.news()
			if ok() {
				close(done)
				return
			}
			select {
			case <-news:
			case <-c.over:
				return
			}
		}
	}()
	return done
}

// soon waits until ok, for some seconds, and notes a problem if it waits in
// vain. It returns how long it took.
func (c *crash) soon(what string, ok func() bool) time.Duration {
	began := time.Now()
	for !ok() {
		if time.Since(began) > soonTime {
			c.ledger.problem("not within %v: %s", soonTime, what)
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// progress waits for done as long as the ledger changes, but not for ever: a
// sender that is refused again and again changes it too.
func (c *crash) progress(what string, done <-chan struct{}) {
	limit, last := time.NewTimer(drainTime), time.After(3*drainTime)
	for {
		select {
		case <-done:
			return
		case <-c.ledger.news():
			limit.Reset(drainTime)
		case <-limit.C:
			c.inVain(what)
		case <-last:
			c.inVain(what)
		}
	}
}

// inVain ends the run: something was waited for too long.
func (c *crash) inVain(what string) {
	_, page := c.s.get("/metrics")
	close(c.over)
	c.senders.Wait()
	c.targets.Wait()
	c.report(-1)
	c.t.Fatalf("seed %d: in vain waited until %s; metrics:\n%s", c.seed, what, homingMetrics(page))
}

func (c *crash) report(kills int) {
	sum, problems := c.ledger.close()
	c.t.Logf("%-8s kills %d  takeovers %d  sent %d  acknowledged %d  refused %d (and %d connections closed)  delivered %d  duplicates %d  twice %d  lost %d",
		c.mode, kills, c.takeovers.Load(), sum.sent, sum.acknowledged, sum.refused, c.thrown.Load(), sum.delivered, sum.duplicates, sum.twice, sum.lost)
	for _, p := range problems {
		c.t.Errorf("seed %d: %s", c.seed, p)
	}
}

func waitGroup(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	return done
}
