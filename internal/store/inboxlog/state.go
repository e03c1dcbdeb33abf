package inboxlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	stateName  = "state"
	stateMagic = "homingst"
	stateSlot  = 4096 // bytes; there are two
)

// state is the file that says durably what the log must have, so that what is
// gone is told from what never was. It is written in place, one slot after the
// other, and so needs no room on the disk. What it says stays true for ever,
// however old the slot is that can be read.
type state struct {
	mu     sync.Mutex // guards the rest
	file   vfs.File   // nil: there is no file
	named  bool       // the file's name is durable
	number uint64     // of the last slot written
	facts
}

// facts are what a state file says.
type facts struct {
	oldest uint32   // epoch of the first segment; those before it are not needed
	synced position // everything before it was synced
}

// readState reads the state file of the log in dir. ok is false if there is
// none; damaged says that there is one of which nothing can be read.
func readState(fs vfs.FS, dir string) (f facts, number uint64, ok, damaged bool, err error) {
	path := fs.PathJoin(dir, stateName)
	file, err := fs.Open(path)
	if isNotExist(err) {
		return f, 0, false, false, nil
	}
	if err != nil {
		return f, 0, false, false, fmt.Errorf("open %s: %w", path, err)
	}
	defer file.Close()
	b := make([]byte, 2*stateSlot)
	n, err := file.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return f, 0, false, false, fmt.Errorf("read %s: %w", path, err)
	}
	clear(b[n:])
	for at := 0; at < len(b); at += headerCopyAt {
		h, le := b[at:at+headerBytes], binary.LittleEndian
		if string(h[:8]) != stateMagic || le.Uint32(h[44:]) != crc32.Checksum(h[:44], castagnoli) {
			continue
		}
		if v := le.Uint32(h[8:]); v > formatVersion {
			return f, 0, false, false, &VersionError{File: path, Version: v}
		}
		if k := le.Uint64(h[16:]); !ok || k > number {
			ok, number = true, k
			f = facts{oldest: le.Uint32(h[12:]), synced: position(le.Uint64(h[24:]))}
		}
	}
	return f, number, ok, !ok, nil
}

// encode returns the slot with the given number.
func (f facts) encode(number uint64) []byte {
	b := make([]byte, stateSlot)
	le := binary.LittleEndian
	copy(b, stateMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], f.oldest)
	le.PutUint64(b[16:], number)
	le.PutUint64(b[24:], uint64(f.synced))
	le.PutUint64(b[32:], uint64(time.Now().UnixMilli()))
	putHeaderCRC(b)
	copy(b[headerCopyAt:], b[:headerBytes])
	return b
}

// load reads the state file for a log that goes on writing. It reports whether
// there is one that says something.
func (st *state) load(fs vfs.FS, dir string) (ok, damaged bool, err error) {
	st.facts, st.number, ok, damaged, err = readState(fs, dir)
	if err != nil || !ok {
		return false, damaged, err
	}
	path := fs.PathJoin(dir, stateName)
	if st.file, err = fs.OpenReadWrite(path, category); err != nil {
		return false, false, fmt.Errorf("open %s: %w", path, err)
	}
	return true, false, nil
}

// write makes f durable. If there is no file yet, it is made. exists reports
// whether after an error a file may say something else.
func (st *state) write(l *Log, f facts) (exists bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.writeLocked(l, f)
}

func (st *state) writeLocked(l *Log, f facts) (exists bool, err error) {
	f.oldest, f.synced = max(f.oldest, st.oldest), max(f.synced, st.synced)
	path := l.join(stateName)
	if st.file == nil {
		if err := st.create(l, f); err != nil {
			return st.file != nil, err
		}
	} else if f != st.facts {
		// After an error the same slot is written again as a whole, so a
		// second sync cannot report success for what the first has lost.
		number := st.number + 1
		if _, err := st.file.WriteAt(f.encode(number), int64(number%2)*stateSlot); err != nil {
			return true, fmt.Errorf("write %s: %w", path, err)
		}
		if err := st.file.SyncData(); err != nil {
			return true, fmt.Errorf("sync %s: %w", path, err)
		}
		st.number, st.facts = number, f
	}
	if !st.named {
		if err := l.syncDir(); err != nil {
			return true, err
		}
		st.named = true
	}
	return true, nil
}

// create makes the file, complete before it has its name.
func (st *state) create(l *Log, f facts) error {
	path := l.join(stateName)
	temp := path + tempSuffix
	file, err := l.fs.Create(temp, category)
	if err != nil {
		return fmt.Errorf("create %s: %w", temp, err)
	}
	if _, err = file.WriteAt(append(f.encode(2), f.encode(1)...), 0); err == nil {
		err = file.SyncData()
	}
	if err == nil {
		err = l.fs.Rename(temp, path)
	}
	if err != nil {
		file.Close()
		_ = l.fs.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	st.file, st.number, st.facts = file, 2, f
	return nil
}

// begin makes the file if there is none, for a log whose newest segment is
// epoch. A log of older segments only has none: an older homing may go on with
// it and would not keep the file true. A failure costs evidence only.
func (st *state) begin(l *Log, epoch uint32) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.file != nil && st.named {
		return
	}
	f := facts{oldest: epoch}
	l.ix.mu.Lock()
	if len(l.ix.segs) > 0 {
		f.oldest = l.ix.segs[0].epoch
	}
	l.ix.mu.Unlock()
	if _, err := st.writeLocked(l, f); err != nil {
		l.log.Warn("no state file for the inbox log: a missing segment may go unnoticed; trying again with the next segment", "error", err)
	}
}

func (st *state) close() {
	if st.file != nil {
		st.file.Close()
		st.file = nil
	}
}
