package mq

import "fmt"

// ReadFault says what is wrong with an entry that Store.Read could not read,
// and so what is to be done.
type ReadFault uint8

// The faults.
const (
	// FaultPassing: nothing is known to be wrong with the entry. It must not be
	// given up: it can be read when whatever was short is there again.
	FaultPassing ReadFault = iota
	// FaultMedium: the disk did not give the bytes. It may do so later, or that
	// place of it has gone bad.
	FaultMedium
	// FaultDamage: the bytes are not those that were written.
	FaultDamage
)

// UnreadableError is why Store.Read returned nothing: the first entry it was to
// read could not be. The entries behind it can be asked for.
type UnreadableError struct {
	Seq   uint64 // of the entry
	Fault ReadFault
	Err   error // names the file and the place in it
}

func (e *UnreadableError) Error() string { return fmt.Sprintf("read entry %d: %v", e.Seq, e.Err) }

func (e *UnreadableError) Unwrap() error { return e.Err }
