package main

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/homing-mq/homing/internal/broker"
	"github.com/homing-mq/homing/internal/clock"
	"github.com/homing-mq/homing/internal/config"
	"github.com/homing-mq/homing/internal/logging"
	"github.com/homing-mq/homing/internal/mq"
	"github.com/homing-mq/homing/internal/mqtt"
	"github.com/homing-mq/homing/internal/mqttserver"
	"github.com/homing-mq/homing/internal/rocketmqserver"
	"github.com/homing-mq/homing/internal/store"
)

// collector turns the counters of the core and the gateway into metrics when
// they are asked for.
type collector struct {
	b      *broker.Broker
	m      *mqttserver.Server
	r      *rocketmqserver.Server // nil: off
	s      *store.Store
	c      *clock.Clock
	l      *slog.Logger
	limits *config.Limits
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("homing_"+name, help, labels, nil)
}

var (
	descConnections = desc("connections", "Open MQTT connections, those before CONNECT included.")
	descConnected   = desc("clients_connected", "Clients with an accepted CONNECT.")
	descSessions    = desc("sessions", "Sessions in memory: connected, persistent, or with writes under way.")
	descSubs        = desc("subscriptions", "Subscriptions of all sessions.")
	descSubBytes    = desc("subscription_bytes", "Bytes of the topic filters of all subscriptions.")
	descSubsRefused = desc("subscriptions_refused_total", "Subscriptions refused because of a limit: count, bytes, bytes_total, steps, steps_total.", "limit")
	descSteps       = desc("match_steps", "What it can take at most to find the subscribers of one message; limits.match-steps bounds it.")
	descRetained    = desc("retained_messages", "Retained messages.")
	descDelayed     = desc("messages_delayed", "Messages that wait for their delivery time.")
	descGroups      = desc("shared_subscriptions", "Shared subscriptions with members.")
	descOvertaken   = desc("clients_overtaken", "Connected clients that have acknowledged more than 10,000 messages and not one that was sent before those.")
	descPending     = desc("pending_bytes", "Messages that are in memory only, and packets and requests that have arrived in part, bytes.")
	descQuotaUsed   = desc("quota_used", "What is held of what the limits bound in all: limits.<quota>.", "quota")
	descQuotaLimit  = desc("quota_limit", "The limit of it; 0: none. One user, access key or client may have limits.share percent.", "quota")
	descUnfinished  = desc("unfinished_bytes", "Memory of MQTT packets that have arrived in part, what large ones will need included; part of pending_bytes.")
	descUnfWaits    = desc("unfinished_waits_total", "Times that a client was not read for a while, because there was no memory for its large packet.")
	descUnfClosed   = desc("unfinished_closed_total", "Connections closed because their packet did not grow, or too slowly, while others waited for memory.")
	descAccepted    = desc("connections_accepted_total", "Accepted connections.")
	descRefused     = desc("connections_refused_total", "Refused connections.", "reason")
	descTakenOver   = desc("connections_taken_over_total", "Connections replaced by another one with the same client ID.")
	descUnsettled   = desc("takeovers_unsettled_total", "Takeovers that did not wait for all that the client had sent on its old connection.")
	descBytes       = desc("bytes_total", "Bytes of MQTT connections.", "direction")
	descPackets     = desc("packets_total", "MQTT packets.", "direction", "type")
	descMessages    = desc("messages_total", "Messages: in as published, out as sent to targets, redeliveries included.", "direction", "kind", "qos")
	descResent      = desc("messages_resent_total", "PUBLISH packets sent with DUP.")
	descAcked       = desc("messages_acknowledged_total", "QoS 1 and 2 messages acknowledged by their target.")
	descDirect      = desc("messages_direct_total", "Messages acknowledged by their target before a write was needed.")
	descStored      = desc("messages_stored_total", "Messages written to the store.")
	descDropped     = desc("messages_dropped_total", "Messages that reached nobody.", "reason")
	descLogLines    = desc("log_lines_left_out_total", "Lines about clients that are not let in, warnings and errors that the log has left out: too many were alike.")
	descBlocked     = desc("writes_blocked_total", "Writes that met a full socket.")
	descInboxes     = desc("store_inboxes", "Inboxes with stored messages, or in use.")
	descEntries     = desc("store_messages", "Stored messages.")
	descOrphans     = desc("store_orphaned_inboxes", "Inboxes found at start with messages for sessions that are not in the metadata, whose clients have not come back. Not 0: metadata was lost.")
	descLive        = desc("store_live_bytes", "Bytes of the inbox log that are still needed.")
	descDisk        = desc("store_disk_bytes", "Bytes of the inbox log on disk, recycled segments included.")
	descDiskFull    = desc("store_disk_full", "1 while messages are refused because the file system has too little room.")
	descDiskFree    = desc("store_disk_free_bytes", "Bytes available on the store's file system when it was last looked at; -1: it cannot tell.")
	descSpares      = desc("store_spares", "Spare segment files; they are given back when the file system is short of room.")
	descSparesGiven = desc("store_spares_given_back_total", "Spare segment files removed because the file system was short of room.")
	descSegments    = desc("store_segments", "Segments of the inbox log in use.")
	descMetaDown    = desc("store_metadata_down", "1 while the metadata (sessions, subscriptions, wills) cannot be used; it is opened again.")
	descMetaFails   = desc("store_metadata_failures_total", "Failures after which the metadata was opened again.")
	descMetaCut     = desc("store_metadata_records_cut", "Records of the metadata that the last start found behind the end of a log, never promised.")
	descMetaBad     = desc("store_metadata_damaged_total", "Reads of the metadata that met a damaged block.")
	descQueued      = desc("store_queued_bytes", "Bytes that wait to be written.")
	descRocketConns = desc("rocketmq_connections", "Open connections of RocketMQ clients.", "protocol")
	descRocketNew   = desc("rocketmq_connections_accepted_total", "Accepted connections of RocketMQ clients.", "protocol")
	descRocketBad   = desc("rocketmq_refused_total", "Refused RocketMQ connections (limit; resets: over 200 reset calls a second) and requests (credentials).", "protocol", "reason")
	descRocketReqs  = desc("rocketmq_requests_total", "Requests of RocketMQ clients.", "protocol")
	descRocketSends = desc("rocketmq_messages_total", "Messages of RocketMQ clients: answered with SEND_OK, or refused.", "protocol", "outcome")
	descRocketGrown = desc("rocketmq_inflated_bytes_total", "Bytes that compressed bodies of RocketMQ messages have become.")
	descRocketSlow  = desc("rocketmq_inflate_waits_total", "Times that a RocketMQ request has waited because of rocketmq.inflate-rate.")
	descRocketBytes = desc("rocketmq_bytes_total", "Bytes of remoting connections.", "direction")
	descOffset      = desc("clock_offset_seconds", "The wall clock less the server's time: the jumps that were not followed.")
	descJumps       = desc("clock_jumps_total", "Jumps of the wall clock that were not followed.")
	descPanics      = desc("panics_total", "Connections closed because of a bug.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s, g := &c.b.Stats, &c.m.Stats
	gauge(descConnections, int64(c.m.Connections()))
	gauge(descConnected, s.Connected.Load())
	gauge(descSessions, int64(c.b.Sessions()))
	gauge(descSubs, s.Subs.Load())
	gauge(descSubBytes, s.SubBytes.Load())
	for l := range broker.SubscriptionLimits {
		count(descSubsRefused, s.SubsRefused[l].Load(), l.String())
	}
	gauge(descSteps, int64(c.b.Steps()))
	gauge(descRetained, s.Retained.Load())
	gauge(descDelayed, s.Delayed.Load())
	gauge(descGroups, s.Groups.Load())
	gauge(descOvertaken, s.Overtaken.Load())
	gauge(descPending, c.b.PendingBytes())
	u := c.m.Unfinished()
	gauge(descUnfinished, u.Held.Load())
	count(descUnfWaits, u.Waits.Load())
	count(descUnfClosed, u.Closed.Load())
	count(descAccepted, g.Accepted.Load())
	count(descRefused, g.OverLimit.Load(), "limit")
	count(descRefused, g.Misled.Load(), "proxy-header")
	tooMany, busy := g.AuthTooMany.Load(), g.AuthBusy.Load()
	count(descRefused, g.AuthFailed.Load()-tooMany-busy, "credentials")
	count(descRefused, tooMany, "failed_logins")
	count(descRefused, busy, "busy")
	count(descRefused, s.NotOwner.Load(), "owner")
	count(descRefused, s.WillsRefused.Load(), "wills")
	known := g.AuthFailed.Load() + s.NotOwner.Load() + s.WillsRefused.Load()
	count(descRefused, g.Refused.Load()-min(known, g.Refused.Load()), "other")
	count(descTakenOver, s.TakenOver.Load())
	count(descUnsettled, g.Unsettled.Load())
	count(descBytes, g.BytesIn.Load(), "in")
	count(descBytes, g.BytesOut.Load(), "out")
	for t := mqtt.CONNECT; t <= mqtt.AUTH; t++ {
		count(descPackets, g.Packets[t].Load(), "in", t.String())
		count(descPackets, g.Sent[t].Load(), "out", t.String())
	}
	for kind := range broker.Kinds {
		for qos := range s.Received[kind] {
			q := string('0' + rune(qos))
			count(descMessages, s.Received[kind][qos].Load(), "in", kind.String(), q)
			count(descMessages, s.Delivered[kind][qos].Load(), "out", kind.String(), q)
		}
	}
	for r := range mq.DropReasons {
		count(descDropped, s.Dropped[r].Load(), r.String())
	}
	st := c.s.Metrics()
	c.collectQuotas(gauge, &st)
	gauge(descInboxes, int64(st.Inboxes))
	gauge(descEntries, st.Entries)
	gauge(descOrphans, s.Orphans.Load())
	gauge(descLive, st.LiveBytes)
	gauge(descDisk, st.DiskBytes)
	gauge(descSegments, int64(st.Segments))
	gauge(descSpares, int64(st.Spares))
	gauge(descDiskFree, st.DiskFree)
	full := int64(0)
	if st.DiskFull {
		full = 1
	}
	gauge(descDiskFull, full)
	count(descSparesGiven, uint64(st.SparesGiven))
	gauge(descQueued, int64(st.Queued))
	down := int64(0)
	if st.MetaDown {
		down = 1
	}
	gauge(descMetaDown, down)
	count(descMetaFails, st.MetaFailures)
	gauge(descMetaCut, int64(st.MetaDropped))
	count(descMetaBad, st.MetaDamaged)
	count(descResent, s.Resent.Load())
	count(descAcked, s.Acked.Load())
	count(descDirect, s.Direct.Load())
	count(descStored, s.Stored.Load())
	count(descLogLines, logging.LeftOut(c.l))
	count(descBlocked, g.Blocked.Load())
	ch <- prometheus.MustNewConstMetric(descOffset, prometheus.GaugeValue, float64(c.c.Offset())/1000)
	count(descJumps, c.c.Jumps())
	panics := g.Panics.Load()
	if c.r != nil {
		panics += c.r.Stats.Panics.Load()
		c.collectRocketMQ(gauge, count)
	}
	count(descPanics, panics)
}

// collectQuotas tells of what is bounded in all.
func (c *collector) collectQuotas(gauge func(*prometheus.Desc, int64, ...string), st *store.Metrics) {
	s, l := &c.b.Stats, c.limits
	for _, q := range []struct {
		name        string
		used, limit int64
	}{
		{"inboxes", st.Holding, int64(l.Inboxes)},
		{"inbox-name-bytes", st.NameBytes, int64(l.InboxNameBytes)},
		{"retained", s.Retained.Load(), int64(l.Retained)},
		{"retained-bytes", s.RetainedBytes.Load(), int64(l.RetainedBytes)},
		{"delayed", s.Delayed.Load(), int64(l.Delayed)},
		{"delayed-bytes", s.DelayedBytes.Load(), int64(l.DelayedBytes)},
		{"wills", s.Wills.Load(), int64(l.Wills)},
		{"will-bytes", s.WillBytes.Load(), int64(l.WillBytes)},
		{"subscription-bytes-total", s.SubBytes.Load(), int64(l.SubscriptionBytesAll)},
		{"pending-bytes-total", c.b.PendingBytes(), int64(l.PendingBytesTotal)},
	} {
		gauge(descQuotaUsed, q.used, q.name)
		gauge(descQuotaLimit, q.limit, q.name)
	}
}

// collectRocketMQ tells of the RocketMQ gateway.
func (c *collector) collectRocketMQ(gauge func(*prometheus.Desc, int64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	r := &c.r.Stats
	for p := range rocketmqserver.Protocols {
		name := p.String()
		gauge(descRocketConns, int64(c.r.Connections(p)), name)
		count(descRocketNew, r.Accepted[p].Load(), name)
		count(descRocketBad, r.OverLimit[p].Load(), name, "limit")
		count(descRocketBad, r.Misled[p].Load(), name, "proxy-header")
		count(descRocketBad, r.AuthFailed[p].Load(), name, "credentials")
		if p == rocketmqserver.GRPC {
			count(descRocketBad, r.Resetting.Load(), name, "resets")
		}
		count(descRocketReqs, r.Requests[p].Load(), name)
		count(descRocketSends, r.Accepts[p].Load(), name, "ok")
		count(descRocketSends, r.Refuses[p].Load(), name, "refused")
	}
	count(descRocketGrown, c.r.Inflated())
	count(descRocketSlow, r.Slowed.Load())
	count(descRocketBytes, r.BytesIn.Load(), "in")
	count(descRocketBytes, r.BytesOut.Load(), "out")
}

// storeObserver makes the store's histograms.
func storeObserver(r prometheus.Registerer) store.Observer {
	latency := prometheus.ExponentialBuckets(50e-6, 2, 16) // 50 us to 1.6 s
	commit := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "homing_store_commit_seconds", Help: "Time of a group commit, fsync included.", Buckets: latency,
	})
	sync := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "homing_store_fsync_seconds", Help: "Time of the fsync of a group commit.", Buckets: latency,
	})
	read := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "homing_store_read_seconds", Help: "Time of one read of stored messages.", Buckets: latency,
	})
	ops := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "homing_store_commit_ops", Help: "Operations in a group commit.", Buckets: prometheus.ExponentialBuckets(1, 4, 8),
	})
	written := prometheus.NewCounter(prometheus.CounterOpts{Name: "homing_store_written_bytes_total", Help: "Bytes written to the inbox log."})
	failed := prometheus.NewCounter(prometheus.CounterOpts{Name: "homing_store_failed_commits_total", Help: "Group commits that failed."})
	r.MustRegister(commit, sync, read, ops, written, failed)
	return store.Observer{
		Commit: func(c store.CommitInfo) {
			commit.Observe(c.Total.Seconds())
			ops.Observe(float64(c.Ops))
			written.Add(float64(c.Bytes))
			if c.Sync > 0 {
				sync.Observe(c.Sync.Seconds())
			}
			if c.Err != nil {
				failed.Inc()
			}
		},
		Read: func(took time.Duration, _ int, _ int64) { read.Observe(took.Seconds()) },
	}
}
