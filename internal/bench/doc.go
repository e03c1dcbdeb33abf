// Package bench measures an MQTT server from outside: pairs of a sender and a
// receiver that exchange P2P messages (P2P), and many idle connections (Idle).
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
// Limits: sender and receiver are one process, which competes with a server on
// the same machine for its cores; and time is that of the client's reader, not
// of the network card.
package bench
