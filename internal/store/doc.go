// Package store is the embedded store behind mq.Store: inboxes in a segmented
// log (package inboxlog), everything else in Pebble.
//
// A store is a directory:
//
//	LOCK    held while a process has the store open
//	inbox/  the log of all inboxes; its format is specified in package inboxlog
//	meta/   a Pebble database: sessions and subscriptions; keys in meta.go
//	bad/    what Repair moved aside
//
// The package decides nothing: limits of an inbox, expiry and when a session
// ends are the broker's business. It does not encrypt and does not replicate.
package store
