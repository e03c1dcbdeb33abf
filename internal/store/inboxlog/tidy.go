package inboxlog

import (
	"errors"
	"io/fs"
)

type moves struct{ done chan error }

func (c *committer) commitMoves(*moves) error { return nil }

func (l *Log) wantsTidy() bool { return false }

func (l *Log) tidySoon() {
	select {
	case l.tidyC <- struct{}{}:
	default:
	}
}

// keep is the keeper's goroutine.
func (l *Log) keep() {
	defer l.wg.Done()
	<-l.stop
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
