package inboxlog

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/mq"
)

// TestUnkept: of clients, and only while there is an entry without FlagKeep.
func TestUnkept(t *testing.T) {
	const n = 3 * nameChunk / 4
	r := &results{ch: make(chan error, 1)}
	l, err := Open(Options{FS: vfs.NewMem(), Dir: dir, Done: r.done})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	put := func(name string, seq uint64, flags mq.Flags) {
		l.Submit(mq.Op{Kind: mq.OpPut, Inbox: l.Inbox(name), Seq: seq, Flags: flags, Record: []byte("x")})
	}
	var want []string
	for i := range n {
		kept, ended, bare := fmt.Sprint("kept", i), fmt.Sprint("ended", i), fmt.Sprint("bare", i)
		put(kept, 1, 1|mq.FlagKeep)
		put(ended, 1, 1)
		put(ended, 2, 1|mq.FlagKeep)
		l.Submit(mq.Op{Kind: mq.OpAck, Inbox: l.Inbox(ended), Seq: 1})
		put(bare, 1, 1|mq.FlagKeep)
		put(bare, 2, 2|mq.FlagSent)
		put(mq.SharedInbox+bare, 1, 1)
		want = append(want, bare)
	}
	if err := do(l, r, mq.Op{Kind: mq.OpPut, Inbox: l.Inbox("kept0"), Seq: 2, Flags: 1 | mq.FlagKeep, Record: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := l.Unkept(func(name string) error { got = append(got, name); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
}
