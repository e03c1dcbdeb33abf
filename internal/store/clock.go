package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/homing-mq/homing/internal/clock"
)

// The file clockName in a store's directory has the state of the server's clock
// (see internal/clock), as one line of text:
//
//	homing-clock 1 offset=<ms> time=<Unix ms> crc=<CRC-32C of what is before " crc", 8 hexadecimal digits>
//
// It is written when the clock is first used and when the offset changes: as
// clockName.tmp, which is synced and then takes the name.
const (
	clockName   = "clock"
	clockFormat = "homing-clock 1 offset=%d time=%d"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keepClock gives the clock the state that is in the store's directory, and lets
// it save another. The store is locked.
func keepClock(o Options) {
	name := o.FS.PathJoin(o.Dir, clockName)
	state, err := readClock(o.FS, name)
	if err != nil {
		o.Logger.Error("the clock's offset is lost; time goes on from the last one in the inbox log, "+
			"and how long the server was down counts as nothing", "file", name, "error", err)
		state = &clock.State{Lost: true}
	}
	o.Clock.Keep(state, func(s clock.State) error { return writeClock(o.FS, o.Dir, s) })
}

// errClockForm says that a clock file is damaged.
var errClockForm = errors.New("it does not match its checksum, or has an unknown form")

// readClock returns the state in the file, nil if there is no file.
func readClock(fsys vfs.FS, name string) (*clock.State, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var s clock.State
	if _, err := fmt.Sscanf(string(b), clockFormat, &s.Offset, &s.Time); err != nil || !bytes.Equal(b, clockLine(s)) {
		return nil, errClockForm
	}
	return &s, nil
}

func clockLine(s clock.State) []byte {
	b := fmt.Appendf(nil, clockFormat, s.Offset, s.Time)
	return fmt.Appendf(b, " crc=%08x\n", crc32.Checksum(b, castagnoli))
}

// writeClock makes s the state in the directory, durably.
func writeClock(fsys vfs.FS, dir string, s clock.State) error {
	name := fsys.PathJoin(dir, clockName)
	temp := name + ".tmp"
	f, err := fsys.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	_, err = f.Write(clockLine(s))
	if err == nil {
		err = f.Sync()
	}
	f.Close()
	if err != nil {
		return fmt.Errorf("write %s: %w", temp, err)
	}
	if err := fsys.Rename(temp, name); err != nil {
		return fmt.Errorf("rename %s: %w", temp, err)
	}
	return syncDirs(fsys, dir)
}
