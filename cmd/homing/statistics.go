package main

import (
	"strconv"
	"time"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
)

// statistics publishes on $SYS/broker/..., under the names that other servers
// use, until stop is closed.
func (s *server) statistics(every time.Duration, stop <-chan struct{}) {
	started := time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var batch broker.Batch
	for {
		batch.Begin()
		publish := func(topic, value string) {
			s.core.PublishSystem("$SYS/broker/"+topic, []byte(value), &batch)
		}
		publish("version", "homing "+version)
		publish("uptime", strconv.Itoa(int(time.Since(started).Seconds()))+" seconds")
		for topic, value := range s.numbers() {
			publish(topic, strconv.FormatUint(value, 10))
		}
		batch.Flush()
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
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
