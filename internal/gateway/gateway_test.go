package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stubborn is a listener that fails some times before it accepts.
type stubborn struct {
	net.Listener
	failures int
	last     error
}

func (s *stubborn) Accept() (net.Conn, error) {
	if s.failures--; s.failures >= 0 {
		return nil, errors.New("too many open files")
	}
	if s.last != nil {
		return nil, s.last
	}
	a, _ := net.Pipe()
	return a, nil
}

func TestAccept(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		nc, err := Accept(t.Context(), &stubborn{failures: 12}, log)
		if took := time.Since(begun); err != nil || nc == nil || took < 2*time.Second || took > 12*time.Second {
			t.Errorf("%v %v after %v", nc, err, took)
		}
		if _, err := Accept(t.Context(), &stubborn{failures: 1, last: net.ErrClosed}, log); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Accept(ctx, &stubborn{failures: 1 << 30}, log); err == nil {
			t.Error("given up without an error")
		}
	})
}

func TestWait(t *testing.T) {
	var wg sync.WaitGroup
	never := func() { t.Error("aborted") }
	if err := Wait(t.Context(), &wg, never); err != nil {
		t.Error(err)
	}
	wg.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wait(ctx, &wg, wg.Done); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
