// Package logging makes the server's log one that strangers cannot fill.
//
// Whoever reaches a port can name things that are logged: a client ID, a user
// name, a topic, a reason. So every text of a line is clipped, and the handlers
// quote it. What is said about strangers, and every warning and error, is
// limited by its message: a line for each of a million connections tells no more
// than the first lines and a count.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"unicode/utf8"
)

// Options are what New needs.
type Options struct {
	Level slog.Leveler // least level that is logged; nil: info
	JSON  bool         // one JSON object a line; otherwise key=value
}

// New returns a logger that writes to w. It may be used concurrently.
func New(w io.Writer, o Options) *slog.Logger {
	options := &slog.HandlerOptions{Level: o.Level, ReplaceAttr: clipAttr}
	var h slog.Handler = slog.NewTextHandler(w, options)
	if o.JSON {
		h = slog.NewJSONHandler(w, options)
	}
	return slog.New(&handler{next: h, limits: &limits{}})
}

// maxText is how many bytes of a text are logged. Escaped they may be six times
// as many.
const maxText = 512

// stackKey is the key of the stack of a bug. It is long, and the server's own.
const stackKey = "stack"

// clipAttr is for slog.HandlerOptions: it clips what may come from a stranger.
func clipAttr(_ []string, a slog.Attr) slog.Attr {
	if a.Key == stackKey {
		return a
	}
	switch a.Value.Kind() {
	case slog.KindString:
		if s := a.Value.String(); len(s) > maxText {
			a.Value = slog.StringValue(Clip(s, maxText))
		}
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(Clip(v.Error(), maxText))
		case fmt.Stringer:
			a.Value = slog.StringValue(Clip(v.String(), maxText))
		case []byte:
			a.Value = slog.StringValue(Clip(string(v), maxText))
		case string, []string:
			a.Value = slog.StringValue(Clip(fmt.Sprint(v), maxText))
		}
	}
	return a
}

// Clip returns the first bytes of s, at most limit and whole characters, and how
// long it is.
func Clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	for end > 0 && end > limit-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:end], len(s))
}
