// Package bench measures an MQTT server from outside: pairs of a sender and a
// receiver that exchange P2P messages (P2P), where the senders may be RocketMQ
// producers, one publisher and many subscribers (Fanout), clients that connect
// and disconnect (Cycles), and many idle connections (Idle).
//
// Every message carries the number of its pair, a sequence number and the time
// it was meant to be sent, so that what is lost, duplicated or out of order is
// counted exactly, and the time from the intended sending to the arrival is
// known: at a given rate a server that stalls is charged for all messages that
// should have been sent meanwhile (no coordinated omission).
//
// The server may be any, but only one that knows P2P topics delivers without
// P2P.Subscribe. Its CPU time and memory are read from /proc, on Linux.
//
// A server's CPU time includes what the kernel does for it. On a loopback
// interface a write also pays for the delivery to the receiver's socket and for
// waking the receiver, which over a real network it does not.
//
// Limits: sender and receiver are one process, which competes with a server on
// the same machine for its cores; and time is that of the client's reader, not
// of the network card.
package bench
