package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble's logs and manifests are chunks in blocks of 32 KiB; its package
// record has the format. Read here is where the chain of chunks ends, which
// Pebble itself does not tell.
const (
	chunkBlock   = 32 << 10
	chunkLegacy  = 7  // bytes of the header of types 1 to 4: of manifests
	chunkRecycle = 11 // of types 5 to 8, with the number of the log
	chunkSync    = 19 // of types 9 to 12, with how far the log was synced
)

// chunks is what scanChunks found.
type chunks struct {
	size   int64 // of the file
	end    int64 // where no intact chunk follows; size if all of it is intact
	behind int   // intact chunks behind end
}

// scanChunks reads the log or manifest at path.
func scanChunks(fsys vfs.FS, path string) (chunks, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return chunks{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return chunks{}, fmt.Errorf("read %s: %w", path, err)
	}
	n, _ := markNumber(fsys.PathBase(path))
	c := chunks{size: int64(len(b))}
	s := chunkScanner{b: b, log: uint32(n), manifest: n&manifestBit != 0}
	pos := 0
	for {
		size, pad, end := s.at(pos)
		if end {
			c.end = int64(pos + size)
			return c, nil
		}
		if size == 0 {
			if pad && pos+s.rest(pos) <= len(b) {
				pos += s.rest(pos)
				continue
			}
			break
		}
		pos += size
	}
	c.end = int64(pos)
	for pos++; pos < len(b); {
		if size, _, end := s.at(pos); size > 0 && !end {
			c.behind++
			pos += size
		} else {
			pos++
		}
	}
	return c, nil
}

type chunkScanner struct {
	b        []byte
	log      uint32 // number in the chunks
	manifest bool
}

// rest is how many bytes the block has from pos on.
func (s *chunkScanner) rest(pos int) int { return chunkBlock - pos%chunkBlock }

// at looks for a chunk at pos and returns its size, 0 if there is none. pad:
// the rest of the block is zeros, too short for a chunk. end: it is the trailer
// that ends a log.
func (s *chunkScanner) at(pos int) (size int, pad, end bool) {
	left := min(s.rest(pos), len(s.b)-pos)
	b := s.b[pos : pos+left]
	smallest := chunkSync
	if s.manifest {
		smallest = chunkLegacy
	}
	if s.rest(pos) < smallest && allZero(b) {
		return 0, true, false
	}
	if left < chunkLegacy {
		return 0, false, false
	}
	length, typ := int(binary.LittleEndian.Uint16(b[4:])), b[6]
	header := 0
	switch {
	case s.manifest && typ >= 1 && typ <= 4:
		header = chunkLegacy
	case !s.manifest && typ >= 5 && typ <= 8:
		header = chunkRecycle
	case !s.manifest && typ >= 9 && typ <= 12:
		header = chunkSync
	default:
		return 0, false, false
	}
	if left < header {
		return 0, false, false
	}
	if !s.manifest {
		log := binary.LittleEndian.Uint32(b[7:])
		if typ == 5 && length == 0 && log == s.log+1 && binary.LittleEndian.Uint32(b) == 0 {
			return header, false, true
		}
		if log != s.log {
			return 0, false, false
		}
	}
	if left < header+length || binary.LittleEndian.Uint32(b) != chunkCRC(b[6:header+length]) {
		return 0, false, false
	}
	return header + length, false, false
}

// chunkCRC is Pebble's masked CRC-32C.
func chunkCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
