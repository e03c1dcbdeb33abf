package inboxlog

import "time"

// syncAll makes everything written so far durable. An error is final.
func (l *Log) syncAll() error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	if err := l.err(); err != nil {
		return err
	}
	l.tail.mu.Lock()
	sealed := l.tail.unsynced
	active, end := l.tail.active, l.tail.end
	l.tail.mu.Unlock()
	if position(l.durable.Load()) >= at(active.epoch, end) && len(sealed) == 0 {
		return nil
	}
	for _, s := range sealed {
		if err := s.file.SyncData(); err != nil {
			return l.fail(s.path, err)
		}
	}
	if err := active.file.SyncData(); err != nil {
		return l.fail(active.path, err)
	}
	l.tail.mu.Lock()
	l.tail.unsynced = l.tail.unsynced[len(sealed):]
	l.tail.mu.Unlock()
	l.durable.Store(uint64(at(active.epoch, end)))
	return nil
}

// syncEvery is the goroutine of SyncInterval.
func (l *Log) syncEvery(interval time.Duration) {
	defer l.wg.Done()
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
			_ = l.syncAll() // it is logged, and every later op fails with it
		}
	}
}
