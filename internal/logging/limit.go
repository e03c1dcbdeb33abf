package logging

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// burst is how many lines with one message are logged at once, and perSecond
	// how many more later.
	burst     = 60
	perSecond = 1
	// countAfter is how long what is left out is counted before a line says so.
	countAfter = 10 * time.Second
	// maxMessages bounds the table. Messages are constants of the program.
	maxMessages = 1024
)

// Strangers returns a logger for lines about those who are not let in: all its
// lines but debug ones are limited by message. It shares the limits of log.
func Strangers(log *slog.Logger) *slog.Logger {
	h, ok := log.Handler().(*handler)
	if !ok {
		h = &handler{next: log.Handler(), limits: &limits{}}
	}
	return slog.New(&handler{next: h.next, limits: h.limits, strangers: true})
}

// LeftOut is how many lines a logger that New has made, and its relatives, have
// left out so far.
func LeftOut(log *slog.Logger) uint64 {
	if h, ok := log.Handler().(*handler); ok {
		return h.limits.total.Load()
	}
	return 0
}

// handler limits the lines from warnings on, or all about strangers, by message.
type handler struct {
	next      slog.Handler
	limits    *limits
	strangers bool
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	return &c
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.next = h.next.WithGroup(name)
	return &c
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	limited := r.Level >= slog.LevelWarn || h.strangers && r.Level >= slog.LevelInfo
	if limited && !h.limits.take(line{r.Message, r.Level, h.strangers}, r.Time, h.count) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// count logs how many lines were left out.
func (h *handler) count(of line, n uint64) {
	r := slog.NewRecord(time.Now(), of.level, "lines were left out of the log", 0)
	r.AddAttrs(slog.String("like", of.message), slog.Uint64("count", n))
	_ = h.next.Handle(context.Background(), r)
}

// line is what is limited.
type line struct {
	message   string
	level     slog.Level
	strangers bool
}

// limits are the buckets of tokens of a log.
type limits struct {
	total atomic.Uint64 // lines left out

	mu      sync.Mutex
	buckets map[line]*bucket
}

type bucket struct {
	tokens  float64
	at      time.Time
	leftOut uint64 // since the last count; not 0: a count is to come
}

// take reports whether a line may be logged. Some time after the first that may
// not, count is told how many there were.
func (l *limits) take(of line, now time.Time, count func(line, uint64)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[of]
	if b == nil {
		if l.buckets == nil || len(l.buckets) >= maxMessages {
			l.buckets = make(map[line]*bucket)
		}
		b = &bucket{tokens: burst, at: now}
		l.buckets[of] = b
	}
	b.tokens = min(burst, b.tokens+max(0, now.Sub(b.at).Seconds())*perSecond)
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return true
	}
	l.total.Add(1)
	if b.leftOut++; b.leftOut == 1 {
		time.AfterFunc(countAfter, func() {
			l.mu.Lock()
			n := b.leftOut
			b.leftOut = 0
			l.mu.Unlock()
			count(of, n)
		})
	}
	return false
}
