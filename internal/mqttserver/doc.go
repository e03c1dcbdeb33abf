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
// # What the standards leave to a server
//
//   - Properties that say "available" are absent from CONNACK: everything is.
//   - A topic filter that is none is answered by SUBACK 0x8F, in 3.1.1 by 0x80,
//     and the other filters of the packet hold; the connection stays.
//   - MQTT 3.1 has no code for a refused subscription. As its text demands, what
//     a rule forbids is acknowledged as if granted; for a filter that is none, is
//     one too many or cannot be stored, the connection is closed.
//   - Client IDs of any length are taken in all versions. An empty one gets one
//     assigned in 5.0, and in 3.1.1 with a clean session; 3.1 refuses it.
//   - Control characters and non-characters are taken, unless Options.StrictUTF8
//     says otherwise; then a packet with one in a topic name or filter, client ID
//     or user name is malformed. In user properties, content types and reason
//     strings they stay text like any other.
//   - A payload that is not the UTF-8 it is said to be is refused, for ordinary
//     and P2P topics alike, rather than left to each receiver to find.
//   - A will that could never be published, and a QoS over the maximum, refuse
//     the CONNECT; what rules say about a will is asked when it is published.
//   - The server's keep alive is for clients that can be told of it: 5.0. Others
//     keep theirs, also 0.
//   - DISCONNECT drops the will with 0x00 only; a code that is for servers to
//     send is not looked at further, as the connection ends in any case.
//   - An answer over the client's maximum packet size is not cut: reason strings
//     are left out, SUBACK and UNSUBACK are refused before anything is done
//     (0x95), and a client that cannot even take CONNACK is closed.
//
// What it does not do: routing, sessions, delivery state (package broker),
// credentials and rules (package auth).
//
// Clients need no extension of the standard [MQTT3-7.0.0-2].
package mqttserver
