// Package store is the embedded store behind mq.Store: inboxes in a segmented
// log (package inboxlog), everything else in Pebble.
//
// A store is a directory:
//
//	LOCK        held while a process has the store open
//	inbox/      the log of all inboxes; its format is specified in package inboxlog
//	meta/       a Pebble database: sessions and subscriptions; keys in meta.go
//	meta.marks  how far each file in meta/ was on disk; its format is in marks.go
//	ballast     nothing: room for the metadata when the disk is full; see room.go
//	bad/        what Repair moved aside
//
// The metadata is opened before the inbox log is made. So an inbox log without
// metadata, or sessions without an inbox log, are damage, never a first start
// that was cut short.
//
// The metadata's database is opened again by itself after it failed; until then
// its methods return errors. The inbox log does without a restart after a write
// that failed, and needs one after a sync that failed.
//
// The package decides nothing: limits of an inbox, expiry and when a session
// ends are the broker's business. It does not encrypt and does not replicate.
package store
