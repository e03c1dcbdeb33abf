package inboxlog

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/homing-mq/homing/internal/mq"
)

// drawStep draws an op for one of r's inboxes.
func drawStep(t *rapid.T, r *rig, maxRecord int) step {
	client := rapid.SampledFrom(r.clients).Draw(t, "client")
	s := step{client: client}
	// Favour puts, or there is nothing to see.
	s.op.Kind = rapid.SampledFrom([]mq.OpKind{
		mq.OpPut, mq.OpPut, mq.OpPut, mq.OpPut, mq.OpPut, mq.OpAck, mq.OpAck, mq.OpAck, mq.OpSent, mq.OpReceived,
		mq.OpClear, mq.OpClaim, mq.OpRelease, mq.OpReleaseAll,
	}).Draw(t, "kind")
	last := r.next[client]
	switch s.op.Kind {
	case mq.OpPut:
		s.op.Seq = r.seq(client)
		s.op.Flags = mq.Flags(rapid.SampledFrom([]int{0, 1, 2, 4, 5, 6, 8, 9}).Draw(t, "flags"))
		s.op.Expiry = int64(rapid.SampledFrom([]int{0, 0, 1_700_000_000_123}).Draw(t, "expiry"))
		s.op.Record = drawRecord(t, maxRecord)
		if rapid.IntRange(0, 4).Draw(t, "claims") == 0 {
			s.origin = rapid.SampledFrom(r.clients).Draw(t, "origin")
			s.op.PacketID = uint16(rapid.IntRange(1, 5).Draw(t, "packet"))
		}
	case mq.OpClaim, mq.OpRelease:
		s.op.PacketID = uint16(rapid.IntRange(1, 5).Draw(t, "packet"))
	default: // also of what is not put yet
		s.op.Seq = last + 3 - min(last+3, uint64(rapid.IntRange(0, 15).Draw(t, "back")))
	}
	return s
}

func drawRecord(t *rapid.T, limit int) []byte {
	size := rapid.SampledFrom([]int{0, 1, 30, 200, 700, 3000, 9000}).Draw(t, "size")
	b := make([]byte, min(size, limit))
	fill := byte(rapid.IntRange(0, 255).Draw(t, "fill"))
	for i := range b {
		b[i] = fill + byte(i)
	}
	return b
}

func runStateMachine(t *rapid.T, mode SyncMode) {
	r := newRig(t, Options{Sync: mode, SegmentSize: 32 << 10, slack: 2}, rapid.IntRange(1, 12).Draw(t, "clients"))
	defer func() { r.l.Close() }()
	seed := rapid.Uint64().Draw(t, "seed")
	rng := rand.New(rand.NewPCG(seed, seed))
	t.Repeat(map[string]func(*rapid.T){
		"one": func(*rapid.T) { r.submit(rapid.Bool().Draw(t, "owned"), drawStep(t, r, 9000)) },
		"many": func(t *rapid.T) {
			for range rapid.IntRange(1, 60).Draw(t, "n") {
				r.submit(rapid.Bool().Draw(t, "owned"), drawStep(t, r, 9000))
			}
		},
		"group": func(t *rapid.T) {
			var g []step
			for range rapid.IntRange(2, 8).Draw(t, "n") {
				g = append(g, drawStep(t, r, 3000))
			}
			r.submit(rapid.Bool().Draw(t, "owned"), g...)
		},
		"large group": func(t *rapid.T) { // of several frames, if groups were cut
			var g []step
			for range rapid.IntRange(3, 6).Draw(t, "n") {
				g = append(g, r.put(rapid.SampledFrom(r.clients).Draw(t, "client"), 3000))
			}
			r.submit(true, g...)
			if rapid.Bool().Draw(t, "wait") {
				r.wait()
			}
		},
		"fan-out": func(t *rapid.T) {
			var g []step
			record := drawRecord(t, 9000)
			for _, c := range r.clients {
				g = append(g, step{client: c, op: mq.Op{Kind: mq.OpPut, Seq: r.seq(c), Record: record}})
			}
			r.submit(rapid.Bool().Draw(t, "owned"), g...)
		},
		"flood": func(t *rapid.T) { // fills segments so that old ones are emptied
			c := rapid.SampledFrom(r.clients).Draw(t, "client")
			record := drawRecord(t, 9000)
			for range rapid.IntRange(1, 40).Draw(t, "n") {
				seq := r.seq(c)
				r.submit(false, step{client: c, op: mq.Op{Kind: mq.OpPut, Seq: seq, Record: record}})
				if rapid.IntRange(0, 9).Draw(t, "keep") > 0 {
					r.submit(false, step{client: c, op: mq.Op{Kind: mq.OpAck, Seq: seq}})
				}
			}
		},
		"check":  func(*rapid.T) { r.check() },
		"reopen": func(*rapid.T) { r.reopen() },
		"kill":   func(*rapid.T) { r.crash(100, rng, true) },
		"power": func(t *rapid.T) {
			r.crash(rapid.SampledFrom([]int{0, 30, 50, 90}).Draw(t, "percent"), rng, mode == SyncAlways)
		},
	})
	r.check()
}

func TestStateMachine(t *testing.T) {
	for name, mode := range map[string]SyncMode{"always": SyncAlways, "interval": SyncInterval, "os": SyncOS} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { runStateMachine(t, mode) })
		})
	}
}
