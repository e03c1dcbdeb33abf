// Package rocketmq is the codec for RocketMQ's remoting protocol, the one of
// the 4.x SDKs: bytes to structs and back.
//
// Split finds a frame in a read buffer, Command.Decode reads its header in
// either serialization, SendHeader.Decode the fields of a send, Command.Append
// writes a whole frame. The rest of the package is what stands in bodies and
// fields: properties, batches, compressed messages, signatures, routes,
// heartbeats.
//
// What it does not do: sockets, clocks, and what to answer to whom.
//
// # Ownership
//
// Byte slices that a function returns, or that a decoded struct has, alias its
// input and are valid as long as that is; what is not a plain piece of the
// input is in memory of the struct, and valid until its next Decode. Their
// capacity ends where they end, so appending to one never writes into the
// input. Decode sets every field, reuses the struct's memory and, for headers
// as clients send them, allocates nothing.
//
// # Errors
//
// An error that wraps ErrMalformed says in words what is wrong with the input;
// one that wraps ErrTooLarge, that the input is more than the given limit.
// After an error the fields of a decoded struct mean nothing.
//
// # Limits
//
// No length field of the input leads to an allocation. A header has at most
// MaxFields extension fields, which bounds the time that looking for repeated
// ones and sorting them takes.
//
// Functions may be called from several goroutines at once. A struct has one
// user at a time.
//
// Sources are named by their class in Apache RocketMQ's Java code.
package rocketmq
