// Package broker is the core: it takes messages from any gateway, finds who
// they are for, delivers them in order, and answers for them until they are
// safe.
//
// It knows no protocol, disk or HTTP. Gateways call it with a Batch of their
// own; connections are seen through Conn, the durable half of every inbox
// through mq.Store.
//
// # The inbox of a client
//
// Each client ID has one inbox: a queue with its own 64-bit sequence. A Session
// holds the part of it that is in memory:
//
//	 stored, not yet sent      sent, not yet acknowledged       queued in memory
//	(cursor, backlog] in store          window               tail: not yet stored
//
// The window holds what was sent on the present connection. An entry is
//
//	pending   in memory only; its sender has no acknowledgement yet
//	writing   submitted to the store, not committed
//	durable   committed; its sender has the acknowledgement
//	volatile  never stored (a clean subscriber of an ordinary topic, or p2p.keep: never)
//
// and moves pending -> writing -> durable, or leaves from any state when the
// target acknowledges. A sender is acknowledged by whichever comes first: the
// target's acknowledgement or the commit. A pending entry becomes writing when
// its linger is over, the target is slow, the window or memory bound is
// reached, or the connection ends. A put never overtakes an earlier pending
// one of the same inbox: flushPending goes first.
//
// QoS 2 is written ahead: it goes through the tail and is sent when durable.
//
// Packet identifiers towards a target are a function of the sequence
// (seq mod 65535 + 1). So a redelivery has the same identifier as the first
// delivery, also after a crash, which is what QoS 2 needs, and nothing has to
// remember it. While an entry is not acknowledged, seqs with its identifier are
// passed over; an entry that has such a seq already gets an identifier of its own,
// which the store has before it is sent. See identifiers.
//
// # Locks
//
// In this order; a goroutine never takes one that stands before one it holds,
// and never two sessions at once, but in offerGroup:
//
//  0. rights.mu    a change of the rules being put into effect, one at a time
//  1. shard.mu     client ID -> session
//  2. Broker.groups, then Session.mu: everything of one session
//  3. leaves: the subscription tree's, the linger wheel's, a connection's
//     outbox, the store's queue; and delays.mu, under which ops are submitted in
//     the order of their seqs
//
// Under a lock nothing blocks: no I/O, no callback but appending to an outbox,
// no blocking channel operation. What has to happen afterwards (acknowledging senders,
// pumping, flushing) is noted in the Batch and done by Batch.Flush.
package broker
