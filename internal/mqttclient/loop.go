package mqttclient

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/homing-mq/homing/internal/mqtt"
)

// Loop keeps a client connected.
type Loop struct {
	Options Options
	// First and Longest bound the pause before the next attempt, which doubles
	// from one to the other and is shortened at random; 0: 1 s and 30 s.
	First, Longest time.Duration
	// OnConnect, if set, is called with each connection, before it is waited
	// for. An error ends the connection and counts as a failed attempt.
	OnConnect func(ctx context.Context, c *Client) error
	// OnRetry, if set, is told why the connection or attempt ended and how long
	// the pause is.
	OnRetry func(err error, pause time.Duration)
}

// Run connects, waits until the connection ends and connects again, until ctx
// is done or the server says that it is of no use. When ctx is done it
// disconnects and returns nil.
func (l *Loop) Run(ctx context.Context) error {
	first, longest := l.First, l.Longest
	if first == 0 {
		first = time.Second
	}
	if longest == 0 {
		longest = 30 * time.Second
	}
	pause := first
	for {
		connected, err := l.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if isPermanent(err) {
			return err
		}
		if connected {
			pause = first
		}
		wait := pause/2 + rand.N(pause/2+1)
		if l.OnRetry != nil {
			l.OnRetry(err, wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		pause = min(2*pause, longest)
	}
}

// once is one connection. It reports whether the server had accepted it.
func (l *Loop) once(ctx context.Context) (bool, error) {
	dialCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	c, err := Dial(dialCtx, l.Options)
	cancel()
	if err != nil {
		return false, err
	}
	if l.OnConnect != nil {
		if err := l.OnConnect(ctx, c); err != nil {
			c.Close()
			return false, err
		}
	}
	select {
	case <-c.Done():
		return true, c.Err()
	case <-ctx.Done():
		return true, c.Disconnect(context.WithoutCancel(ctx))
	}
}

// PermanentError marks an error of OnConnect after which Run shall return it.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

func (e *PermanentError) Unwrap() error { return e.Err }

// isPermanent reports whether connecting again would be pointless, or, as after
// a takeover, harmful.
func isPermanent(err error) bool {
	var permanent *PermanentError
	var refused *RefusedError
	var disconnected *DisconnectedError
	switch {
	case errors.As(err, &permanent), errors.Is(err, errServer):
		return true
	case errors.As(err, &refused):
		return refused.Permanent()
	case errors.As(err, &disconnected):
		switch disconnected.Code {
		case mqtt.CodeSessionTakenOver, mqtt.CodeNotAuthorized, mqtt.CodeBanned, mqtt.CodeAdministrativeAction:
			return true
		}
	}
	return false
}
