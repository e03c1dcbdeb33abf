package rocketmqserver

import (
	"bytes"
	"compress/zlib"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homing-mq/homing/internal/auth"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/rocketmq"
	pb "github.com/homing-mq/homing/internal/rocketmqpb"
)

func deflated(n int) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(make([]byte, n))
	_ = z.Close()
	return b.Bytes()
}

// TestGrowth: when the next body of a sender may come.
func TestGrowth(t *testing.T) {
	const mib = 1 << 20
	second := int64(time.Second)
	g := growth{rate: 10 * mib, paid: make(map[grower]int64)}
	a, b := grower{key: "a"}, grower{addr: netip.MustParseAddr("192.0.2.1")}
	at := 100 * second
	for _, x := range []struct {
		name         string
		by           grower
		after        int64 // ns
		came, became int
		want         time.Duration // until the next
	}{
		{"as text does", a, 0, 1 * mib, 16 * mib, 0},
		{"a second's worth", a, 0, 0, 10 * mib, 0},
		{"more", a, 0, 0, 5 * mib, 500 * time.Millisecond},
		{"another sender", b, 0, 0, 1 * mib, 0},
		{"half of it paid", a, second / 4, 0, 0, 250 * time.Millisecond},
		{"paid", a, second, 0, 0, 0},
		{"long after: a second's worth, not more", a, 100 * second, 0, 20 * mib, time.Second},
	} {
		at += x.after
		g.charge(x.by, x.came, x.became, at)
		if got := g.wait(x.by, at); (got - x.want).Abs() > time.Microsecond {
			t.Errorf("%s: wait %v, want %v", x.name, got, x.want)
		}
	}
	for i := range 10 * maxGrown { // those that owe nothing are forgotten
		at += second / 100
		g.charge(grower{addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, 0, 1000, at)
	}
	if n := len(g.paid); n > maxGrown {
		t.Errorf("%d senders are remembered", n)
	}
	free := growth{}
	free.charge(a, 0, 1<<40, at)
	if free.wait(a, at) != 0 || free.inflated.Load() != 1<<40 {
		t.Error("without a limit there is one")
	}
	if x, y := growerOf(&mq.Principal{}, netip.MustParseAddr("2001:db8::1")), growerOf(&mq.Principal{}, netip.MustParseAddr("2001:db8::2")); x != y {
		t.Errorf("%v and %v are two", x, y)
	}
}

// TestInflatedBodiesAreBounded: a sender whose bodies grow a lot is slowed down to
// the rate, by each protocol; who has many connections is refused; others are not
// slowed.
func TestInflatedBodiesAreBounded(t *testing.T) {
	const rate, size = 8 << 20, 1 << 20
	r := newRig(t, rigOptions{
		auth:   auth.Options{AccessKeys: []auth.AccessKey{{Key: "AK", Secret: "SK"}, {Key: "other", Secret: "SK2"}}},
		server: func(o *Options) { o.BodySize, o.InflateRate = size, rate },
	})
	body := deflated(size)
	p2p := properties(keySecondTopic, "/p2p/nobody", keyQoS, "0")
	hostile := func() *client {
		c := r.dial()
		c.secret = "SK"
		return c
	}
	ext := fields("parent", p2p)
	ext[slices.Index(ext, "f")+1] = "1" // compressed; a second f would make the signature wrong
	send := func(c *client) answer { return c.do(rocketmq.SendMessageV2, body, ext...) }
	grpc := func(p *producer, key, secret string, body []byte) *pb.Status {
		m := message("/p2p/nobody", "x", keyQoS, "0")
		m.Body, m.SystemProperties.BodyEncoding = body, pb.Encoding_GZIP
		return p.send(calling(t, sign(key, secret, "20260101T000000Z", true)...), m).Status
	}
	for way, once := range map[string]func(){
		"remoting": func() func() { c := hostile(); return func() { send(c) } }(),
		"gRPC":     func() func() { p := r.producer(); return func() { grpc(p, "AK", "SK", body) } }(),
	} {
		before, begin := r.growth.inflated.Load(), time.Now()
		for range 3 * rate / size {
			once()
		}
		grown, took := r.growth.inflated.Load()-before, time.Since(begin)
		if allowed := float64(rate)*(took.Seconds()+1) + 2*size + float64(freeGrowth*len(body)*3*rate/size); float64(grown) > allowed {
			t.Errorf("%s: bodies became %d bytes in %v", way, grown, took)
		}
		if grown < 2*rate {
			t.Errorf("%s: only %d bytes in %v", way, grown, took)
		}
	}
	// Many connections at once: some are refused, and the innocent is not held up.
	begin := time.Now()
	refused := r.core.Stats.Dropped[mq.DropTooLarge].Load()
	var flow atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		c := hostile()
		all.Go(func() {
			for time.Since(begin) < 2*growthWait {
				if send(c).code == rocketmq.FlowControl {
					flow.Add(1)
				}
			}
		})
	}
	innocent := r.producer()
	slowest, sends := time.Duration(0), 0
	for time.Since(begin) < growthWait {
		at := time.Now()
		wants(t, grpc(innocent, "other", "SK2", deflated(10<<10)), pb.Code_OK, "")
		slowest, sends = max(slowest, time.Since(at)), sends+1
	}
	all.Wait()
	if flow.Load() == 0 || r.core.Stats.Dropped[mq.DropTooLarge].Load()-refused != uint64(flow.Load()) {
		t.Errorf("%d refused, %d counted", flow.Load(), r.core.Stats.Dropped[mq.DropTooLarge].Load()-refused)
	}
	if slowest > growthWait/2 {
		t.Errorf("of %d sends of another sender one took %v", sends, slowest)
	}
}

// TestGRPCInflatesNoMore: what one request may make the server decompress is bounded
// in all, also by bodies that are refused.
func TestGRPCInflatesNoMore(t *testing.T) {
	r := newRig(t, rigOptions{})
	limit := r.opt.BodySize
	damaged := deflated(limit)
	damaged[len(damaged)-1] ^= 1 // of the checksum
	for name, body := range map[string][]byte{
		"bombs": deflated(2 * limit), "damaged": damaged, "for nobody": deflated(limit / 2),
	} {
		var list []*pb.Message
		for range 100 {
			m := message("/p2p/nobody", "")
			m.Body, m.SystemProperties.BodyEncoding = body, pb.Encoding_GZIP
			list = append(list, m)
		}
		before := r.growth.inflated.Load()
		if code := r.producer().send(calling(t), list...).Status.Code; code == pb.Code_OK {
			t.Errorf("%s: %v", name, code)
		}
		if n := r.growth.inflated.Load() - before; n > uint64(maxBodies*limit+100) || n < uint64(maxBodies*limit/2) {
			t.Errorf("%s: decompressed %d bytes, %d are allowed", name, n, maxBodies*limit)
		}
	}
}
