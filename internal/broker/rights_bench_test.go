package broker

import (
	"fmt"
	"testing"

	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/store"
)

// BenchmarkReviewRights puts a change of the rules into effect for 100 000 sessions
// with a subscription each, of which it takes the right away from, or gives it back
// to, half.
func BenchmarkReviewRights(b *testing.B) {
	k := newBook()
	k.allow["sub "] = []string{"#"}
	w := newWorld(b, Options{}, store.SyncOS)
	w.auth = k
	w.stop()
	w.start()
	defer w.stop()
	const sessions = 100_000
	for i := range sessions {
		p := &mq.Principal{Kind: mq.KindUser, ClientID: fmt.Sprint("c", i), User: fmt.Sprint("user", i%2)}
		s, err := w.b.Connect(ConnectRequest{ClientID: p.ClientID, Principal: p, Conn: &sink{}, CleanStart: true, ReceiveMax: 10}, &w.batch)
		if err != nil {
			b.Fatal(err)
		}
		w.b.Subscribe(s, p, []mq.Subscription{{Filter: fmt.Sprintf("site/%d/#", i)}}, &w.batch)
		w.batch.Flush()
	}
	gone := false
	for b.Loop() {
		gone = !gone
		k.change(func() { k.gone["user0"] = gone })
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
}
