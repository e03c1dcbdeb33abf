package broker

import (
	"sync/atomic"

	"github.com/homing-mq/homing/internal/mq"
)

// Kind tells P2P messages from those of ordinary topics.
type Kind uint8

// The kinds.
const (
	P2P Kind = iota
	PubSub
	Kinds
)

func (k Kind) String() string {
	if k == P2P {
		return "p2p"
	}
	return "pubsub"
}

// Stats are the counters of the core. All only grow, but the last ones.
type Stats struct {
	Received  [Kinds][3]atomic.Uint64 // publishes, by QoS
	Delivered [Kinds][3]atomic.Uint64 // PUBLISH packets sent, by QoS; redeliveries included
	Resent    atomic.Uint64           // of them with DUP
	Acked     atomic.Uint64           // QoS 1 and 2, by the target
	Stored    atomic.Uint64           // written to the store
	Direct    atomic.Uint64           // acknowledged by the target before a write was needed
	Dropped   [mq.DropReasons]atomic.Uint64
	TakenOver atomic.Uint64
	NotOwner  atomic.Uint64 // connections refused because the client ID belongs to another principal

	SubsRefused [SubscriptionLimits]atomic.Uint64 // subscriptions over a limit

	Connected     atomic.Int64
	Subs          atomic.Int64
	SubBytes      atomic.Int64  // of their filters
	Retained      atomic.Int64  // retained messages
	Groups        atomic.Int64  // shared subscriptions
	Delayed       atomic.Int64  // messages accepted by PublishLater and not published
	RetainedBytes atomic.Int64  // of their records and topic names
	DelayedBytes  atomic.Int64  // of their records
	Wills         atomic.Int64  // wills of connected and offline clients
	WillBytes     atomic.Int64  // as they are stored
	WillsRefused  atomic.Uint64 // CONNECTs refused for the limit on wills
	Orphans       atomic.Int64  // inboxes of sessions that were lost before the start, whose clients have not come back
	Overtaken     atomic.Int64  // connections with a message that was overtaken by many acknowledgements
}

func (b *Broker) drop(reason mq.DropReason) { b.Stats.Dropped[reason].Add(1) }

// PendingBytes is the memory held by messages that are not stored.
func (b *Broker) PendingBytes() int64 { return b.pendingBytes.Load() }

// Hold adds n bytes, which may be negative, to PendingBytes: what gateways hold in
// memory of packets that have arrived in part. It returns the sum.
func (b *Broker) Hold(n int64) int64 { return b.pendingBytes.Add(n) }

// Sessions counts the sessions in memory, those of clients.
func (b *Broker) Sessions() int {
	n := 0
	for i := range b.registry.shards {
		sh := &b.registry.shards[i]
		sh.mu.RLock()
		n += len(sh.sessions)
		sh.mu.RUnlock()
	}
	return n - int(b.Stats.Groups.Load())
}
