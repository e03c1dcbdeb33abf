package test

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// entry is a message of TestKill, and what its payload says.
type entry struct {
	sender, target string
	seq            int // 1, 2, 3 ... from this sender to this target
	qos            byte
}

func (e entry) topic() string {
	if e.target == witnessID {
		return topicNews
	}
	return "kill/p2p/" + e.target
}

// payload is the entry with some filling.
func (e entry) payload(filling int) []byte {
	return fmt.Appendf(nil, "%s %s %d %d %0*d", e.sender, e.target, e.seq, e.qos, filling, 0)
}

func parseEntry(m *mqtt.Publish) (e entry, err error) {
	var filling string
	_, err = fmt.Sscanf(string(m.Payload), "%s %s %d %d %s", &e.sender, &e.target, &e.seq, &e.qos, &filling)
	if err == nil && (e.qos != m.QoS || string(m.Topic) != e.topic()) {
		err = fmt.Errorf("sent as %+v", e)
	}
	return e, err
}

// fate is what is known about a message.
type fate struct {
	qos       byte
	answer    string // what promised delivery to the sender, PUBACK for example; "": nothing
	delivered int
	exempt    bool  // QoS 2 to a target that starts clean may come twice
	loose     bool  // it may overtake others of its sender, and be overtaken
	due       int64 // Unix ms: it must not come before; 0: at once
	resent    bool  // its sender had no answer, and sent it again
	refused   bool  // the sender was told so
	untaken   bool  // refused, and it cannot have been taken before

	// The life of the server that had all of it before its sender came back: it
	// must be delivered while that life lasts. nil: nothing is known.
	life <-chan struct{}
}

// early is how much a delayed message may come before its time: clocks are read
// in whole milliseconds.
const early = 5 * time.Millisecond

// pair is a sender and a target.
type pair struct{ sender, target string }

// account is all messages of a pair.
type account struct {
	fates []fate // by seq-1
	last  int    // highest seq that was delivered
}

// ledger is the truth of a run of TestKill.
type ledger struct {
	mu       sync.Mutex
	accounts map[pair]*account
	problems []string
	marks    map[string]string   // by target: the last mark it has seen
	traces   map[string][]string // by target: the last it has received
	changed  chan struct{}
}

func newLedger() *ledger {
	return &ledger{
		accounts: make(map[pair]*account), marks: make(map[string]string), traces: make(map[string][]string),
		changed: make(chan struct{}),
	}
}

// news is closed with the next change.
func (l *ledger) news() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *ledger) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *ledger) problem(format string, args ...any) {
	l.change(func() { l.problems = append(l.problems, fmt.Sprintf(format, args...)) })
}

// account returns the account of a pair. mu is held.
func (l *ledger) account(e entry) *account {
	p := pair{e.sender, e.target}
	if l.accounts[p] == nil {
		l.accounts[p] = new(account)
	}
	return l.accounts[p]
}

// send opens an entry before it is sent, and sets its seq. f has what is known
// in advance.
func (l *ledger) send(e *entry, f fate) {
	f.qos = e.qos
	l.change(func() {
		a := l.account(*e)
		a.fates = append(a.fates, f)
		e.seq = len(a.fates)
	})
}

// note changes what is known about a message that was sent.
func (l *ledger) note(e entry, f func(*fate)) {
	l.change(func() { f(&l.account(e).fates[e.seq-1]) })
}

// acknowledge notes that delivery was promised to the sender.
func (l *ledger) acknowledge(e entry, answer string) {
	l.note(e, func(f *fate) { f.answer = answer })
}

// deliver notes a delivery, before the target acknowledges it. how describes
// the packet.
func (l *ledger) deliver(e entry, how string) {
	l.change(func() {
		trace := append(l.traces[e.target], fmt.Sprintf("%s seq %d QoS %d %s", e.sender, e.seq, e.qos, how))
		l.traces[e.target] = trace[max(0, len(trace)-60):]
		a := l.account(e)
		if e.seq < 1 || e.seq > len(a.fates) || a.fates[e.seq-1].qos != e.qos {
			l.problems = append(l.problems, fmt.Sprintf("never sent: %+v", e))
			return
		}
		f := &a.fates[e.seq-1]
		if wait := time.Until(time.UnixMilli(f.due)); f.due > 0 && wait > early {
			l.problems = append(l.problems, fmt.Sprintf("%v before its time: %+v", wait, e))
		}
		if f.delivered++; f.delivered > 1 || f.loose {
			return
		}
		if e.seq < a.last {
			l.problems = append(l.problems, fmt.Sprintf("out of order: %+v comes first after %d; the last the target received:\n\t%s",
				e, a.last, strings.Join(trace, "\n\t")))
		}
		a.last = max(a.last, e.seq)
	})
}

// onceOnly reports whether a message must not come again to a target that has
// acknowledged it. QoS 1 may, if its sender has sent it again, or if a crash came
// between the publication of a delayed message and the note of it.
func (l *ledger) onceOnly(e entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	fates := l.account(e).fates
	if e.qos == 2 || e.seq < 1 || e.seq > len(fates) {
		return true
	}
	f := &fates[e.seq-1]
	return !f.resent && f.due == 0
}

func (l *ledger) seen(target, mark string) {
	l.change(func() { l.marks[target] = mark })
}

// marked counts the targets that have seen a mark.
func (l *ledger) marked(mark string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.marks {
		if m == mark {
			n++
		}
	}
	return n
}

// sums are what the summary line shows. twice is what must not come twice and has.
type sums struct{ sent, acknowledged, refused, delivered, duplicates, twice, lost int }

// owed reports whether the message must be delivered and was not.
func (f *fate) owed() bool { return f.answer != "" && f.delivered == 0 }

func (l *ledger) missing() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accounts {
		for i := range a.fates {
			if a.fates[i].owed() {
				n++
			}
		}
	}
	return n
}

// close adds up and returns what is wrong.
func (l *ledger) close() (s sums, problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	problems = append(problems, l.problems...)
	for p, a := range l.accounts {
		for i := range a.fates {
			f := &a.fates[i]
			s.sent++
			if f.answer != "" {
				s.acknowledged++
			}
			if f.refused {
				s.refused++
			}
			if f.delivered > 0 {
				s.delivered++
				s.duplicates += f.delivered - 1
			}
			if f.delivered > 1 && (f.qos == 0 || f.qos == 2 && !f.exempt) {
				s.twice++
				problems = append(problems, fmt.Sprintf("QoS %d delivered %d times: %v seq %d", f.qos, f.delivered, p, i+1))
			}
			if f.untaken && f.delivered > 0 {
				problems = append(problems, fmt.Sprintf("refused, and delivered: %v seq %d QoS %d", p, i+1, f.qos))
			}
			if f.owed() {
				s.lost++
				problems = append(problems, fmt.Sprintf("acknowledged with %s and lost: %v seq %d QoS %d", f.answer, p, i+1, f.qos))
			}
		}
	}
	if n := len(problems); n > 20 {
		problems = append(problems[:20], fmt.Sprintf("and %d more", n-20))
	}
	return s, problems
}
