// Package mqttclient is a small MQTT client, for the command line, the
// benchmark and the tests. It speaks 3.1, 3.1.1 and 5.0 over TCP, TLS and
// WebSocket.
//
// A Client is one connection, from Dial to Disconnect or Close; it never
// reconnects. What outlives a connection is a Session, which can be handed from
// one Client to the next. Loop connects again and again.
//
// What it does not do: enhanced authentication, storing a session on disk,
// holding back what a resumed session sends again if the server's Receive
// Maximum has become smaller, and checking a server for all it must not do. It
// does check that acknowledgements answer something.
//
// # Goroutines
//
// A Client has one goroutine of its own, the reader. Everything that is called
// back (Handler, OnBatch, OnPubrel, completions) is called there, one after the
// other, so a callback that blocks holds up the connection. Packets to the
// server collect in one buffer and leave in one write: when a method that says
// so flushes, and at the end of each batch of packets that was read. A flush
// does not wait for the server: if the socket is full, a goroutine takes over
// the buffer and ends when it is empty.
//
// All methods of Client may be called concurrently. From a callback call only
// those that say they do not wait: Enqueue, Flush, Message.Ack, SendAck, Raw,
// Abort and the getters.
package mqttclient
