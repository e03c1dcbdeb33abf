// Package mqttserver speaks MQTT 3.1, 3.1.1 and 5.0 with clients over TCP, TLS,
// WebSocket and secure WebSocket, and hands what they want to the core.
//
// # The shape of a connection
//
// One goroutine reads. On TCP it waits until the socket is readable and only
// then borrows a worker (read buffer, decoded packets, a batch of the core),
// handles all packets that are there, flushes every connection that got output
// by them, and gives the worker back. A waiting connection holds no buffer.
//
// Output is appended to the outbox of its connection by whoever produces it,
// and written by the producer at the end of its batch, without blocking. Only
// when the socket is full does a writer goroutine take over until it is
// drained. TLS and WebSocket connections cannot write without blocking: their
// outbox is always drained by such a goroutine.
//
// An outbox is bounded: over Options.Outbox bytes PUBLISH packets are refused
// (the core drops QoS 0 and keeps the rest in the inbox), and at twice that,
// which only acknowledgements can cause, the connection is not read any more
// until it takes them.
//
// What it does not do: routing, sessions, delivery state (package broker),
// credentials and rules (package auth).
package mqttserver
