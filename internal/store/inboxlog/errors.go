package inboxlog

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/homing-mq/homing/internal/mq"
)

// CorruptError says that bytes which were safely on disk are no longer what
// was written. Nothing the log does by itself leads to one.
type CorruptError struct {
	File   string
	Offset int64 // in bytes from the start of File
	Reason string
}

// NoSegments is the reason of a CorruptError of a log that must exist, and has
// no segment.
const NoSegments = "all segments are missing, and with them all messages"

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s; `homing store check` shows all damage, "+
		"`homing store repair` moves what is damaged aside and saves the rest", e.File, e.Offset, e.Reason)
}

// VersionError says that a file was written by a newer version of homing.
type VersionError struct {
	File    string
	Version uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format version %d, this homing reads up to %d: start the newer homing that wrote it",
		e.File, e.Version, formatVersion)
}

// noSpace reports whether err means that the disk or a quota is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// writeError is the error of ops that could not be written to file. The store
// goes on: the next commit overwrites what may have reached the disk.
func writeError(file string, err error) *mq.Error {
	if noSpace(err) {
		return &mq.Error{Code: mq.StoreFull, Text: "store full", Err: fmt.Errorf("write %s: %w", file, err)}
	}
	return &mq.Error{Code: mq.StoreFailed, Text: "store failed", Err: fmt.Errorf("write %s: %w", file, err)}
}

// finalError is the error of everything after file could not be synced.
func finalError(file string, err error) *mq.Error {
	return &mq.Error{Code: mq.StoreFailed, Text: "store failed", Err: fmt.Errorf(
		"sync %s: %w; what was written since the last sync may be lost, so the store takes no more: "+
			"check the disk (dmesg, smartctl), then restart homing", file, err)}
}
