package main

import (
	"strconv"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// A statistician publishes what the server counts on $SYS/broker/..., under the
// names that other servers use.
type statistician struct {
	of      *server
	started time.Time
	batch   broker.Batch // reused
}

// publish sets all values. They are retained: a new subscriber has the last
// ones at once. One goroutine at a time may call it.
func (s *statistician) publish() {
	s.batch.Begin()
	defer s.batch.Flush()
	set := func(topic, value string) {
		s.of.core.PublishSystem("$SYS/broker/"+topic, []byte(value), &s.batch)
	}
	set("version", "homing "+version)
	set("uptime", strconv.Itoa(int(time.Since(s.started).Seconds()))+" seconds")
	for topic, value := range s.of.numbers() {
		set(topic, strconv.FormatUint(value, 10))
	}
}

// startStatistics publishes the first values, so that the first client finds
// them, and then new ones in each interval, until the returned function is
// called.
func (s *server) startStatistics(every time.Duration) (end func()) {
	of := &statistician{of: s, started: time.Now()}
	of.publish()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				of.publish()
			case <-stop:
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// numbers are the values of the topics below $SYS/broker.
func (s *server) numbers() map[string]uint64 {
	c, g := &s.core.Stats, &s.mqtt.Stats
	connected := uint64(max(c.Connected.Load(), 0))
	total := max(uint64(s.core.Sessions()), connected)
	n := map[string]uint64{
		"clients/connected":         connected,
		"clients/disconnected":      total - connected,
		"clients/total":             total,
		"bytes/received":            g.BytesIn.Load(),
		"bytes/sent":                g.BytesOut.Load(),
		"subscriptions/count":       uint64(max(c.Subs.Load(), 0)),
		"retained messages/count":   uint64(max(c.Retained.Load(), 0)),
		"store/messages/count":      uint64(max(s.store.Metrics().Entries, 0)),
		"publish/messages/received": g.Packets[mqtt.PUBLISH].Load(),
		"publish/messages/sent":     g.Sent[mqtt.PUBLISH].Load(),
	}
	for t := mqtt.CONNECT; t <= mqtt.AUTH; t++ {
		n["messages/received"] += g.Packets[t].Load()
		n["messages/sent"] += g.Sent[t].Load()
	}
	for r := range mq.DropReasons {
		n["publish/messages/dropped"] += c.Dropped[r].Load()
	}
	return n
}
